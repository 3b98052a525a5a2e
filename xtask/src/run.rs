//! `cargo xtask run`: emu on this kernel, or on one that can.
use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context;

use crate::{
    build,
    vm::{self, kernel::Kernel},
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
pub fn run(args: &[String], hosts: Option<u8>) -> anyhow::Result<u8> {
    let emu = build::packages(&["emu-userspace"])?.join("emu");
    let anywhere = args.is_empty() || args.iter().any(|a| ANYWHERE.contains(&a.as_str()));
    // What a packet costs is asked of this machine's own kernel, which needs no fq for it.
    let packet = args.starts_with(&["bench".to_owned(), "packet".to_owned()]);
    let here = packet && nix::unistd::geteuid().is_root();
    if anywhere || here {
        return status(Command::new(&emu).args(args));
    }
    let mut argv = workloads::ready(args)?;
    argv.push(emu.display().to_string());
    argv.extend_from_slice(args);
    if let Some(count) = hosts {
        let kernel = Kernel::quick();
        eprintln!(
            "xtask: running emu in {count} User-Mode Linux VMs ({kernel}) that share this \
             machine's files"
        );
        return vm::hosts::run(&kernel, count.into(), |rank| {
            let place = format!("--rank {rank} --size {count}");
            let place = place.split(' ').map(str::to_owned);
            vm::Request {
                // The first one's words are the answer.
                name: (rank > 0).then(|| vm::hosts::name(rank)),
                ..vm::Request::new(argv.iter().cloned().chain(place).collect())
            }
        });
    }
    if can_run_here(&emu) {
        return status(Command::new(&argv[0]).args(&argv[1..]));
    }
    let kernel = Kernel::quick();
    vm::announce("emu", &kernel);
    kernel.run(&vm::Request::new(argv))
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
