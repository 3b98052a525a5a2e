//! A file with 100,000 mistakes is refused as quickly as one with few: the work grows with
//! the file, not with its square, and the report stays short.
use std::{fmt::Write, time::Duration};

use emu_model::{experiment, topology};

const COUNT: usize = 100_000;
/// Mistakes after which the rest of a file is read over.
const LOOKED_FOR: usize = 10_000;
/// Processor time in a debug build. It takes 0.3 to 1.5 s on a calm machine, and neighbours
/// on the same core can double that; a square of the file's length would take minutes.
const LIMIT: Duration = Duration::from_secs(5);

fn lines(one: impl Fn(usize) -> String) -> String {
    some_lines(COUNT, one)
}

fn some_lines(count: usize, one: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for i in 0..count {
        let _ = writeln!(text, "{}", one(i));
    }
    text
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

fn check(what: &str, least: usize, run: impl Fn() -> topology::TopologyErrors) {
    let begin = processor_time();
    let errors = run();
    let shown = errors.to_string();
    let took = processor_time().saturating_sub(begin);
    assert!(
        errors.problems.len() >= least,
        "{what}: {} problems",
        errors.problems.len()
    );
    assert!(took < LIMIT, "{what}: {took:?}");
    assert_eq!(shown.matches("error: ").count(), 50, "{what}");
    let count = format!("{} errors", errors.problems.len());
    assert!(
        shown.ends_with(&count),
        "{what}: {}",
        &shown[shown.len() - 80..]
    );
}

fn topology(text: &str) -> topology::TopologyErrors {
    topology::parse(text, "t.yaml").expect_err("a file full of mistakes")
}

const GROUPS: &str = "version: 1\ngroups:\n  a: {prefix: 10.0.0.0/8, nodes: 2}\n";

#[test]
fn topologies_full_of_mistakes_are_refused_quickly() {
    let cases = [
        ("unknown keys", lines(|i| format!("versio{i}: 1")) + GROUPS),
        (
            "one key again and again",
            lines(|_| "name: x".to_owned()) + GROUPS,
        ),
        (
            "groups without anything",
            GROUPS.to_owned() + &lines(|i| format!("  g{i}: {{}}")),
        ),
        (
            "groups with bad values",
            GROUPS.to_owned()
                + &some_lines(COUNT / 4, |i| {
                    format!("  g{i}: {{prefix: 10.1.1.0/{i}, nodes: x, up: {i}, profile: p{i}}}")
                }),
        ),
        (
            "overlapping groups",
            GROUPS.to_owned()
                + &some_lines(1_000, |i| {
                    format!("  g{i}: {{prefix: 10.1.0.0/16, nodes: 2}}")
                }),
        ),
        (
            "names",
            GROUPS.to_owned() + &lines(|i| format!("  'g {i}': {{prefix: 10.1.1.0/24, nodes: 1}}")),
        ),
        (
            "links of unknown groups",
            format!("{GROUPS}latencies:\n")
                + &lines(|i| format!("  - {{between: [a, g{i}], latency: 1ms}}")),
        ),
        (
            "links given twice",
            format!("{GROUPS}latencies:\n")
                + &lines(|_| "  - {between: [a, a], latency: 1ms}".to_owned()),
        ),
        (
            "unknown profiles",
            "version: 1\nprofiles:\n".to_owned()
                + &lines(|i| format!("  p{i}: {{latency: x}}"))
                + GROUPS,
        ),
        (
            "hosts",
            format!("{GROUPS}hosts:\n")
                + &lines(|i| {
                    format!(
                        "  - {{name: h{}, interface: eth0, groups: [a, b{i}]}}",
                        i / 2
                    )
                }),
        ),
        (
            "events",
            format!("{GROUPS}events:\n") + &lines(|i| format!("  - {{at: {i}, down: 10.1.0.{i}}}")),
        ),
        (
            "traces",
            format!("{GROUPS}traces:\n") + &lines(|i| format!("  - {{group: g{i}}}")),
        ),
        (
            "one line",
            format!(
                "{GROUPS}fq: {{ {} }}",
                lines(|i| format!("x{i}: 1,")).replace('\n', " ")
            ),
        ),
    ];
    for (what, text) in &cases {
        // There are at most 1,024 groups.
        let least = if *what == "overlapping groups" {
            999
        } else {
            LOOKED_FOR / 2
        };
        check(what, least, || topology(text));
    }
}

#[test]
fn experiments_full_of_mistakes_are_refused_quickly() {
    let good = topology::parse(
        "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2}}",
        "t.yaml",
    )
    .expect("good");
    let begin = "topology: t.yaml\nduration: 1s\nprograms:\n";
    for (what, text) in [
        (
            "programs",
            begin.to_owned()
                + &some_lines(COUNT / 2, |i| {
                    format!("  - {{name: p{i}, on: b{i}, run: [\"{{x}}\"]}}")
                }),
        ),
        (
            "programs with one name",
            begin.to_owned() + &lines(|_| "  - {name: p, on: a, run: [x]}".to_owned()),
        ),
        (
            "addresses of nothing",
            begin.to_owned()
                + &lines(|i| format!("  - {{name: p{i}, on: a, run: [\"{{ip:q{i}}}\"]}}")),
        ),
        (
            "until",
            format!("{begin}  - {{name: p, on: a, run: [x]}}\nuntil: {{exited: [\n")
                + &lines(|i| format!("    q{i},"))
                + "]}\n",
        ),
    ] {
        check(what, LOOKED_FOR - 1, || {
            let mut find = |_: &_| Some(good.clone());
            experiment::parse(&text, "e.yaml", &mut find).expect_err("a file full of mistakes")
        });
    }
}
