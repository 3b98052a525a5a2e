//! Tests of hosts that are reached by ssh, in the VM: a step of `cargo xtask test`.
//!
//! sshd and clush are unpacked below the build folder and not installed: an installed sshd
//! would serve the world.
use std::path::Path;

use crate::{
    install::{self, Need, debian},
    suite::{self, Place},
    tally::Tally,
    vm::kernel::Kernel,
};

const PACKAGES: [&str; 2] = ["openssh-server", "clustershell"];
/// What is harmless where it is installed.
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
/// Tells the tests where the unpacked files are.
const VARIABLE: &str = "EMU_SSH";

/// Runs the tests; skips them where the packages cannot be had.
pub fn run(object: &Path, print: impl Fn(&str)) -> anyhow::Result<Tally> {
    let what = "the tests over ssh";
    let root = match debian(what, &NEEDS).and_then(|()| install::unpacked("ssh", &PACKAGES)) {
        Ok(root) => root,
        Err(error) => return Ok(Tally::skipped(&format!("ssh: {error:#}"), print)),
    };
    let argv = suite::over_ssh(object)?;
    let mut command = Place::Vm(Kernel::Uml).command(&argv);
    command.env(VARIABLE, root);
    Tally::run(command, print)
}
