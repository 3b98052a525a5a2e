//! `cargo xtask run`: runs emu on this kernel, or on a suitable one in a VM.
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Context;

use crate::{
    build, seeds,
    vm::{self, ClockArguments, Workspace, virtual_time},
    workloads,
};

/// Commands and options that need no kernel support.
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

/// Runs `emu ARGS` and returns its exit status; with a number of hosts, on as many VMs.
pub fn run(
    args: &[String],
    hosts: Option<u8>,
    seeds: Option<u64>,
    clock_arguments: &ClockArguments,
) -> anyhow::Result<u8> {
    let emu = build::binaries(&["emu"])?.join("emu");
    let anywhere = args.is_empty() || args.iter().any(|a| ANYWHERE.contains(&a.as_str()));
    // The cost of a packet is measured on this machine's own kernel, which needs no fq for
    // it.
    let packet = args.starts_with(&["bench".to_owned(), "packet".to_owned()]);
    let here = packet && nix::unistd::geteuid().is_root();
    if anywhere || here {
        return status(Command::new(&emu).args(args));
    }
    let mut argv = workloads::ready(args)?;
    let asked = Asked::of(args, clock_arguments);
    let forced = asked.is_virtual || clock_arguments.cpu.is_some();
    let clock = clock_arguments.clock(asked.is_virtual || (asked.is_network && !asked.is_real));
    let timeout = clock_arguments.wall_limit();
    argv.push(emu.display().to_string());
    argv.extend_from_slice(args);
    if let Some(count) = seeds {
        let clock = clock.unwrap_or_default();
        return seeds::run(&argv, count, clock);
    }
    if let Some(count) = hosts {
        let kernel = vm::quick_kernel();
        eprintln!(
            "xtask: running emu in {count} User-Mode Linux VMs ({kernel}) that share this \
             machine's files{}",
            vm::in_virtual_time(clock.is_some())
        );
        return vm::hosts::run(&Workspace, &kernel, count.into(), |rank| {
            let place = format!("--rank {rank} --size {count}");
            let place = place.split(' ').map(str::to_owned);
            vm::Request {
                // The output of the first VM is the result.
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
    let kernel = vm::quick_kernel();
    let clock = clock.filter(|_| {
        let usable = forced || virtual_time::works(&Workspace, &kernel);
        if !usable {
            eprintln!("xtask: virtual time does not work here; using the machine's clock");
        }
        usable
    });
    if forced {
        eprintln!("xtask: running emu in a User-Mode Linux VM ({kernel}) in virtual time");
    } else {
        vm::announce("emu", &kernel, clock.is_some());
    }
    vm::run(
        &kernel,
        &vm::Request {
            clock,
            timeout,
            ..vm::Request::new(argv)
        },
    )
}

/// Commands that measure the network: in a VM they run in virtual time by default. Commands
/// that measure processors, or wait for users or other hosts, use the machine's clock.
const NETWORK: [&[&str]; 7] = [
    &["load"],
    &["verify"],
    &["run"],
    &["bench", "accuracy"],
    &["bench", "folding"],
    &["bench", "impairments"],
    &["bench", "scale"],
];

/// The clock that the arguments ask for.
struct Asked {
    /// An emulated clock is asked for, by an option of ours or of emu's, or by the file.
    is_virtual: bool,
    /// The machine's is.
    is_real: bool,
    /// The command's subject is the network.
    is_network: bool,
}

impl Asked {
    fn of(args: &[String], clock: &ClockArguments) -> Self {
        let mut files = args.iter().filter(|arg| arg.ends_with(".yaml"));
        let named = files.find_map(|file| named_clock(Path::new(file)));
        let says = |word: &str| args.contains(&format!("--{word}-time"));
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let is_real = clock.real_time || says("real");
        let file_says = |word: &str| named.as_deref() == Some(word);
        Self {
            is_virtual: clock.virtual_time || says("virtual") || (file_says("virtual") && !is_real),
            is_real: is_real || file_says("real"),
            is_network: NETWORK.iter().any(|command| words.starts_with(command)),
        }
    }
}

/// The clock that an experiment's file asks for. A line of the right form is enough: emu
/// itself reads the file, and fails with another clock.
fn named_clock(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("clock:"))?;
    let name = line.split('#').next().unwrap_or_default().trim();
    Some(name.trim_matches(['"', '\'']).to_owned())
}

/// Whether `emu doctor` finds this kernel and user suitable, without output.
fn can_run_here(emu: &Path) -> bool {
    Command::new(emu)
        .args(["doctor", "--json"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a command and returns its exit status as a shell would.
pub fn status(command: &mut Command) -> anyhow::Result<u8> {
    let status = command
        .status()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}
