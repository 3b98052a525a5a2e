//! Vnodes that are machines: a network namespace each, behind the same lines as processes.
use std::{process::Command, thread, time::Duration};

use integration::{
    clock::bound_ms,
    command::{TopologyFile, emu, emu_json, emu_path, run, try_emu},
    netns::{isolated, load_on, two_hosts},
    wait_for,
};
use serde_json::Value;

use crate::{latency::TOPOLOGIES, run::Lab, safety::snapshot};

const TOPOLOGY: &str = "
version: 1
seed: 3
kind: machine
groups:
  a: {prefix: 10.1.0.0/24, nodes: 3, up: 10mbit, down: 10mbit, latency: 10ms}
  b: {prefix: 10.2.0.0/24, nodes: 2, up: 10mbit, down: 10mbit, latency: 10ms, loss: 0%}
  six: {prefix: 'fd10::/64', nodes: 2, up: 10mbit, down: 10mbit, latency: 10ms}
  p: {prefix: 10.3.0.0/24, kind: process, nodes: 2, up: 10mbit, down: 10mbit, latency: 10ms}
latencies:
  - {between: [a, b], latency: 30ms}
  - {between: [a, p], latency: 20ms}
";

fn reason(name: &str) -> u64 {
    emu_json("status")["reasons"][name].as_u64().unwrap_or(0)
}

/// The largest difference from the model.
fn worst_error_ms(report: &Value) -> f64 {
    let pairs = report["pairs"].as_array().unwrap();
    let errors = pairs
        .iter()
        .map(|pair| pair["error_ms"].as_f64().unwrap().abs());
    errors.fold(0.0, f64::max)
}

/// Unloads at the end of a test, also after a failure: a cgroup that it leaves would be in the
/// way of others.
struct Unload;

impl Drop for Unload {
    fn drop(&mut self) {
        let _ = try_emu("unload --kill");
    }
}

/// A program in a vnode that runs until it is dropped.
struct Running(std::process::Child);

