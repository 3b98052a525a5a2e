//! A value that is used as text is the text that stands in the file, for every key of both
//! kinds of files: no schema of YAML makes a boolean, a number or a date of it.
use emu_model::{
    experiment::{self, Experiment, Reference},
    name::Name,
    topology::{self, Topology},
};

/// Plain scalars that YAML 1.1 or 1.2 takes for booleans, nulls, numbers, times and dates.
const TRAPS: &[&str] = &[
    "y",
    "Y",
    "n",
    "N",
    "yes",
    "Yes",
    "no",
    "No",
    "NO",
    "on",
    "On",
    "off",
    "OFF",
    "true",
    "True",
    "TRUE",
    "false",
    "False",
    "null",
    "Null",
    "NULL",
    "012",
    "0o14",
    "0x10",
    "0b11",
    "1_000",
    "00",
    "1e2",
    "1e3",
    "1E3",
    "1.",
    "1.0",
    "1.10",
    "1.20",
    "0",
    "1",
    "2001-01-01",
    "1e400",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
];

/// Traps that are no names.
const FURTHER: &[&str] = &[
    "~",
    "+5",
    "-5",
    "-0",
    ".5",
    "+.5",
    ".inf",
    "-.inf",
    ".nan",
    "12:30:45",
    "190:20:30",
    "=",
    "2001-12-14t21:59:43.10-05:00",
];

fn topology_of(word: &str, other: &str) -> Topology {
    let text = format!(
        "version: 1
name: {word}
distributions: {{{word}: {other}}}
profiles: {{{word}: {{latency: 5ms}}}}
groups:
  {word}: {{prefix: 10.1.0.0/24, nodes: 2, profile: {word}, up: 1mbit, jitter: {{spread: 1ms, distribution: {word}}}}}
  g: {{prefix: 10.2.0.0/24, nodes: 2}}
latencies:
  - {{between: [{word}, g], latency: 9ms}}
hosts:
  - {{name: {word}, interface: eth0, groups: [{word}]}}
  - {{name: h, interface: eth1, groups: [g]}}
events:
  - {{at: 1s, partition: [{word}, g]}}
  - {{at: 2s, set: {{group: {word}, up: 2mbit}}}}
traces:
  - {{group: {word}, up: {other}}}
"
    );
    topology::parse(&text, "t.yaml").unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_text_of_a_topology_is_what_stands_there() {
    for word in TRAPS {
        let others = TRAPS.iter().chain(FURTHER).copied();
        for other in others {
            let topology = topology_of(word, other);
            assert_eq!(topology.name, *word);
            assert_eq!(topology.groups[0].name, *word);
            assert_eq!(topology.hosts[0].name, *word);
            assert_eq!(topology.hosts[0].groups, [0], "{word}");
            assert_eq!(topology.distributions[0].to_str(), Some(other));
            assert_eq!(topology.traces[0].file.to_str(), Some(other));
            assert_eq!(topology.events.len(), 2, "{word}");
        }
    }
}

fn experiment_of(word: &str, other: &str) -> Experiment {
    let text = format!(
        "name: {word}
topology: {other}
sample: off
duration: 1min
programs:
  - name: {word}
    on: {word}
    run: [echo, {other}, '{other}', {word}]
    env: {{{word}: {other}, A: {word}}}
    collect: [{word}]
  - {{name: p, on: g/0, shell: {other}, start: {{at: 1s}}}}
until: {{exited: [{word}]}}
"
    );
    let mut found = None;
    let topology = topology_of(word, "x");
    let experiment = experiment::parse(&text, "e.yaml", &mut |reference| {
        found = Some(reference.clone());
        Some(topology.clone())
    });
    let file = match found {
        Some(Reference::File(file)) => file,
        other => panic!("{other:?} is no file"),
    };
    assert_eq!(file.to_str(), Some(other));
    experiment.unwrap_or_else(|e| panic!("{text}{e}"))
}

#[test]
fn every_text_of_an_experiment_is_what_stands_there() {
    for word in TRAPS {
        for other in TRAPS.iter().chain(FURTHER).copied() {
            let experiment = experiment_of(word, other);
            assert_eq!(experiment.name, *word);
            assert_eq!(experiment.sample, None);
            assert_eq!(experiment.until, [0]);
            let program = &experiment.programs[0];
            assert_eq!(program.name, *word);
            assert_eq!(program.vnodes.len(), 2);
            assert_eq!(program.collect, [*word]);
            let words: Vec<String> = program.argv.iter().map(|t| format!("{t:?}")).collect();
            for (shown, text) in words.iter().zip(["echo", other, other, word]) {
                assert!(
                    shown.contains(&format!("Text({text:?})")),
                    "{shown} for {text}"
                );
            }
            let (name, value) = &program.env[0];
            assert_eq!(name, word);
            assert!(format!("{value:?}").contains(&format!("Text({other:?})")));
            let shell = format!("{:?}", experiment.programs[1].argv[2]);
            assert!(shell.contains(&format!("Text({other:?})")), "{shell}");
        }
    }
}

#[test]
fn what_is_not_used_as_text_has_one_meaning() {
    let fails = |line: &str, message: &str| {
        let text = format!("version: 1\n{line}\ngroups: {{a: {{prefix: 10.1.0.0/24, nodes: 2}}}}");
        let errors = topology::parse(&text, "t.yaml").unwrap_err();
        assert!(errors.to_string().contains(message), "{errors}");
    };
    for number in ["012", "+5", "-0"] {
        fails(&format!("seed: {number}"), "can be read as several numbers");
    }
    for number in ["0x10", "0o14", "1_000", "1e3", "5.0", "1:30"] {
        fails(&format!("seed: {number}"), "is no whole number");
    }
    for word in ["yes", "no", "on", "off", "True", "FALSE", "y", "1"] {
        let line = format!("accounting: {{overhead: 4, cells: {word}}}");
        fails(&line, "is neither `true` nor `false`");
    }
}

#[test]
fn names_follow_one_rule_everywhere() {
    for bad in [
        "../x", "/abs", "-x", ".x", "a b", "a/b", "é", "\\e[31m", "\\0", "",
    ] {
        for place in [
            "name: \"@\"",
            "hosts: [{name: \"@\", interface: eth0, groups: [a]}]",
            "profiles: {\"@\": {latency: 1ms}}",
            "distributions: {\"@\": x}",
            "hosts: {count: 2, name: \"@{rank}/\", interface: eth0}",
        ] {
            let line = place.replace('@', bad);
            let text =
                format!("version: 1\n{line}\ngroups: {{a: {{prefix: 10.1.0.0/24, nodes: 2}}}}");
            let errors = topology::parse(&text, "t.yaml").unwrap_err().to_string();
            assert!(
                errors.contains("is not a name") || errors.contains("does not make names"),
                "{errors}"
            );
            assert!(
                !errors.contains('\u{1b}') && !errors.contains('\0'),
                "{errors:?}"
            );
        }
    }
    assert!(Name::new("no").is_ok());
}
