//! Installing what a step lacks, or saying what to install.
use std::{path::Path, process::Command, process::Stdio};

use anyhow::bail;

use crate::build::{on_path, succeed};

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
