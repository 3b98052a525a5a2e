//! Running real programs, including `emu`.
use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

/// Splits a command line at blanks; the tests need no quoting.
fn command(line: &str) -> Command {
    let mut arguments = line.split_whitespace();
    let mut command = Command::new(arguments.next().unwrap());
    command.args(arguments);
    command
}

/// Runs a command line to completion, whatever its exit status.
///
/// # Panics
/// If it cannot be started.
pub fn try_run(line: &str) -> Output {
    command(line)
        .output()
        .unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// Runs a command line that must succeed and returns its standard output.
///
/// # Panics
/// If it fails, with its error output.
pub fn run(line: &str) -> String {
    let output = try_run(line);
    assert!(
        output.status.success(),
        "{line}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Path of Debian's Python, otherwise of the first one in the search path, if any. Debian's
/// comes first because a version manager's wrappers take seconds on an emulated CPU.
pub fn python() -> Option<&'static str> {
    let works = |path: &&str| {
        let output = Command::new(path).arg("--version").output();
        output.is_ok_and(|o| o.status.success())
    };
    ["/usr/bin/python3", "python3"].into_iter().find(works)
}

/// Path of the `emu` binary: next to this program, or, for a test, in the folder above.
pub fn emu_path() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let folders = here.ancestors().skip(1).take(2);
    let mut paths = folders.map(|folder| folder.join("emu"));
    paths.find(|path| path.is_file()).unwrap()
}

/// An `emu` command that has not been started.
pub fn emu_command(arguments: &str) -> Command {
    let mut command = Command::new(emu_path());
    command.args(arguments.split_whitespace());
    command
}

/// Runs `emu` to completion, whatever its exit status.
///
/// # Panics
/// If it cannot be started.
pub fn try_emu(arguments: &str) -> Output {
    try_run(&format!("{} {arguments}", emu_path().display()))
}

/// Runs `emu`, which must succeed, and returns its standard output. Tests load and unload while
/// they have sockets, so both get `--force`.
///
/// # Panics
/// If it fails, with its error output.
pub fn emu(arguments: &str) -> String {
    let force = match arguments.split(' ').next() {
        Some("load" | "unload") if !arguments.contains("--stale") => " --force",
        _ => "",
    };
    run(&format!("{} {arguments}{force}", emu_path().display()))
}

/// Runs `emu … --json`, which must succeed, and parses its output.
///
/// # Panics
/// If it fails or prints no JSON.
pub fn emu_json(arguments: &str) -> Value {
    let text = emu(&format!("{arguments} --json"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("emu {arguments} --json: {e}\n{text}"))
}

/// A temporary topology file, deleted on drop.
pub struct TopologyFile(tempfile::NamedTempFile);

impl TopologyFile {
    /// Writes a topology to a temporary file.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn new(text: &str) -> Self {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Self(file)
    }

    /// Loads the file by a full reload, so that queues are empty and counters zero, without
    /// verification.
    pub fn load(&self) {
        emu(&format!("load {} --no-verify --full-reload", self.path()));
    }

    /// Loads the file as a user would: in place where that is possible.
    pub fn load_again(&self) {
        emu(&format!("load {} --no-verify", self.path()));
    }

    /// Path of the file.
    pub fn path(&self) -> String {
        self.0.path().display().to_string()
    }
}
