//! The project's own tool: `cargo xtask VERB`. It installs what a verb needs, with a message,
//! and changes nothing else on the machine.
#![forbid(unsafe_code)]

mod bpf;
mod build;
mod check;
mod faults;
mod fuzz;
mod install;
mod joined;
mod packaging;
mod repeat;
mod run;
mod seeds;
mod slurm;
mod soak;
mod ssh;
mod suite;
mod tally;
mod test;
mod test_vm;
mod testing;
mod verifier;
mod vm;
mod workloads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask run -- load topologies/p2plab.yaml   emulate the P2PLab topology and check it
  cargo xtask run --hosts 2 -- bench scale --full  5,760 peers on two VMs, a processor for each
  cargo xtask test                                 everything CI runs
  cargo xtask vm                                   a shell on a kernel with fq
  cargo xtask vm -- ping -c 3 127.0.0.1            one command there";

/// Builds, runs and tests emu.
#[derive(Parser)]
#[command(name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run `emu ARGS` on this kernel if it is suitable, otherwise in the VM.
    Run {
        /// Run in this number of VMs, the hosts of one network; each gets `--rank R --size
        /// N`, too.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(vm::hosts::COUNT))]
        hosts: Option<u8>,
        /// Run with this number of seeds in virtual time, and print the variation of the
        /// figures.
        #[arg(long, value_name = "N", conflicts_with_all = ["hosts", "real_time"],
              value_parser = clap::value_parser!(u64).range(1..=10_000))]
        seeds: Option<u64>,
        #[command(flatten)]
        clock: vm::ClockArguments,
        /// Arguments of emu.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a command, or a shell, in a throwaway VM that shares this machine's files.
    Vm(vm::Vm),
    /// Run everything that CI runs: style, fresh BPF object, host tests, kernel tests in the
    /// VM.
    Test(test::Test),
    /// Run the tests on several kernels: this one, two of User-Mode Linux, 6.1 and 6.12 in
    /// QEMU.
    TestVm(test_vm::TestVm),
    /// Run the tests of experiments on several hosts, under Slurm in the VM.
    TestSlurm(slurm::TestSlurm),
    /// Compare the verifier's work for each program with the table, or update it.
    Verifier(verifier::Verifier),
    /// Inject faults into every command that changes the kernel, in the VM.
    Faults(faults::Faults),
    /// Run a fuzz target under libFuzzer.
    Fuzz(fuzz::Fuzz),
    /// Do everything at once for a long time in the VM, and see what grows or is lost.
    Soak(soak::Soak),
    /// Check the style only: fmt, clippy, documentation, licences.
    Check,
    /// Compile the eBPF programs and update the committed object.
    BuildEbpf(bpf::BuildEbpf),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Run {
            hosts,
            seeds,
            clock,
            args,
        } => run::run(&args, hosts, seeds, &clock),
        Verb::Vm(vm) => vm.run(),
        Verb::Test(test) => test.run(),
        Verb::TestVm(test) => test.run(),
        Verb::TestSlurm(test) => test.run(),
        Verb::Verifier(verifier) => verifier.run(),
        Verb::Faults(faults) => faults.run(),
        Verb::Fuzz(fuzz) => fuzz.run(),
        Verb::Soak(soak) => soak.run(),
        Verb::Check => check::run(),
        Verb::BuildEbpf(build) => build.run(),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}
