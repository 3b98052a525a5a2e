//! `cargo xtask test-slurm`: experiments over several hosts under a real Slurm.
//!
//! Slurm runs in the VM alone. Its packages are unpacked below the build folder and
//! not installed: no service is started, no user made, nothing enabled.
#![expect(clippy::print_stdout, reason = "the report of the tests")]
use std::path::{Path, PathBuf};

use clap::Args;

use crate::{
    build::on_path,
    install,
    suite::{self, Place},
    tally::Tally,
    vm,
};

/// The packages, which are unpacked with their dependencies.
const PACKAGES: [&str; 2] = ["slurm-wlm", "munge"];
/// Environment variable with the folder of Slurm, for the tests.
const VARIABLE: &str = "EMU_SLURM";

/// Tests that `cargo xtask test` runs: one experiment on one, two and four nodes, and a lost
/// node.
pub const SMALL: [&str; 2] = ["same::", "ends_the_run"];

/// Arguments of `test-slurm`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask test-slurm              a controller and four nodes in the VM
  cargo xtask test-slurm nodes        only tests whose name has `nodes`")]
pub struct TestSlurm {
    /// Only tests whose name has this.
    #[arg(default_value = "")]
    filter: String,
}

impl TestSlurm {
    pub fn run(self) -> anyhow::Result<u8> {
        let object = suite::object(false)?;
        let tally = run(&object, &[&self.filter], |line| println!("{line}"))?;
        let ran = tally.passed + tally.skipped > 0;
        Ok(u8::from(!tally.ok() || !ran))
    }
}

/// Runs the tests in the VM; skips them if Slurm is not available.
pub fn run(object: &Path, filters: &[&str], print: impl Fn(&str)) -> anyhow::Result<Tally> {
    let slurm = match unpacked() {
        Ok(slurm) => slurm,
        Err(error) => return Ok(Tally::skipped(&format!("slurm: {error:#}"), print)),
    };
    let argv = suite::slurm(object, filters)?;
    let mut command = Place::Vm(vm::quick_kernel()).command(&argv);
    command.env(VARIABLE, slurm);
    Tally::run(command, print)
}

/// The folder below which Slurm's files are, as a Debian machine has them below `/`.
pub fn unpacked() -> anyhow::Result<PathBuf> {
    if on_path("slurmctld") && on_path("slurmd") && on_path("munged") {
        return Ok("/".into());
    }
    install::unpacked("slurm", &PACKAGES)
}
