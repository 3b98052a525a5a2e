//! Some faults in every command that changes the kernel; `cargo xtask faults` injects many.
use integration::{
    faults::{self, KINDS, SCENARIOS},
    netns::isolated,
};

/// A system call that fails, a request that the kernel refuses, or a kill, by turns, in the middle
/// of each command: afterwards the command's end is clear, and the next command repairs.
#[test]
fn a_fault_in_any_command_is_told_and_repaired() {
    println!("{}", faults::HEADER);
    let mut findings = Vec::new();
    for (scenario, kind) in SCENARIOS.iter().zip(KINDS.into_iter().cycle()) {
        let outcome = isolated(move || faults::walk(scenario, kind, (1, 0), |_| {}));
        println!("{outcome}");
        findings.extend(outcome.findings);
    }
    assert_eq!(findings, Vec::<String>::new());
}
