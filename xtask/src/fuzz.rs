//! `cargo xtask fuzz`: a fuzz target under libFuzzer, with the nightly that also compiles the
//! BPF programs. What it finds is an input for `tests/fuzz/corpus`, and then a test.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    bpf,
    build::{self, on_path, root, succeed},
};

/// The crate of the targets under libFuzzer, which is outside of the workspace.
const CRATE: &str = "tests/fuzz/libfuzzer";
const VERSION: &str = "0.13.2";
/// Seconds after which one input counts as a hang.
const HANG_S: u32 = 10;
/// Largest input that libFuzzer makes, in bytes.
const MOST_BYTES: u32 = 16 << 10;

/// Arguments of `fuzz`.
#[derive(Args)]
#[command(after_help = "\
Inputs that reach new code are kept below target/fuzz/corpus, inputs that fail below
target/fuzz/artifacts: copy the latter to tests/fuzz/corpus/TARGET, where the tests replay it.
The target `packet` runs the BPF programs on this kernel, so it needs root.

Examples:
  cargo xtask fuzz topology                one minute
  cargo xtask fuzz all --minutes 10        each target for ten minutes")]
pub struct Fuzz {
    /// A target of tests/fuzz, or `all`.
    target: String,
    /// Minutes for each target.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    minutes: u32,
}

impl Fuzz {
    pub fn run(self) -> anyhow::Result<u8> {
        let known = targets()?;
        let chosen: Vec<&String> = match self.target.as_str() {
            "all" => known.iter().collect(),
            name => known.iter().filter(|known| *known == name).collect(),
        };
        if chosen.is_empty() {
            bail!(
                "there is no fuzz target {}; there are {}",
                self.target,
                known.join(", ")
            );
        }
        let nightly = bpf::nightly()?;
        let cargo_fuzz = cargo_fuzz()?;
        let mut failed = Vec::new();
        for name in chosen {
            let mut command = fuzz(&cargo_fuzz, nightly, name, self.minutes)?;
            let status = command.status().context("start cargo-fuzz")?;
            if !status.success() {
                failed.push(name.as_str());
            }
        }
        if failed.is_empty() {
            return Ok(0);
        }
        eprintln!("xtask: failed: {}", failed.join(", "));
        Ok(1)
    }
}

/// The names of the targets: the programs of the crate.
fn targets() -> anyhow::Result<Vec<String>> {
    let path = root().join(CRATE).join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(programs(&text))
}

/// The names of the programs in a manifest.
fn programs(manifest: &str) -> Vec<String> {
    let parts = manifest.split("[[bin]]").skip(1);
    let name = |part: &str| {
        let line = part.lines().find_map(|line| line.strip_prefix("name = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    parts.filter_map(name).collect()
}

/// The program cargo-fuzz, built below the build folder where it is not installed.
fn cargo_fuzz() -> anyhow::Result<PathBuf> {
    if on_path("cargo-fuzz") {
        return Ok("cargo-fuzz".into());
    }
    let tools = build::target().join("tools");
    let program = tools.join("bin/cargo-fuzz");
    if !program.is_file() {
        eprintln!("xtask: building cargo-fuzz {VERSION} (cargo install, two minutes)");
        let mut install = build::cargo();
        install
            .args(["install", "--quiet", "--locked", "--debug", "cargo-fuzz"])
            .args(["--version", VERSION, "--root"])
            .arg(&tools)
            .env("CARGO_TARGET_DIR", tools.join("build"));
        succeed(&mut install)?;
    }
    Ok(program)
}

/// The command that fuzzes one target.
fn fuzz(program: &Path, nightly: &str, name: &str, minutes: u32) -> anyhow::Result<Command> {
    let folder = build::target().join("fuzz");
    let found = folder.join("corpus").join(name);
    let artifacts = folder.join("artifacts").join(name);
    for path in [&found, &artifacts] {
        fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    }
    let mut command = Command::new(program);
    command
        // Code without unsafe blocks has nothing that a sanitizer would find.
        .args(["fuzz", "run", "--fuzz-dir", ".", "--sanitizer", "none"])
        .args(["--release", "--debug-assertions", name])
        .arg(&found)
        .arg(root().join("tests/fuzz/corpus").join(name))
        .arg("--")
        .arg(format!("-max_total_time={}", minutes * 60))
        .arg(format!("-timeout={HANG_S}"))
        .arg(format!("-max_len={MOST_BYTES}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .current_dir(root().join(CRATE))
        .env("CARGO_TARGET_DIR", &folder)
        .env("RUSTUP_TOOLCHAIN", nightly);
    for name in ["CARGO", "RUSTC"] {
        command.env_remove(name);
    }
    let words = root().join("tests/fuzz").join(format!("{name}.dict"));
    if words.is_file() {
        command.arg(format!("-dict={}", words.display()));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_has_a_corpus() {
        let targets = targets().unwrap();
        assert!(targets.contains(&"packet".to_owned()), "{targets:?}");
        for name in &targets {
            let corpus = root().join("tests/fuzz/corpus").join(name);
            assert!(corpus.read_dir().unwrap().count() > 0, "{name}");
        }
    }

    #[test]
    fn names_of_programs_are_read() {
        let text =
            "name = \"crate\"\n[[bin]]\nname = \"a\"\n\n[[bin]]\npath = \"x\"\nname = \"b\"\n";
        assert_eq!(programs(text), ["a", "b"]);
    }
}
