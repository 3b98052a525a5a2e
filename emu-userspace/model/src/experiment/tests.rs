//! Files and schedules.
use std::{net::IpAddr, time::Duration};

use super::*;

const TOPOLOGY: &str = "
version: 1
seed: 5
groups:
  servers: {prefix: 10.2.0.0/24, nodes: 2}
  adsl: {prefix: 10.1.0.0/24, nodes: 60}
  wide: {prefix: 10.3.0.0/16, groups: {east: {prefix: 10.3.1.0/24, nodes: 2}, west: {prefix: 10.3.2.0/24, nodes: 2}}}
hosts:
  - {name: h1, interface: eth0, groups: [servers], nodes: [10.1.0.1-10.1.0.10]}
  - {name: h2, interface: eth0, groups: [wide], nodes: [10.1.0.11-10.1.0.60]}
";

fn read(text: &str) -> Result<Experiment, crate::topology::TopologyErrors> {
    let text = format!("topology: t.yaml\n{text}");
    parse(&text, "e.yaml", &mut |_| {
        let topology = crate::topology::parse(TOPOLOGY, "t.yaml");
        Some(topology.unwrap_or_else(|e| panic!("{e}")))
    })
}

fn good(text: &str) -> Experiment {
    read(text).unwrap_or_else(|e| panic!("{e}"))
}

fn plan(text: &str, seed: u64) -> Schedule {
    Schedule::new(&good(text), seed, Slice::Whole).unwrap()
}

fn churning(on: &str) -> String {
    format!(
        "
duration: 1h
programs:
  - name: a
    on: {on}
    run: [peer]
    start: {{within: 10s}}
    churn: {{up: {{weibull: {{shape: 0.6, scale: 60s}}}}, down: {{exponential: {{mean: 30s}}}}}}
"
    )
}

#[test]
fn selectors_name_vnodes() {
    let names = |on: &str| {
        let schedule = plan(&format!("programs: [{{name: a, on: {on}, run: [x]}}]"), 1);
        let names: Vec<String> = schedule.processes.iter().map(|p| p.name.clone()).collect();
        names.join(" ")
    };
    assert_eq!(names("servers"), "servers/0 servers/1");
    assert_eq!(names("adsl/3"), "adsl/3");
    assert_eq!(names("adsl/58-59"), "adsl/58 adsl/59");
    assert_eq!(names("10.1.0.7"), "adsl/6");
    assert_eq!(names("wide"), "east/0 east/1 west/0 west/1");
    assert_eq!(names("[east/1, servers/0, 10.3.1.2]"), "east/1 servers/0");
    assert_eq!(names("all").split(' ').count(), 66);
    assert_eq!(names("adsl, count: 2"), "adsl/0 adsl/1");
    for (on, text) in [
        ("adsl/60", "the last one is adsl/59"),
        ("adsl/5-3", "after the last"),
        ("adsl/x", "neither an index nor two"),
        ("wide/0", "no vnodes of its own"),
        ("10.9.0.1", "is not a vnode"),
        ("adls", "did you mean `adsl`"),
        ("[]", "no vnodes"),
    ] {
        let errors = read(&format!("programs: [{{name: a, on: {on}, run: [x]}}]")).unwrap_err();
        assert!(errors.to_string().contains(text), "{on}: {errors}");
    }
}

#[test]
fn one_seed_makes_one_schedule() {
    let text = churning("adsl");
    let json = |seed| serde_json::to_string(&plan(&text, seed)).unwrap();
    assert_eq!(json(1), json(1));
    assert_ne!(json(1), json(2));
}

/// An additional vnode, or a program inserted before, changes no other times.
#[test]
fn streams_of_vnodes_are_independent() {
    let sessions = |on: &str, vnode: [u8; 4]| {
        let schedule = plan(&churning(on), 1);
        let vnode = IpAddr::from(vnode);
        let process = schedule.processes.iter().find(|p| p.vnode == vnode);
        process.unwrap().sessions.clone()
    };
    let alone = sessions("adsl/7", [10, 1, 0, 8]);
    assert!(alone.len() > 10, "{}", alone.len());
    assert_eq!(alone, sessions("adsl", [10, 1, 0, 8]));
    assert_eq!(alone, sessions("[servers, adsl/0-30]", [10, 1, 0, 8]));
    assert_ne!(alone, sessions("adsl", [10, 1, 0, 9]));
}

