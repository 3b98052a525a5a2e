//! `cargo xtask check`: formatting, lints, documentation, licences.
use std::process::Command;

use crate::build::{cargo, on_path, succeed};

/// Packages whose documentation is built.
const DOCUMENTED: [&str; 7] = [
    "emu-bench",
    "emu-cli",
    "emu-common",
    "emu-kernel",
    "emu-model",
    "emu-report",
    "emu-runner",
];

/// The checks, with their names.
pub fn steps() -> Vec<(&'static str, Option<Command>)> {
    let step = |args: &[&str]| {
        let mut command = cargo();
        command.args(args);
        Some(command)
    };
    let mut doc = cargo();
    doc.args(["doc", "--quiet", "--no-deps"]);
    for package in DOCUMENTED {
        doc.args(["--package", package]);
    }
    doc.env("RUSTDOCFLAGS", "-D warnings");
    vec![
        ("formatting", step(&["fmt", "--all", "--check"])),
        (
            "clippy",
            step(&[
                "clippy",
                "--quiet",
                "--workspace",
                "--exclude",
                "emu-ebpf",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        ("documentation", Some(doc)),
        (
            "licences and bans (cargo deny)",
            on_path("cargo-deny")
                .then(|| step(&["deny", "check", "bans", "licenses", "sources"]))
                .flatten(),
        ),
    ]
}

/// Runs all checks.
pub fn run() -> anyhow::Result<u8> {
    let mut failed = false;
    if !on_path("cargo-deny") && std::env::var_os("CI").is_some() {
        eprintln!("xtask: building cargo-deny (cargo install --debug, a minute or two)");
        succeed(cargo().args(["install", "--quiet", "--locked", "--debug", "cargo-deny"]))?;
    }
    for (name, command) in steps() {
        let verdict = match command {
            None => "SKIPPED: not installed (cargo install cargo-deny)".to_owned(),
            Some(mut command) => match command.status() {
                Ok(status) if status.success() => "ok".to_owned(),
                Ok(status) => {
                    failed = true;
                    format!("FAILED ({status})")
                }
                Err(error) => {
                    failed = true;
                    format!("FAILED ({error})")
                }
            },
        };
        eprintln!("xtask: {name}: {verdict}");
    }
    Ok(u8::from(failed))
}
