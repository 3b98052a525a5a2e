//! `cargo xtask test-slurm`: experiments over several hosts under a real Slurm.
//!
//! Slurm runs in the VM alone. Its packages are unpacked below the build folder and
//! not installed: no service is started, no user made, nothing enabled.
#![expect(clippy::print_stdout, reason = "the report of the tests")]
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    build::{on_path, succeed, target},
    suite::{self, Place},
    tally::Tally,
    vm::kernel::Kernel,
};

/// The packages; what they need comes with them.
const PACKAGES: [&str; 2] = ["slurm-wlm", "munge"];
/// Tells the tests where Slurm is.
const VARIABLE: &str = "EMU_SLURM";

/// Tests for every day: one experiment over one, two and four nodes, and a lost node.
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
        let object = suite::fresh_object()?;
        let tally = run(&object, &[&self.filter], |line| println!("{line}"))?;
        let ran = tally.passed + tally.skipped > 0;
        Ok(u8::from(!tally.ok() || !ran))
    }
}

/// Runs the tests in the VM; skips them where Slurm cannot be had.
pub fn run(object: &Path, filters: &[&str], print: impl Fn(&str)) -> anyhow::Result<Tally> {
    let slurm = match unpacked() {
        Ok(slurm) => slurm,
        Err(error) => return Ok(Tally::skipped(&format!("slurm: {error:#}"), print)),
    };
    let argv = suite::slurm(object, filters)?;
    let mut command = Place::Vm(Kernel::Uml).command(&argv);
    command.env(VARIABLE, slurm);
    Tally::run(command, print)
}

/// The folder below which Slurm's files are, as a Debian machine has them below `/`.
fn unpacked() -> anyhow::Result<PathBuf> {
    if on_path("slurmctld") && on_path("slurmd") && on_path("munged") {
        return Ok("/".into());
    }
    let folder = target().join("slurm");
    let (archives, root) = (folder.join("archives"), folder.join("root"));
    if root.exists() {
        return Ok(root);
    }
    if !on_path("apt-get") || !on_path("dpkg") {
        bail!("{} cannot be fetched without apt-get", PACKAGES.join(" "));
    }
    eprintln!(
        "xtask: fetching {} (apt-get) and unpacking them into {}; nothing is installed",
        PACKAGES.join(" "),
        root.display()
    );
    fs::create_dir_all(archives.join("partial"))
        .with_context(|| format!("make {}", archives.display()))?;
    if let Err(error) = fetch(&archives) {
        if !nix::unistd::geteuid().is_root() {
            return Err(error.context("as root: apt-get update"));
        }
        // The lists of a fresh machine are empty or old.
        succeed(quiet("apt-get").args(["update", "-qq"]))?;
        fetch(&archives)?;
    }
    // Complete, or not there at all.
    let partial = folder.join("partial");
    let _ = fs::remove_dir_all(&partial);
    for archive in fs::read_dir(&archives)?.flatten() {
        let path = archive.path();
        if path.extension().is_some_and(|e| e == "deb") {
            let mut unpack = Command::new("dpkg");
            succeed(unpack.arg("--extract").arg(&path).arg(&partial))?;
        }
    }
    fs::rename(&partial, &root).context("unpack Slurm")?;
    Ok(root)
}

fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Fetches the packages and what they need and this machine lacks.
fn fetch(archives: &Path) -> anyhow::Result<()> {
    let mut apt = quiet("apt-get");
    apt.args(["install", "--download-only", "--yes", "-qq"])
        .arg("--no-install-recommends")
        .arg("-o")
        .arg(format!("Dir::Cache::archives={}", archives.display()))
        // Nothing is installed, so an ordinary user may.
        .args(["-o", "Debug::NoLocking=1"])
        .args(PACKAGES);
    succeed(&mut apt)
}
