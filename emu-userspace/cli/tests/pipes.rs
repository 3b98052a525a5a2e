//! Files from a pipe: a command reads its file once, and `-` is the standard input.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

const TOPOLOGY: &str = "version: 1
name: piped
groups: {peers: {prefix: 10.1.0.0/24, nodes: 3, up: 1mbit}}
";

/// Runs `emu` with a text on its standard input.
fn emu(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_emu"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn commands_read_a_topology_from_a_pipe() {
    for file in ["-", "/dev/stdin"] {
        for (command, expected) in [
            ("check", "piped: 3 vnodes in 1 groups"),
            ("plan", "piped on"),
        ] {
            let output = emu(&[command, file], TOPOLOGY);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{command} {file}: {output:?}");
            assert!(text.contains(expected), "{command} {file}: {text}");
        }
        let load = emu(&["load", file, "--dry-run"], TOPOLOGY);
        let text = String::from_utf8_lossy(&load.stdout).into_owned();
        assert!(text.contains("piped on"), "{load:?}");
    }
}

#[test]
fn errors_name_the_pipe_and_the_line() {
    let output = emu(
        &["check", "-"],
        "version: 1\ngroups: {a: {prefix: 10.1.0}}\n",
    );
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("--> -:2:"), "{errors}");
}

#[test]
fn an_experiment_from_a_pipe_finds_its_topology_here() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("t.yaml"), TOPOLOGY).unwrap();
    let topology = folder.path().join("t.yaml").display().to_string();
    let experiment =
        format!("topology: {topology}\nprograms: [{{name: a, on: peers, run: [/bin/true]}}]\n");
    let output = emu(&["check", "-"], &experiment);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("3 processes on piped"), "{output:?}");
}
