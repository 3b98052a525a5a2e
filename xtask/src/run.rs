//! `cargo xtask run`: emu on this kernel, or on one that can.
use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context;

use crate::{
    build,
    vm::{
        self,
        kernel::Kernel,
        virtual_time::{Arguments, VirtualTime},
    },
    workloads,
};

/// Words that need no kernel: emu answers them anywhere.
const ANYWHERE: [&str; 9] = [
    "check",
    "completions",
    "help",
    "schema",
    "--dry-run",
    "--help",
    "--version",
    "-V",
    "-h",
];

/// Runs `emu ARGS` and returns its exit status; with a number of hosts, on so many VMs.
pub fn run(args: &[String], hosts: Option<u8>, clock_arguments: &Arguments) -> anyhow::Result<u8> {
    let emu = build::packages(&["emu-cli"])?.join("emu");
    let anywhere = args.is_empty() || args.iter().any(|a| ANYWHERE.contains(&a.as_str()));
    // What a packet costs is asked of this machine's own kernel, which needs no fq for it.
    let packet = args.starts_with(&["bench".to_owned(), "packet".to_owned()]);
    let here = packet && nix::unistd::geteuid().is_root();
    if anywhere || here {
        return status(Command::new(&emu).args(args));
    }
    let mut argv = workloads::ready(args)?;
    let clock = clock_of(args, clock_arguments);
    let said = args.iter().any(|arg| arg == "--virtual-time");
    let forced = said || clock_arguments.virtual_time || clock_arguments.cpu.is_some();
    argv.push(emu.display().to_string());
    argv.extend_from_slice(args);
    let timeout = clock_arguments.wall_limit();
    if let Some(count) = hosts {
        let kernel = Kernel::quick();
        eprintln!(
            "xtask: running emu in {count} User-Mode Linux VMs ({kernel}) that share this \
             machine's files{}",
            vm::in_virtual_time(clock.is_some())
        );
        return vm::hosts::run(&kernel, count.into(), |rank| {
            let place = format!("--rank {rank} --size {count}");
            let place = place.split(' ').map(str::to_owned);
            vm::Request {
                // The first one's words are the answer.
                name: (rank > 0).then(|| vm::hosts::name(rank)),
                clock,
                timeout,
                ..vm::Request::new(argv.iter().cloned().chain(place).collect())
            }
        });
    }
    if !forced && can_run_here(&emu) {
        return status(Command::new(&argv[0]).args(&argv[1..]));
    }
    let kernel = Kernel::quick();
    if forced {
        eprintln!("xtask: running emu in a User-Mode Linux VM ({kernel}) in virtual time");
    } else {
        vm::announce("emu", &kernel, clock.is_some());
    }
    kernel.run(&vm::Request {
        clock,
        timeout,
        ..vm::Request::new(argv)
    })
}

/// Commands whose subject is the network: in a VM they take virtual time by themselves.
/// What measures processors, or waits for people or other hosts, takes the machine's.
const NETWORK: [&[&str]; 8] = [
    &["load"],
    &["verify"],
    &["run"],
    &["bench", "accuracy"],
    &["bench", "folding"],
    &["bench", "impairments"],
    &["bench", "scale"],
    &["bench", "vnodes"],
];

/// How the clock of the VM goes. `--virtual-time` and `--real-time` may also stand among
/// emu's own arguments.
fn clock_of(args: &[String], clock: &Arguments) -> Option<VirtualTime> {
    let says = |word: &str| args.iter().any(|arg| arg == word);
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let network = NETWORK.iter().any(|command| words.starts_with(command));
    let default = says("--virtual-time") || (network && !says("--real-time"));
    clock.clock(default)
}

/// What emu itself says of this kernel and user, without a word.
fn can_run_here(emu: &Path) -> bool {
    Command::new(emu)
        .args(["doctor", "--json"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command and gives its exit status as a shell would.
pub fn status(command: &mut Command) -> anyhow::Result<u8> {
    let status = command
        .status()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}
