//! Runs the tests of hosts that are reached by ssh, in the VM: a step of `cargo xtask test`.
//!
//! sshd and clush are unpacked below the build folder and not installed, since an installed
//! sshd would be reachable from outside.
use std::path::{Path, PathBuf};

use crate::{
    install::{self, Need, debian},
    suite::{self, Place},
    tally::Tally,
    vm::kernel::Kernel,
};

const PACKAGES: [&str; 2] = ["openssh-server", "clustershell"];
/// Packages that are harmless if installed.
const NEEDS: [Need; 2] = [
    Need {
        file: "/usr/bin/ssh",
        package: "openssh-client",
    },
    Need {
        file: "/usr/bin/python3",
        package: "python3",
    },
];
/// Environment variable with the folder of the unpacked files, for the tests.
const VARIABLE: &str = "EMU_SSH";

/// The folder with sshd and clush.
pub fn unpacked() -> anyhow::Result<PathBuf> {
    debian("the tests over ssh", &NEEDS)?;
    install::unpacked("ssh", &PACKAGES)
}

/// Runs the tests; skips them if the packages are not available.
pub fn run(object: &Path, print: impl Fn(&str)) -> anyhow::Result<Tally> {
    let root = match unpacked() {
        Ok(root) => root,
        Err(error) => return Ok(Tally::skipped(&format!("ssh: {error:#}"), print)),
    };
    let argv = suite::over_ssh(object)?;
    let mut command = Place::Vm(Kernel::Uml).command(&argv);
    command.env(VARIABLE, root);
    Tally::run(command, print)
}