#[test]
fn sessions_alternate_and_end_with_the_run() {
    for process in plan(&churning("adsl"), 3).processes {
        let mut last = Duration::ZERO;
        let (end, rest) = process.sessions.split_last().unwrap();
        for session in rest {
            assert!(session.from >= last);
            last = session.to.unwrap();
            assert!(last > session.from);
        }
        assert!(end.from < Duration::from_secs(3600));
        assert!(end.to.is_none_or(|to| to < Duration::from_secs(3600)));
    }
    // `for` ends the last one.
    let text = "
programs:
  - {name: a, on: adsl/0, run: [x], for: 10s, start: {at: 5s}, churn: {up: {constant: 4s}, down: {constant: 1s}}}";
    let sessions = plan(text, 1).processes[0].sessions.clone();
    let times: Vec<_> = sessions
        .iter()
        .map(|s| (s.from.as_secs(), s.to.map(|t| t.as_secs())))
        .collect();
    assert_eq!(times, [(5, Some(9)), (10, Some(14))]);
}

#[test]
fn starts_follow_their_way() {
    let starts = |start: &str| -> Vec<f64> {
        let text = format!("programs: [{{name: a, on: adsl, run: [x], start: {start}}}]");
        let processes = plan(&text, 1).processes;
        processes
            .iter()
            .map(|p| p.sessions[0].from.as_secs_f64())
            .collect()
    };
    assert!(starts("at once").iter().all(|s| *s == 0.0));
    assert!(starts("{at: 10s}").iter().all(|s| *s == 10.0));
    assert_eq!(starts("{every: 250ms, from: 1s}")[..3], [1.0, 1.25, 1.5]);
    let poisson = starts("{poisson: 4/s}");
    assert!(poisson.is_sorted());
    // 60 starts take 15 s, with a deviation of 60^0.5 / 4; five of these.
    assert!((poisson[59] - 15.0).abs() < 9.7, "{}", poisson[59]);
    let within = starts("{within: 30s, from: 10s}");
    assert!(within.iter().all(|s| (10.0..40.0).contains(s)) && !within.is_sorted());
}

#[test]
fn hosts_share_a_schedule() {
    let experiment = good(&churning("all"));
    let part = |slice| Schedule::new(&experiment, 9, slice).unwrap().processes;
    let whole = part(Slice::Whole);
    let mut parts = part(Slice::Host("h1"));
    assert_eq!(parts.len(), 12);
    parts.extend(part(Slice::Host("h2")));
    assert_eq!(parts.len(), whole.len());
    for process in &whole {
        assert!(parts.contains(process));
    }
    assert!(matches!(
        Schedule::new(&experiment, 9, Slice::Host("h3")),
        Err(ScheduleError::UnknownHost { .. })
    ));
}

#[test]
fn command_lines_are_filled_in() {
    let text = "
programs:
  - {name: tracker, on: servers, run: [t], background: true}
  - name: client
    on: adsl/3
    run: [c, '--to={ip:tracker}', '{ips:tracker}', '{ip:adsl/9}', '{dir}/x', '{host} {number}']
    env: {SEED: '{seed}'}
";
    let schedule = plan(text, 4);
    let client = &schedule.processes[2];
    assert_eq!(
        client.command_in("/w")[1..],
        [
            "--to=10.2.0.1",
            "10.2.0.1,10.2.0.2",
            "10.1.0.10",
            "/w/x",
            "h1 0"
        ]
    );
    assert_eq!(client.env, [("SEED".to_owned(), "4".to_owned())]);
}

#[test]
fn absurd_churn_is_an_error_not_a_flood() {
    let text = "
duration: 30d
programs: [{name: a, on: adsl, run: [x], churn: {up: {constant: 1ns}, down: {constant: 1ns}}}]";
    assert!(matches!(
        Schedule::new(&good(text), 1, Slice::Whole),
        Err(ScheduleError::TooManySessions { .. })
    ));
    // Starts beyond all time limits are still times.
    let text = "programs: [{name: a, on: adsl, run: [x], start: {every: 30d}}]";
    assert_eq!(plan(text, 1).processes.len(), 60);
}

#[test]
fn the_run_s_end_is_known() {
    let until = |text: &str| good(text).until;
    let two = "programs: [{name: a, on: adsl/0, run: [x]}, {name: b, on: adsl/1, run: [x], background: true}]\n";
    assert_eq!(until(two), [0]);
    assert_eq!(until(&format!("{two}until: {{exited: b}}")), [1]);
    assert_eq!(until(&format!("{two}until: {{exited: [a, b]}}")), [0, 1]);
    assert!(looks_like_one(two) && !looks_like_one(TOPOLOGY));
}