impl Running {
    fn start(vnode: &str, program: &[&str]) -> Self {
        let mut command = Command::new(emu_path());
        command.args(["exec", vnode, "--"]).args(program);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Machines among themselves, with processes of the same host, and over IPv6: latencies and
/// rates are those of the model, and an unload leaves everything as before.
#[test]
fn machines_and_processes_see_the_model() {
    isolated(|| {
        let _unload = Unload;
        let before = snapshot();
        let file = TopologyFile::new(TOPOLOGY);
        emu(&format!("load {} --no-verify", file.path()));
        let report = emu_json("verify --rates");
        assert_eq!(report["ok"], true, "{report}");
        // Each pair of the four groups that share an address family.
        assert_eq!(report["pairs"].as_array().unwrap().len(), 7, "{report}");
        let worst = worst_error_ms(&report);
        assert!(worst <= bound_ms(0.1, 2.0), "{report}");
        assert_eq!(report["rates"].as_array().unwrap().len(), 8, "{report}");
        emu("unload");
        assert_eq!(snapshot(), before);
    });
}

/// A machine passes packets as soon as it is loaded: none of the first ones is lost.
#[test]
fn machines_pass_packets_at_once() {
    isolated(|| {
        let _unload = Unload;
        let file = TopologyFile::new(TOPOLOGY);
        for round in 0..5 {
            emu(&format!("load {} --no-verify --full-reload", file.path()));
            for vnode in ["a/0", "a/2", "b/1"] {
                let state = emu(&format!(
                    "exec {vnode} -- cat /sys/class/net/eth0/operstate"
                ));
                assert_eq!(state.trim(), "up", "{vnode}, load {round}");
            }
        }
    });
}

/// What a program finds in a machine is the machine's own.
#[test]
fn a_machine_has_its_own_name_loopback_and_interfaces() {
    isolated(|| {
        let _unload = Unload;
        let file = TopologyFile::new(TOPOLOGY);
        emu(&format!("load {} --no-verify", file.path()));
        let shown = |vnode: &str, what: &str| emu(&format!("exec {vnode} -- {what}"));
        assert_eq!(shown("a/1", "hostname").trim(), "a-1");
        let interfaces = shown("a/1", "ls /sys/class/net");
        assert_eq!(
            interfaces.split_whitespace().collect::<Vec<_>>(),
            ["eth0", "lo"]
        );
        let addresses = shown("a/1", "ip -o addr");
        assert!(addresses.contains("10.1.0.2/32") && !addresses.contains("10.1.0.1"));
        assert_eq!(addresses.lines().count(), 3, "{addresses}");
        let route = shown("a/1", "ip route show default");
        assert!(
            route.starts_with("default via 169.254.1.1 dev eth0"),
            "{route}"
        );
        for (name, address) in [("b-0", "10.2.0.1"), ("p-1.emu", "10.3.0.2")] {
            let found = shown("a/1", &format!("getent hosts {name}"));
            assert!(found.starts_with(address), "{found}");
        }
        // Without an option, as in a shell of the machine.
        let ping = shown("a/1", "ping -c 2 -i 0.2 b-0");
        assert!(ping.contains("2 received"), "{ping}");
        // The same port of 127.0.0.1 for each.
        let listeners: Vec<Running> = ["a/0", "a/1", "b/0"]
            .iter()
            .map(|vnode| {
                let port = [
                    "python3",
                    "-m",
                    "http.server",
                    "8384",
                    "--bind",
                    "127.0.0.1",
                ];
                Running::start(vnode, &port)
            })
            .collect();
        for vnode in ["a/0", "a/1", "b/0"] {
            wait_for("the listener", || {
                let sockets = shown(vnode, "ss -Hltn");
                sockets.contains("127.0.0.1:8384").then_some(())
            });
        }
        drop(listeners);
        // The shell around is not in the machine.
        assert_ne!(run("hostname").trim(), "a-1");
    });
}

/// The access router answers as a router does.
#[test]
fn the_access_router_is_a_hop() {
    isolated(|| {
        let _unload = Unload;
        let file = TopologyFile::new(TOPOLOGY);
        emu(&format!("load {} --no-verify", file.path()));
        let ping = |vnode: &str, arguments: &str| {
            let output = try_emu(&format!("exec {vnode} -- ping -n -c 1 -W 2 {arguments}"));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let first = ping("a/0", "-t 1 10.2.0.1");
        assert!(first.contains("From 169.254.1.1"), "{first}");
        assert!(first.contains("Time to live exceeded"), "{first}");
        let second = ping("a/0", "-t 2 10.2.0.1");
        assert!(second.contains("ttl=63"), "{second}");
        let first = ping("six/0", "-t 1 fd10::2");
        assert!(first.contains("From fe80::1"), "{first}");
        assert!(first.contains("Time exceeded: Hop limit"), "{first}");
        let second = ping("six/0", "-t 2 fd10::2");
        assert!(second.contains("ttl=63"), "{second}");
        assert_eq!(reason("to_router"), 2);
    });
}

/// The router forwards between vnodes alone, and only what has the machine's own address.
#[test]
fn the_access_router_drops_and_counts_what_is_not_the_machines() {
    isolated(|| {
        let _unload = Unload;
        run("ip link add dummy0 type veth peer name dummy1");
        run("ip addr add 192.0.2.1/24 dev dummy0");
        run("ip link set dummy0 up");
        // A machine with IPv6 looks for routers and neighbours by itself.
        let quiet = TOPOLOGY.lines().filter(|line| !line.contains("six"));
        let file = TopologyFile::new(&quiet.collect::<Vec<_>>().join("\n"));
        emu(&format!("load {} --no-verify", file.path()));
        let ping = |arguments: &str| {
            let output = try_emu(&format!("exec a/0 -- ping -n -c 2 -i 0.2 -W 1 {arguments}"));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("0 received"), "{arguments}: {text}");
        };
        // An address that nobody has, one of another vnode, and the host's own.
        for (place, source) in ["10.1.0.77", "10.1.0.2", "192.0.2.9"].iter().enumerate() {
            emu(&format!("exec a/0 -- ip addr add {source}/32 dev eth0"));
            ping(&format!("-I {source} 10.2.0.1"));
            assert_eq!(reason("spoofed"), 2 * (place as u64 + 1), "{source}");
        }
        // The host's address, the router's own, none of a group's vnodes, the Internet.
        for (place, to) in ["192.0.2.1", "169.254.1.1", "10.2.0.99", "198.51.100.1"]
            .iter()
            .enumerate()
        {
            ping(to);
            assert_eq!(reason("outside"), 2 * (place as u64 + 1), "{to}");
        }
        ping("-b 255.255.255.255");
        ping("224.0.0.251");
        assert_eq!(reason("multicast"), 4);
        // No ARP: the machine knows its router.
        assert_eq!(emu("exec a/0 -- ip neigh").trim(), "");
        assert_eq!(reason("foreign"), 0);
        // A vnode of a process does not reach the router either.
        assert_eq!(reason("to_router"), 0);
    });
}

/// A line that is taken down, a partition and a lossy line are for machines what they are for
/// processes.
#[test]
fn changes_by_hand_reach_machines() {
    isolated(|| {
        let _unload = Unload;
        let file = TopologyFile::new(TOPOLOGY);
        emu(&format!("load {} --no-verify", file.path()));
        let received = |from: &str, to: &str| {
            let output = try_emu(&format!("exec {from} -- ping -n -c 4 -i 0.2 -W 1 {to}"));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let words = text.split(", ").find(|part| part.contains("received"));
            let count = words.and_then(|w| w.split(' ').next()).map(str::to_owned);
            count.unwrap().parse::<u32>().unwrap()
        };
        assert_eq!(received("a/0", "10.2.0.1"), 4);
        emu("partition a b");
        assert_eq!(received("a/0", "10.2.0.1"), 0);
        assert_eq!(received("a/0", "10.1.0.2"), 4);
        emu("heal a b");
        emu("down 10.2.0.1");
        assert_eq!(received("a/0", "10.2.0.1"), 0);
        assert_eq!(received("a/0", "10.2.0.2"), 4);
        emu("up 10.2.0.1");
        emu("set b loss=100%");
        assert_eq!(received("a/0", "10.2.0.1"), 0);
        // A change in place keeps the machines and what runs there.
        let sleeper = Running::start("a/2", &["sleep", "1000"]);
        let faster = TopologyFile::new(&TOPOLOGY.replace("latency: 30ms", "latency: 5ms"));
        let told = emu(&format!("load {} --no-verify", faster.path()));
        assert!(told.contains("changed in place"), "{told}");
        assert_eq!(received("a/0", "10.2.0.1"), 4);
        // Programs in machines count as processes of vnodes.
        let refused = try_emu("unload");
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("10.1.0.3"), "{text}");
        drop(sleeper);
    });
}

/// Machines on two hosts, and a process on the other host.
#[test]
fn machines_on_two_hosts_see_the_model() {
    isolated(|| {
        let _unload = Unload;
        let text = format!(
            "{TOPOLOGY}hosts:\n  - {{name: h1, interface: eth0, address: 192.0.2.1, groups: [a, six]}}\n  \
             - {{name: h2, interface: eth0, address: 192.0.2.2, groups: [b, p]}}\n"
        );
        let hosts = two_hosts("machines");
        let file = TopologyFile::new(&text);
        let before: Vec<String> = hosts.iter().map(|h| h.enter(snapshot)).collect();
        load_on(&hosts, &file);
        for host in &hosts {
            let report = host.enter(|| emu_json("verify"));
            assert_eq!(report["ok"], true, "{report}");
            let worst = worst_error_ms(&report);
            assert!(worst <= bound_ms(0.1, 2.0), "{report}");
        }
        // From a machine, over the host's own table of neighbours.
        let ping = hosts[0].enter(|| emu("exec a/0 -- ping -n -c 2 -i 0.2 10.3.0.1"));
        assert!(ping.contains("2 received"), "{ping}");
        for (host, before) in hosts.iter().zip(before) {
            host.enter(|| emu("unload"));
            assert_eq!(host.enter(snapshot), before);
        }
    });
}

/// Programs of an experiment run in machines, as a user, with the machine's name.
#[test]
fn an_experiment_runs_in_machines() {
    isolated(|| {
        let _unload = Unload;
        let topology = TOPOLOGY.replace("seed: 3", "seed: 3\nname: lab");
        let lab = Lab::with(
            &topology,
            "
name: programs
duration: 60s
programs:
  - {name: server, on: b/0, run: [python3, -m, http.server, '80'], ready: {tcp: 80}, background: true}
  - name: client
    on: a
    shell: 'hostname; curl -s -o page -w \"%{{http_code}} %{{local_ip}}\\n\" http://b-0/'
",
        );
        let summary = lab.good("");
        assert_eq!(summary["done"], 3, "{summary}");
        for index in 0..3 {
            let log = lab.path(&format!("out/vnodes/10.1.0.{}/client/stdout", index + 1));
            let said = std::fs::read_to_string(&log).unwrap_or_else(|e| panic!("{log:?}: {e}"));
            assert_eq!(said, format!("a-{index}\n200 10.1.0.{}\n", index + 1));
        }
    });
}

/// A namespace that a process still uses ends with the process, not with the unload.
#[test]
fn unload_kill_ends_programs_in_machines() {
    isolated(|| {
        let _unload = Unload;
        let before = snapshot();
        emu(&format!("load {TOPOLOGIES}/machines.yaml --no-verify"));
        let mut sleeper = Running::start("cable/0", &["sleep", "1000"]);
        wait_for("the program", || {
            let status: Value = emu_json("status");
            (status["exec"]["processes"] == 1).then_some(())
        });
        emu("unload --kill");
        assert_eq!(snapshot(), before);
        thread::sleep(Duration::from_millis(100));
        assert!(sleeper.0.try_wait().unwrap().is_some());
    });
}
