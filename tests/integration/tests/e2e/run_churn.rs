//! Churn, limits and several hosts of `emu run`.
use std::{
    fs,
    process::Output,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use integration::{
    command::{emu, emu_command, emu_json},
    netns::{isolated, two_hosts},
    processor_is_emulated,
};

use crate::run::{Lab, everything, no_residue};

/// Sessions start as planned; the working folder is kept or not.
#[test]
fn run_churn_keeps_or_loses_state() {
    isolated(|| {
        let before = everything();
        let lab = Lab::new(
            "
duration: 5500ms
programs:
  - name: keeps
    on: adsl/0
    shell: 'echo x >> seen; wc -l < seen; exec sleep 100'
    churn: {up: {constant: 1500ms}, down: {constant: 500ms}, leave: term}
  - name: loses
    on: adsl/1
    shell: 'echo x >> seen; wc -l < seen; exec sleep 100'
    churn: {up: {constant: 1500ms}, down: {constant: 500ms}, leave: kill, state: lose}
    collect: [seen]
",
        );
        let summary = lab.good("");
        assert_eq!(summary["ended"], "duration", "{summary}");
        let seen =
            |vnode: &str, program: &str| lab.read(&format!("out/vnodes/{vnode}/{program}/stdout"));
        // Sessions at 0, 2 and 4 s.
        assert_eq!(seen("10.1.0.1", "keeps"), "1\n2\n3\n");
        assert_eq!(seen("10.1.0.2", "loses"), "1\n1\n1\n");
        assert!(
            lab.path("out/vnodes/10.1.0.2/loses/session-2/seen")
                .exists()
        );
        let rows = lab.table("processes.csv", &["program", "session", "end", "signal"]);
        for (program, signal) in [("keeps", "15"), ("loses", "9")] {
            let of: Vec<_> = rows.iter().filter(|r| r[0] == program).collect();
            assert_eq!(of.len(), 3, "{rows:?}");
            for (index, row) in of.iter().enumerate() {
                let (end, signal) = match index {
                    2 => ("run_over", "15"),
                    _ => ("left", signal),
                };
                assert_eq!(
                    row[1..],
                    [(index + 1).to_string(), end.into(), signal.into()]
                );
            }
        }
        no_residue(&before);
    });
}

/// A dark vnode does not answer; with `unplug` its program keeps running.
#[test]
fn run_churn_makes_networks_dark() {
    isolated(|| {
        let lab = Lab::new(
            "
duration: 60s
until: {exited: [early, late, again]}
programs:
  - {name: dark, on: adsl/0, run: [sleep, '100'], churn: {up: {constant: 2s}, leave: dark}}
  - name: unplugged
    on: adsl/1
    run: [sleep, '100']
    churn: {up: {constant: 2s}, down: {constant: 6s}, leave: unplug}
  - name: early
    on: adsl/10
    shell: 'for a in 1 2; do ping -n -c 1 -W 1 -I {ip} 10.1.0.$a || exit 1; done'
  - name: late
    on: adsl/0-1
    count: 2
    shell: 'ping -n -c 1 -W 1 -I {ip} 10.1.0.20; test $? = 1'
    start: {at: 2500ms}
  - name: again
    on: adsl/12
    run: [ping, -n, -c, '1', -W, '1', -I, '{ip}', 10.1.0.2]
    start: {at: 9s}
",
        );
        emu(&format!(
            "load {} --no-verify",
            lab.path("topology.yaml").display()
        ));
        let summary = lab.good("");
        assert_eq!(summary["done"], 5, "{summary}");
        let rows = lab.table("processes.csv", &["program", "end"]);
        let ends = |program: &str| -> Vec<&str> {
            let of = rows.iter().filter(|r| r[0] == program);
            of.map(|r| r[1].as_str()).collect()
        };
        assert_eq!(ends("dark"), ["left"]);
        assert_eq!(ends("unplugged"), ["run_over"]);
        // The topology that was loaded before the run remains, with all vnodes up.
        assert_eq!(emu_json("status")["down"].as_array().unwrap().len(), 0);
        emu("unload");
    });
}

/// Timed events of the topology run on the run's clock.
#[test]
fn run_runs_the_events_of_the_topology() {
    isolated(|| {
        let lab = Lab::with(
            "
version: 1
groups: {a: {prefix: 10.1.0.0/24, nodes: 4, latency: 5ms}}
events:
  - {at: 1s, set: {group: a, latency: 100ms}}
",
            "
programs:
  - {name: early, on: a/0, shell: 'ping -n -q -c 1 -I {ip} {ip:a/1} | tail -1'}
  - {name: late, on: a/2, shell: 'ping -n -q -c 1 -I {ip} {ip:a/3} | tail -1', start: {at: 1500ms}}
",
        );
        lab.good("");
        let rtt_ms = |place: &str| -> f64 {
            let text = lab.read(&format!("out/vnodes/{place}/stdout"));
            text.split('/').nth(4).unwrap().parse().unwrap()
        };
        let (early, late) = (rtt_ms("10.1.0.1/early"), rtt_ms("10.1.0.3/late"));
        assert!(early < 200.0 && late >= 400.0, "{early} {late}");
        let events = lab.table("events.csv", &["at_s", "ok"]);
        assert_eq!(events, [["1.0", "true"]]);
    });
}

/// Memory and CPU limits apply, and the root of the cgroup tree is as before. The last line
/// of the standard error is in the summary.
#[test]
fn run_keeps_limits() {
    isolated(|| {
        let root = "/sys/fs/cgroup/cgroup.subtree_control";
        let controllers = fs::read_to_string(root).unwrap_or_default();
        let lab = Lab::new(
            "
duration: 30s
programs:
  - {name: greedy, on: adsl/0, shell: 'head -c 200000000 /dev/zero | tail', limits: {memory: 16MiB}}
  - {name: modest, on: adsl/1, shell: 'head -c 1000 /dev/zero | tail', limits: {memory: 16MiB}}
",
        );
        let output = lab.run("");
        let printed = text(&output);
        if printed.contains("need the controllers") {
            println!("SKIPPED limits: this kernel's cgroup tree has no such controllers");
            assert_eq!(output.status.code(), Some(1));
            return;
        }
        assert!(
            printed.contains("FAILED: greedy on adsl/0") && printed.contains("its limit of memory"),
            "{printed}"
        );
        assert!(printed.contains("1 done, 1 failed"), "{printed}");
        assert_eq!(fs::read_to_string(root).unwrap_or_default(), controllers);
    });
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// One run on two hosts, from one file, with one start time.
#[test]
fn run_on_two_hosts_begins_together() {
    isolated(|| {
        let hosts = two_hosts("run");
        let lab = Lab::with(
            "
version: 1
seed: 3
groups:
  servers: {prefix: 10.2.0.0/24, nodes: 1, latency: 5ms}
  clients: {prefix: 10.1.0.0/24, nodes: 3, latency: 5ms}
hosts:
  - {name: h1, interface: eth0, address: 192.0.2.1, groups: [servers]}
  - {name: h2, interface: eth0, address: 192.0.2.2, groups: [clients]}
",
            "
duration: 60s
until: {exited: client}
programs:
  - {name: server, on: servers, shell: 'for i in 1 2 3; do PROBE tcp serve 0.0.0.0 7000; done'}
  - name: client
    on: clients
    shell: 'until PROBE tcp connect {ip:server} 7000; do sleep 0.1; done'
    start: {every: 300ms, from: 500ms}
",
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // Both hosts must have loaded by then.
        let lead_s = if processor_is_emulated() { 20 } else { 8 };
        let at = (now + Duration::from_secs(lead_s)).as_secs_f64();
        let children = ["h1", "h2"].map(|name| {
            let line = format!(
                "{} --host {name} --start-at {at} --json",
                lab.command_line(name)
            );
            let host = if name == "h1" { &hosts[0] } else { &hosts[1] };
            // The server's host carries no client: the other host tells it when to stop.
            host.enter(move || {
                emu_command(&line)
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap()
            })
        });
        let [server, client] = children;
        let client = client.wait_with_output().unwrap();
        assert!(client.status.success(), "{}", text(&client));
        let id = nix::unistd::Pid::from_raw(server.id() as i32);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
        let server = server.wait_with_output().unwrap();
        let summaries = [&server, &client].map(|output| {
            let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            value
        });
        assert_eq!(summaries[0]["processes"], 1);
        assert_eq!(summaries[1]["done"], 3, "{}", summaries[1]);
        let began = summaries.map(|s| s["started_unix_s"].as_f64().unwrap());
        assert!((began[0] - began[1]).abs() < 1.0, "{began:?}");
        assert!(began[0] >= at);
        let seen = lab.read("h2/vnodes/10.1.0.1/client/stdout");
        assert!(seen.ends_with("10.1.0.1\n"), "{seen}");
    });
}
