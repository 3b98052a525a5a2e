//! Builds the test programs and runs them on the machine or in a VM.
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use crate::{
    bpf, build,
    install::{Need, debian},
    vm::kernel::Kernel,
    workloads,
};

/// Real programs that the end-to-end tests run.
const PROGRAMS: [Need; 5] = [
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
        file: "/lib/systemd/systemd",
        package: "systemd",
    },
    Need {
        file: "/usr/sbin/ethtool",
        package: "ethtool",
    },
];

/// A place where a test program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine's own kernel.
    Host,
    /// In a VM with the machine's clock.
    Vm(Kernel),
    /// In a VM in virtual time.
    VirtualTime(Kernel),
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "host" => Ok(Self::Host),
            kernel => Ok(Self::Vm(kernel.parse()?)),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => write!(f, "host"),
            Self::Vm(kernel) => write!(f, "{kernel}"),
            Self::VirtualTime(kernel) => write!(f, "{kernel} in virtual time"),
        }
    }
}

impl Place {
    /// Why nothing can be loaded there, if so.
    pub fn unable(&self) -> Option<&'static str> {
        let root = nix::unistd::geteuid().is_root();
        (*self == Self::Host && !root).then_some("loading programs on this kernel needs root")
    }

    /// A command that runs another one there, with readable output.
    pub fn command(&self, argv: &[String]) -> Command {
        match self {
            Self::Host => {
                let mut command = Command::new(&argv[0]);
                command.args(&argv[1..]);
                command
            }
            Self::Vm(kernel) | Self::VirtualTime(kernel) => {
                let me = std::env::current_exe().unwrap_or_else(|_| "xtask".into());
                // A test that hangs ends itself after ten minutes and says what it
                // waits for; where even that fails, the VM is ended.
                let (whole, silence) = if kernel.is_emulated() {
                    ("7200", "900")
                } else {
                    ("2400", "700")
                };
                let mut command = Command::new(me);
                command
                    .args(["vm", "--kernel", &kernel.to_string()])
                    .args(matches!(self, Self::VirtualTime(_)).then_some("--virtual-time"))
                    .args(["--timeout", whole, "--silence", silence, "--"])
                    .args(argv);
                command
            }
        }
    }
}

/// Compiles the BPF programs from source, next to the committed object.
pub fn fresh_object() -> anyhow::Result<PathBuf> {
    let object = build::target().join("bpf/fresh/emu.bpf.o");
    bpf::build(&object)?;
    Ok(object)
}

/// The BPF programs to test: the committed ones if they belong to the sources, as a digest of
/// both says, or else, or if `fresh`, compiled now.
pub fn object(fresh: bool) -> anyhow::Result<PathBuf> {
    if !fresh && bpf::check().is_ok() {
        return Ok(bpf::committed());
    }
    fresh_object()
}

/// The committed BPF programs, if their sources have not changed.
pub fn committed_object() -> anyhow::Result<PathBuf> {
    bpf::check().context("run `cargo xtask build-ebpf`, or the tests without --quick")?;
    Ok(bpf::committed())
}

/// `cargo test` with that object.
pub fn cargo_test(object: &Path) -> Command {
    let mut command = build::cargo();
    command.arg("test");
    use_object(&mut command, object);
    command
}

/// Makes cargo build an object into emu. The committed one is the default, so that the tests
/// and `cargo build` share their results.
fn use_object(command: &mut Command, object: &Path) {
    if object != bpf::committed() {
        command.env("EMU_BPF_OBJECT", object);
    }
}

/// The tests that need neither root nor a VM: with cargo-nextest, which runs the tests of all
/// crates in parallel, if it is installed.
pub fn host_tests(object: &Path) -> Vec<(&'static str, Command)> {
    let crates = [&build::WORKSPACE[..], &["--exclude", "integration"]].concat();
    if !build::on_path("cargo-nextest") {
        let mut all = cargo_test(object);
        all.args(&crates);
        return vec![("host tests", all)];
    }
    // nextest reports on standard error, and has no tests of documentation.
    let mut tests = Command::new("sh");
    tests
        .args(["-c", "exec cargo nextest run \"$@\" 2>&1", "sh"])
        .args(&crates)
        .args(["--no-fail-fast", "--success-output", "immediate"])
        .current_dir(build::root());
    use_object(&mut tests, object);
    let mut examples = cargo_test(object);
    examples.arg("--doc").args(&crates);
    vec![
        ("host tests", tests),
        ("examples in the documentation", examples),
    ]
}

