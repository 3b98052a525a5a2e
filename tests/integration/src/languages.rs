//! The probe in every language that this machine can compile or run.
use std::{path::Path, process::Command};

use crate::{
    command::python,
    probe::{PROGRAMS, Probe},
    processor_is_emulated,
};

/// A language other than Rust: its name, the missing tool where the machine cannot run it,
/// and a function from a build folder to the command that starts the probe.
type Language = (&'static str, &'static str, fn(&str) -> Option<Vec<String>>);

const LANGUAGES: [Language; 6] = [
    ("C", "gcc", |folder| c(folder, "probe-c", &[])),
    ("C, static", "gcc with a static C library", |folder| {
        c(folder, "probe-c-static", &["-static"])
    }),
    ("Python", "python3", python_probe),
    ("Go, static", "go (Debian: golang-go)", go),
    (
        "Java",
        "java and javac (Debian: openjdk-17-jdk-headless)",
        java,
    ),
    ("JavaScript", "node (Debian: nodejs)", javascript),
];

/// Languages whose programs start slowly.
const HEAVY: [&str; 2] = ["Java", "JavaScript"];

/// Whether programs in a language start slowly.
pub fn is_heavy(language: &str) -> bool {
    HEAVY.contains(&language)
}

/// The probe in every wanted language; each language that is missing on this machine is
/// skipped with a message.
///
/// # Panics
/// If a compiler exists and fails.
#[expect(clippy::print_stdout, reason = "what a test leaves out")]
pub fn languages(rust: &str, folder: &Path, wanted: fn(&str) -> bool) -> Vec<Probe> {
    let folder = folder.display().to_string();
    let mut probes = Vec::new();
    if wanted("Rust") {
        probes.push(Probe::new("Rust", vec![rust.to_owned()]));
    }
    for (language, needs, prepare) in LANGUAGES.into_iter().filter(|l| wanted(l.0)) {
        if processor_is_emulated() && is_heavy(language) {
            println!("SKIPPED programs in {language}: seconds for each on an emulated processor");
            continue;
        }
        match prepare(&folder) {
            Some(command_line) => probes.push(Probe::new(language, command_line)),
            None => println!("SKIPPED programs in {language}: no {needs}"),
        }
    }
    probes
}

/// Runs a compiler; `false` if the compiler is missing.
fn compiles(compiler: &mut Command) -> bool {
    let Ok(output) = compiler.output() else {
        return false;
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    true
}

fn c(folder: &str, name: &str, options: &[&str]) -> Option<Vec<String>> {
    let binary = format!("{folder}/{name}");
    let mut compiler = Command::new("gcc");
    compiler
        .args(options)
        .args(["-Wall", "-O1", "-o", &binary])
        .arg(format!("{PROGRAMS}/probe.c"));
    let has_library = options.is_empty() || has_static_library();
    (has_library && compiles(&mut compiler)).then(|| vec![binary])
}

/// gcc prints only the file's name if it does not find the library.
fn has_static_library() -> bool {
    let output = Command::new("gcc").arg("-print-file-name=libc.a").output();
    output.is_ok_and(|o| o.stdout.starts_with(b"/"))
}

fn python_probe(_: &str) -> Option<Vec<String>> {
    python().map(|python| vec![python.to_owned(), format!("{PROGRAMS}/probe.py")])
}

/// Built without cgo, so that the program is linked statically and makes system calls
/// directly.
fn go(folder: &str) -> Option<Vec<String>> {
    let binary = format!("{folder}/probe-go");
    let mut compiler = Command::new("go");
    compiler
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", format!("{folder}/go"))
        .args(["build", "-o", &binary])
        .arg(format!("{PROGRAMS}/probe.go"));
    compiles(&mut compiler).then(|| vec![binary])
}

/// Started with little memory and without the JIT compiler, because the process is
/// short-lived.
fn java(folder: &str) -> Option<Vec<String>> {
    let options = ["-Xint", "-Xmx32m", "-XX:+UseSerialGC", "-cp"];
    let mut compiler = Command::new("javac");
    compiler
        .args(["-d", folder])
        .arg(format!("{PROGRAMS}/Probe.java"));
    compiles(&mut compiler).then(|| {
        let command_line = ["java"].into_iter().chain(options);
        command_line
            .chain([folder, "Probe"])
            .map(str::to_owned)
            .collect()
    })
}

fn javascript(_: &str) -> Option<Vec<String>> {
    let output = Command::new("node").arg("--version").output().ok()?;
    output
        .status
        .success()
        .then(|| vec!["node".to_owned(), format!("{PROGRAMS}/probe.js")])
}
