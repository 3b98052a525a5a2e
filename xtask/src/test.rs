//! `cargo xtask test`: everything CI runs, one summary at the end.
#![expect(clippy::print_stdout, reason = "the report of the tests")]
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, bail};
use clap::Args;

use crate::{
    bpf, build, check,
    install::{Need, debian},
};

/// Real programs that the end-to-end tests run.
const PROGRAMS: [Need; 4] = [
    Need {
        file: "/usr/sbin/tc",
        package: "iproute2",
    },
    Need {
        file: "/usr/bin/ping",
        package: "iputils-ping",
    },
    Need {
        file: "/usr/bin/iperf3",
        package: "iperf3",
    },
    Need {
        file: "/usr/sbin/ethtool",
        package: "ethtool",
    },
];

/// Arguments of `test`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask test                  everything
  cargo xtask test --e2e tcp        only end-to-end tests whose name has `tcp`
  cargo xtask test --host           only what needs no VM")]
pub struct Test {
    /// Only the end-to-end tests in the VM, or those whose name has this.
    #[arg(long, value_name = "FILTER", num_args = 0..=1, default_missing_value = "")]
    e2e: Option<String>,
    /// Only what runs on the machine itself.
    #[arg(long, conflicts_with = "e2e")]
    host: bool,
}

/// What the test runners counted.
#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
    failed_steps: Vec<&'static str>,
}

impl Test {
    pub fn run(self) -> anyhow::Result<u8> {
        let mut counts = Counts::default();
        let all = self.e2e.is_none() && !self.host;
        if all {
            counts.step("style", || Ok(check::run()? == 0))?;
        }
        let object = build::target().join("bpf/fresh/emu.bpf.o");
        counts.step("fresh BPF object", || bpf::build(&object).map(|()| true))?;
        if self.e2e.is_none() {
            counts.step("committed BPF object is current", || match bpf::check() {
                Ok(()) => Ok(true),
                Err(error) => {
                    eprintln!("{error:#}");
                    Ok(false)
                }
            })?;
            counts.tests("host tests", host_tests(&object))?;
            counts.tests("programs on this kernel", kernel_tests(&object)?)?;
        }
        if !self.host {
            let filter = self.e2e.unwrap_or_default();
            counts.tests("end to end in the VM", e2e_tests(&object, &filter)?)?;
        }
        Ok(counts.finish())
    }
}

fn cargo_test(object: &PathBuf) -> Command {
    let mut command = build::cargo();
    command.arg("test").env("EMU_BPF_OBJECT", object);
    command
}

fn host_tests(object: &PathBuf) -> Command {
    let mut command = cargo_test(object);
    command.args([
        "--workspace",
        "--exclude",
        "emu-ebpf",
        "--exclude",
        "integration",
    ]);
    command
}

/// `BPF_PROG_TEST_RUN` tests: on this kernel as root, else in the VM.
fn kernel_tests(object: &PathBuf) -> anyhow::Result<Command> {
    let binary = test_binary(object, "prog_test_run")?;
    if nix::unistd::geteuid().is_root() {
        return Ok(Command::new(binary));
    }
    Ok(in_vm(vec![binary.display().to_string()]))
}

fn e2e_tests(object: &PathBuf, filter: &str) -> anyhow::Result<Command> {
    debian("the end-to-end tests", &PROGRAMS)?;
    let mut build = build::cargo();
    build
        .args(["build", "--quiet", "--package", "emu-userspace"])
        .env("EMU_BPF_OBJECT", object);
    build::succeed(&mut build)?;
    let binary = test_binary(object, "e2e")?;
    // One at a time: the tests measure, and the VM has one processor.
    // What the tests print is what they measured.
    let mut argv = vec![
        binary.display().to_string(),
        "--test-threads=1".to_owned(),
        "--show-output".to_owned(),
    ];
    if !filter.is_empty() {
        argv.push(filter.to_owned());
    }
    Ok(in_vm(argv))
}

/// The same command through `xtask vm`, so that its output can be read.
fn in_vm(argv: Vec<String>) -> Command {
    let me = std::env::current_exe().unwrap_or_else(|_| "xtask".into());
    let mut command = Command::new(me);
    command.args(["vm", "--timeout", "2400", "--"]).args(argv);
    command
}

/// Builds a test of the integration crate and finds its binary.
fn test_binary(object: &PathBuf, name: &str) -> anyhow::Result<PathBuf> {
    let output = cargo_test(object)
        .args(["--quiet", "--package", "integration", "--test", name])
        .args(["--no-run", "--message-format=json"])
        .stderr(Stdio::inherit())
        .output()
        .context("build the integration tests")?;
    if !output.status.success() {
        bail!("the integration test {name} does not build");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| line.split("\"executable\":\"").nth(1))
        .filter_map(|rest| rest.split('"').next())
        .map(PathBuf::from)
        .next_back()
        .with_context(|| format!("cargo names no binary of {name}"))
}

/// The number before a word of `test result: ok. 3 passed; 0 failed; …`.
fn number_before(line: &str, word: &str) -> u32 {
    line.split([';', '.'])
        .map(str::trim)
        .find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
        .unwrap_or(0)
}

impl Counts {
    fn step(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let ok = work().with_context(|| name)?;
        if !ok {
            self.failed_steps.push(name);
        }
        let verdict = if ok { "ok" } else { "FAILED" };
        println!(
            "xtask: {name}: {verdict} ({:.0} s)",
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Runs a test program, passes its output on and counts its summaries.
    fn tests(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<()> {
        let before = (self.passed, self.skipped);
        let start = Instant::now();
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
                println!("{line}");
                if let Some(summary) = line.strip_prefix("test result: ") {
                    self.passed += number_before(summary, "passed");
                    self.failed += number_before(summary, "failed");
                }
                // Tests say so themselves: libtest has no word for it.
                if line.starts_with("SKIPPED") {
                    self.skipped += 1;
                }
            }
        }
        let status = child.wait()?;
        if !status.success() || self.passed == before.0 {
            self.failed_steps.push(name);
        }
        let verdict = if status.success() { "ok" } else { "FAILED" };
        println!(
            "xtask: {name}: {verdict} ({:.0} s)",
            start.elapsed().as_secs_f64()
        );
        Ok(())
    }

    fn finish(self) -> u8 {
        for name in &self.failed_steps {
            println!("xtask: FAILED: {name}");
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        u8::from(self.failed > 0 || !self.failed_steps.is_empty())
    }
}
