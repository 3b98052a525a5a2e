//! Installing what a step lacks, or saying what to install.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use crate::build::{on_path, succeed, target};

/// A file that a step needs, and the Debian package that has it.
pub struct Need {
    /// Path of the file.
    pub file: &'static str,
    /// The package.
    pub package: &'static str,
}

/// Installs the packages of the files that are missing.
///
/// On Debian as root with apt; elsewhere it fails with the commands to run.
pub fn debian(what: &str, needs: &[Need]) -> anyhow::Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|need| !Path::new(need.file).exists())
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !on_path("apt-get") || !nix::unistd::geteuid().is_root() {
        bail!("{what} needs {list}; as root: apt-get install {list}");
    }
    eprintln!("xtask: installing {list} for {what} (apt-get)");
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    };
    let install: Vec<&str> = ["install", "--yes", "-qq", "--no-install-recommends"]
        .into_iter()
        .chain(missing.iter().copied())
        .collect();
    // The lists of a fresh machine are empty or old.
    succeed(&mut apt(&["update", "-qq"]))?;
    succeed(&mut apt(&install))
}

/// Unpacks packages below the build folder without installing them: no service is
/// started, no user made, nothing enabled. What they need and this machine lacks comes
/// with them. Gives the folder that stands for `/`.
pub fn unpacked(name: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = target().join(name);
    let (archives, root) = (folder.join("archives"), folder.join("root"));
    if root.exists() {
        return Ok(root);
    }
    let list = packages.join(" ");
    if !on_path("apt-get") || !on_path("dpkg") {
        bail!("{list} cannot be fetched without apt-get");
    }
    eprintln!(
        "xtask: fetching {list} (apt-get) and unpacking into {}; nothing is installed",
        root.display()
    );
    fs::create_dir_all(archives.join("partial"))
        .with_context(|| format!("make {}", archives.display()))?;
    if let Err(error) = fetch(&archives, packages) {
        if !nix::unistd::geteuid().is_root() {
            return Err(error.context("as root: apt-get update"));
        }
        // The lists of a fresh machine are empty or old.
        succeed(quiet("apt-get").args(["update", "-qq"]))?;
        fetch(&archives, packages)?;
    }
    // Complete, or not there at all.
    let partial = folder.join("partial");
    let _ = fs::remove_dir_all(&partial);
    extract(&archives, &partial)?;
    fs::rename(&partial, &root).with_context(|| format!("unpack {list}"))?;
    Ok(root)
}

/// Unpacks the packages in a folder.
pub fn extract(archives: &Path, root: &Path) -> anyhow::Result<()> {
    for archive in fs::read_dir(archives)?.flatten() {
        let path = archive.path();
        if path.extension().is_some_and(|e| e == "deb") {
            let mut unpack = Command::new("dpkg");
            succeed(unpack.arg("--extract").arg(&path).arg(root))?;
        }
    }
    Ok(())
}

/// A program that is told nothing and whose standard output nobody needs.
pub fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Fetches the packages and what they need and this machine lacks.
fn fetch(archives: &Path, packages: &[&str]) -> anyhow::Result<()> {
    let mut apt = quiet("apt-get");
    apt.args(["install", "--download-only", "--yes", "-qq"])
        .arg("--no-install-recommends")
        .arg("-o")
        .arg(format!("Dir::Cache::archives={}", archives.display()))
        // Nothing is installed, so an ordinary user may.
        .args(["-o", "Debug::NoLocking=1"])
        .args(packages);
    succeed(&mut apt)
}
