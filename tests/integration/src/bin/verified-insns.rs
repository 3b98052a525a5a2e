//! Loads every program of the object on this kernel and prints, as JSON, the number of
//! instructions that the verifier processed for each, which `cargo xtask verifier`
//! compares. Attaches no program.
#![expect(
    clippy::unwrap_used,
    reason = "a measurement that cannot go on must fail"
)]
#![expect(clippy::print_stdout, reason = "the measurement")]
use std::collections::BTreeMap;

use aya::programs::{Program, ProgramError};
use emu_common::layout::feature;
use emu_kernel::bpf;

/// A small topology suffices: the verifier looks at the types of maps, not at their sizes.
const TOPOLOGY: &str = "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2, up: 1mbit}}\n";

fn load(name: &str, program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(p) => p.load(),
        Program::CgroupDevice(p) => p.load(),
        Program::CgroupSkb(p) => p.load(),
        Program::CgroupSockopt(p) => p.load(),
        Program::CgroupSock(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSysctl(p) => p.load(),
        Program::SockOps(p) => p.load(),
        Program::Xdp(p) => p.load(),
        _ => panic!("verified-insns does not know yet how to load the program {name}"),
    }
}

fn main() {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    // The kernel removes code of features that the topology does not use before it
    // verifies.
    for (features, kind) in [(feature::ALL, ""), (0, " (plain)")] {
        let mut ebpf = bpf::open(&integration::plan(TOPOLOGY), features).unwrap();
        for (name, program) in ebpf.programs_mut() {
            load(name, program).unwrap_or_else(|e| panic!("load {name}{kind}: {e}"));
            // Kernels before 5.16 do not report this number.
            if let Some(count) = program.info().unwrap().verified_instruction_count() {
                counts.insert(format!("{name}{kind}"), count);
            }
        }
    }
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_string_lossy().into_owned();
    let report = serde_json::json!({ "release": release, "programs": counts });
    println!("{report}");
}