/// The tests of the bytecode.
pub fn bytecode(object: &Path, filter: &str) -> anyhow::Result<Vec<String>> {
    let binary = test_binary(object, "prog_test_run")?;
    Ok(with_filter(vec![binary.display().to_string()], filter))
}

/// The end-to-end tests.
pub fn end_to_end(object: &Path, filter: &str) -> anyhow::Result<Vec<String>> {
    whole(object, "e2e", filter)
}

/// The module of the tests that need the machine's clock.
const REAL_TIME: &str = "real_time::";

/// The end-to-end tests for a place: in virtual time, all except those that need the
/// machine's clock.
pub fn for_place(place: &Place, mut end_to_end: Vec<String>) -> Vec<String> {
    if matches!(place, Place::VirtualTime(_)) {
        end_to_end.extend(["--skip", REAL_TIME].map(str::to_owned));
    }
    end_to_end
}

/// The end-to-end tests that need the machine's clock.
pub fn real_time(object: &Path) -> anyhow::Result<Vec<String>> {
    end_to_end(object, REAL_TIME)
}

/// The tests under Slurm that match one of some filters.
pub fn slurm(object: &Path, filters: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut argv = whole(object, "slurm", "")?;
    argv.extend(filters.iter().map(|filter| (*filter).to_owned()));
    Ok(argv)
}

/// The tests over ssh.
pub fn over_ssh(object: &Path) -> anyhow::Result<Vec<String>> {
    whole(object, "ssh", "")
}

/// Installs the programs of the end-to-end tests.
pub fn install() -> anyhow::Result<()> {
    debian("the end-to-end tests", &PROGRAMS)
}

/// Tests that run `emu` and real programs.
fn whole(object: &Path, name: &str, filter: &str) -> anyhow::Result<Vec<String>> {
    install()?;
    build_with(object, &["emu", "emu-cni"])?;
    let binary = test_binary(object, name)?;
    // One at a time: the tests measure, and the VM has one processor or slow ones.
    // What the tests print is what they measured.
    let mut argv = match name {
        "e2e" => workloads::all()?,
        _ => Vec::new(),
    };
    argv.extend([
        binary.display().to_string(),
        "--test-threads=1".to_owned(),
        "--show-output".to_owned(),
    ]);
    Ok(with_filter(argv, filter))
}

/// `emu` with that object, where its measurements find their programs.
pub fn measurements(object: &Path) -> anyhow::Result<Vec<String>> {
    build_with(object, &["emu", "emu-cni"])?;
    let mut argv = workloads::all()?;
    argv.push(build::target().join("debug/emu").display().to_string());
    Ok(argv)
}

/// The program that prints the verifier's work.
pub fn verified_insns(object: &Path) -> anyhow::Result<Vec<String>> {
    tool(object, "verified-insns")
}

/// A program of the integration crate, with `emu` next to it.
pub fn tool(object: &Path, name: &str) -> anyhow::Result<Vec<String>> {
    build_with(object, &["emu", "emu-cni", name])?;
    let binary = build::target().join("debug").join(name);
    Ok(vec![binary.display().to_string()])
}

fn with_filter(mut argv: Vec<String>, filter: &str) -> Vec<String> {
    if !filter.is_empty() {
        argv.push(filter.to_owned());
    }
    argv
}

fn build_with(object: &Path, binaries: &[&str]) -> anyhow::Result<()> {
    let mut build = build::of_binaries(binaries);
    use_object(&mut build, object);
    build::succeed(&mut build)
}

/// Builds a test of the integration crate and finds its binary.
fn test_binary(object: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let output = cargo_test(object)
        .arg("--quiet")
        .args(build::WORKSPACE)
        .args(["--test", name])
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
        .rfind(|path| {
            path.file_name()
                .is_some_and(|file| file.to_string_lossy().starts_with(name))
        })
        .with_context(|| format!("cargo names no binary of {name}"))
}
