//! `cargo xtask check`: formatting, lints, documentation, licences.
use std::process::Command;

use crate::build::{WORKSPACE, cargo, on_path, succeed};

/// The checks, with their names.
pub fn steps() -> Vec<(&'static str, Option<Command>)> {
    let step = |args: &[&str]| {
        let mut command = cargo();
        command.args(args);
        command
    };
    let mut clippy = step(&["clippy", "--quiet", "--all-targets"]);
    clippy.args(WORKSPACE).args(["--", "-D", "warnings"]);
    let mut doc = step(&["doc", "--quiet", "--no-deps"]);
    doc.args(WORKSPACE).env("RUSTDOCFLAGS", "-D warnings");
    vec![
        ("formatting", Some(step(&["fmt", "--all", "--check"]))),
        ("clippy", Some(clippy)),
        ("documentation", Some(doc)),
        (
            "licences and bans (cargo deny)",
            on_path("cargo-deny").then(|| step(&["deny", "check", "bans", "licenses", "sources"])),
        ),
    ]
}

/// Runs all checks.
pub fn run() -> anyhow::Result<u8> {
    let mut failed = false;
    if !on_path("cargo-deny") && std::env::var_os("CI").is_some() {
        eprintln!("xtask: building cargo-deny (cargo install --debug, a minute or two)");
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "--debug", "cargo-deny"]);
        succeed(install.env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
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
