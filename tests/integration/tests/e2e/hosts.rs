//! Several hosts, each a network namespace, joined by a veth pair or a bridge.
use std::{fs, thread, time::Duration};

use integration::{
    agent::Agent,
    clock::bound_ms,
    command::{TopologyFile, emu, emu_command, emu_json, run, try_emu},
    netns::{bridged_hosts, isolated, load_on, two_hosts},
    udp,
};
use serde_json::Value;

use crate::latency::TOPOLOGIES;

const TOPOLOGY: &str = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 20, up: 1mbit, down: 8mbit, latency: 20ms}
  b: {prefix: 10.2.0.0/24, nodes: 20, up: 10mbit, down: 10mbit, latency: 5ms}
latencies:
  - {between: [a, b], latency: 100ms}
hosts:
  - {name: h1, interface: eth0, address: 192.0.2.1, groups: [a]}
  - {name: h2, interface: eth0, address: 192.0.2.2, groups: [b]}
";

#[test]
fn vnodes_on_two_hosts_see_the_model() {
    isolated(|| {
        let hosts = two_hosts("two");
        let file = TopologyFile::new(TOPOLOGY);
        let before: Vec<String> = hosts.iter().map(|h| snapshot(h.name())).collect();
        load_on(&hosts, &file);
        for (host, pairs) in hosts.iter().zip([2, 2]) {
            let report = host.enter(|| emu_json("verify"));
            assert_eq!(report["ok"], true, "{report}");
            assert_eq!(report["pairs"].as_array().unwrap().len(), pairs);
        }
        // By `ip netns exec`, which hides the BPF file system.
        let emu_path = integration::command::emu_path();
        let inside = format!("ip netns exec {} {}", hosts[0].name(), emu_path.display());
        let status = run(&format!("{inside} status --json"));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["ok"], true, "{status}");
        assert!(status["reasons"]["shaped_up"].as_u64().unwrap() > 0);
        run(&format!("{inside} unload"));
        hosts[1].enter(|| emu("unload"));
        for (host, before) in hosts.iter().zip(before) {
            assert_eq!(snapshot(host.name()), before);
        }
    });
}

/// A load inside `ip netns exec` works too, and is visible from outside.
#[test]
fn load_inside_ip_netns_exec() {
    isolated(|| {
        let hosts = two_hosts("exec");
        let file = TopologyFile::new(TOPOLOGY);
        let emu_path = integration::command::emu_path();
        let inside = format!("ip netns exec {} {}", hosts[0].name(), emu_path.display());
        run(&format!(
            "{inside} load {} --host h1 --no-verify",
            file.path()
        ));
        assert_eq!(hosts[0].enter(|| emu_json("status"))["ok"], true);
        let status = run(&format!("{inside} status --json"));
        assert!(status.contains("\"ok\": true"), "{status}");
        hosts[0].enter(|| emu("unload"));
    });
}

fn snapshot(host: &str) -> String {
    ["addr", "link", "route show table all"]
        .iter()
        .map(|what| run(&format!("ip -n {host} -d {what}")))
        .chain(
            [
                "qdisc",
                "filter show dev eth0 ingress",
                "filter show dev eth0 egress",
            ]
            .iter()
            .map(|what| run(&format!("tc -n {host} {what}"))),
        )
        .chain([run(&format!("ip netns exec {host} ethtool -k eth0"))])
        .collect()
}

/// Numbers of hosts; `EMU_HOSTS=1,2,4,8` for the long form.
fn sizes() -> Vec<usize> {
    let given = std::env::var("EMU_HOSTS").unwrap_or_else(|_| "1,2,4".to_owned());
    given.split(',').map(|n| n.parse().unwrap()).collect()
}

/// The paper's topology over several hosts: the round trip of a pair is the model's,
/// whether its ends are on one host or on two.
#[test]
fn the_paper_over_several_hosts() {
    let paper = fs::read_to_string(format!("{TOPOLOGIES}/p2plab.yaml")).unwrap();
    let hosts = "placement: spread\nhosts: {count: 1, interface: eth0, address: 192.0.2.1}\n";
    let text = format!("{paper}\n{hosts}");
    for size in sizes() {
        let text = text.clone();
        isolated(move || paper_over(size, &text));
    }
}

fn paper_over(size: usize, text: &str) {
    let hosts = bridged_hosts("paper", size);
    let file = TopologyFile::new(text);
    let mut vnodes = 0;
    for (rank, host) in hosts.iter().enumerate() {
        let load = format!(
            "load {} --rank {rank} --size {size} --no-verify",
            file.path()
        );
        let loaded = host.enter(move || emu_json(&load));
        vnodes += loaded["vnodes"].as_u64().unwrap();
    }
    assert_eq!(vnodes, 2_750);
    // From the first and the last host only: simultaneous probes of all hosts would queue
    // behind each other.
    let probers: Vec<usize> = if size == 1 {
        vec![0]
    } else {
        vec![0, size - 1]
    };
    for prober in probers {
        // emu's verdict uses the median, which background load shifts; the minimum shows
        // the delay that the emulation gave.
        let report = hosts[prober].enter(|| try_emu("verify --samples 5 --json"));
        let report: Value = serde_json::from_slice(&report.stdout).unwrap();
        let pairs = report["pairs"].as_array().unwrap();
        let worst = |remote: bool| {
            let of = pairs.iter().filter(|p| p["remote"].is_string() == remote);
            let errors: Vec<f64> = of.map(least_error_ms).collect();
            (
                errors.len(),
                errors.iter().map(|e| e.abs()).fold(0.0, f64::max),
            )
        };
        let ((near, near_ms), (far, far_ms)) = (worst(false), worst(true));
        // 15 pairs of groups on one host; and each group with each group on another host.
        assert_eq!((near, far), (15, if size > 1 { 25 } else { 0 }));
        assert!(near_ms < 10.0 && far_ms < 10.0, "{report:#}");
        println!(
            "host {prober} of {size}: {near} pairs here off by {near_ms:.2} ms at most, {far} with \
             others by {far_ms:.2} ms"
        );
        let others = report["hosts"].as_array().unwrap();
        assert_eq!(others.len(), size - 1);
        for other in others {
            assert!(other["rtt_ms"]["p50"].as_f64().unwrap() < 50.0, "{other}");
            // All namespaces share the machine's clock.
            let offset = |end: &str| other["clock_offset_ms"][end].as_f64().unwrap();
            assert!(offset("least") <= 0.0 && offset("most") >= 0.0, "{other}");
        }
        // Vnodes of other hosts have routes through those hosts, and no neighbour entries.
        let neighbours = run(&format!("ip -n {} neigh", hosts[prober].name()));
        assert!(neighbours.lines().count() < size + 64, "{neighbours}");
    }
    for host in &hosts {
        host.enter(|| emu("unload"));
    }
}

/// Minimum round trip of a pair minus the model's time and the physical link's.
fn least_error_ms(pair: &Value) -> f64 {
    assert_eq!(pair["samples"], 5, "{pair}");
    let ms = |value: &Value| value.as_f64().unwrap();
    ms(&pair["rtt_ms"]["min"]) - ms(&pair["expected_rtt_ms"]) - ms(&pair["link_ms"])
}

const ROLLING: &str = "
version: 1
name: NAME
placement: spread
hosts: {count: 4, interface: eth0, address: 192.0.2.1}
profiles: {line: {up: 8mbit, down: 8mbit, queue: 10MB}}
groups:
  a: {prefix: 10.1.0.0/24, nodes: 8, profile: line, latency: 5ms}
  b: {prefix: 10.2.0.0/24, nodes: 8, profile: line, latency: 5ms}
latencies:
  - {between: [a, b], latency: LATENCY}
";

/// Four agents get another file one after the other, while vnodes of all hosts send: every
/// packet arrives, no earlier than the smaller latency of the two files allows.
#[test]
fn a_change_rolls_over_four_agents() {
    isolated(|| {
        let hosts = bridged_hosts("roll", 4);
        let text =
            |name: &str, latency: &str| ROLLING.replace("NAME", name).replace("LATENCY", latency);
        let folder = tempfile::tempdir_in("/run").unwrap();
        let file = |rank: usize| folder.path().join(format!("{rank}.yaml"));
        let mut agents = Vec::new();
        for (rank, host) in hosts.iter().enumerate() {
            fs::write(file(rank), text("before", "20ms")).unwrap();
            let arguments = format!("{} --rank {rank}", file(rank).display());
            agents.push(host.enter(move || {
                let agent = Agent::start(&arguments, 9750);
                agent.wait_good();
                agent
            }));
        }
        // A vnode of group a on each host sends to a vnode of group b on the next host.
        let sockets = hosts.iter().enumerate().map(|(rank, host)| {
            host.enter(move || {
                // The blocks of the second group start on the second host.
                let sender = format!("10.1.0.{}", rank * 2 + 1);
                let receiver = format!("10.2.0.{}", (rank + 3) % 4 * 2 + 1);
                (udp::socket(&sender), udp::socket(&receiver))
            })
        });
        let sockets: Vec<_> = sockets.collect();
        let send = |tag| {
            for (rank, (socket, _)) in sockets.iter().enumerate() {
                let to = format!("10.2.0.{}", rank * 2 + 1);
                udp::send(socket, &to, tag, 100).unwrap();
            }
        };
        let sent = udp::send_while(Duration::from_millis(5), send, || {
            thread::sleep(Duration::from_millis(500));
            for (name, latency) in [("after", "60ms"), ("again", "20ms")] {
                agents = std::mem::take(&mut agents)
                    .into_iter()
                    .zip(&hosts)
                    .enumerate()
                    .map(|(rank, (agent, host))| {
                        fs::write(file(rank), text(name, latency)).unwrap();
                        host.enter(move || {
                            agent.wait(name, |_, value: &Value| value["topology"] == name);
                            agent
                        })
                    })
                    .collect();
                thread::sleep(Duration::from_millis(300));
            }
        });
        let mut slow = 0;
        for (_, receiver) in &sockets {
            let arrivals = udp::receive(receiver, sent as usize + 1, Duration::from_secs(2));
            let delays: Vec<f64> = arrivals.iter().map(udp::Arrival::delay_ms).collect();
            assert_eq!(delays.len(), sent as usize);
            let least = delays.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(least >= 30.0, "{least} ms");
            slow += delays.iter().filter(|d| **d >= 70.0).count();
        }
        assert!(slow > 0, "nobody saw the change");
        println!("{sent} packets on each of four ways, all arrived; {slow} under the second file");
        for (agent, host) in agents.into_iter().zip(&hosts) {
            host.enter(move || {
                assert_eq!(agent.terminate(), Some(0));
                emu("unload");
            });
        }
    });
}

/// The network between the hosts takes 6 ms one way, by netem. Deducted from the latency that
/// emu adds, it leaves the round trip of the model.
#[test]
fn the_latency_between_hosts_is_deducted() {
    isolated(|| {
        let hosts = bridged_hosts("wire", 2);
        for port in ["port0", "port1"] {
            run(&format!("tc qdisc add dev {port} root netem delay 6ms"));
        }
        let round_trip = |text: &str, variable: &'static str| -> (f64, f64, String) {
            let file = TopologyFile::new(text);
            let mut warnings = String::new();
            for (host, name) in hosts.iter().zip(["h1", "h2"]) {
                let load = format!("load {} --host {name} --no-verify", file.path());
                let loaded = host.enter(move || {
                    let mut load = emu_command(&load);
                    load.env("EMU_HOST_LATENCY", variable).output().unwrap()
                });
                assert!(loaded.status.success(), "{loaded:?}");
                warnings += &String::from_utf8_lossy(&loaded.stderr);
            }
            let report = hosts[0].enter(|| {
                let verify = try_emu("verify --json");
                serde_json::from_slice::<Value>(&verify.stdout).unwrap()
            });
            let pairs = report["pairs"].as_array().unwrap();
            let pair = pairs.iter().find(|p| p["remote"].is_string()).unwrap();
            let ms = |value: &Value| value.as_f64().unwrap();
            let off = ms(&pair["rtt_ms"]["min"]) - ms(&pair["expected_rtt_ms"]);
            for host in &hosts {
                host.enter(|| emu("unload"));
            }
            (off, ms(&pair["link_ms"]), warnings)
        };
        let wire_ms = bound_ms(0.1, 2.0);
        let is = |what: f64, expected: f64| (what - expected).abs() < wire_ms;

        let slow = TOPOLOGY.replace("100ms", "30ms");
        let (off, link, warnings) = round_trip(&slow, "");
        assert!(is(off, 12.0) && is(link, 12.0), "{off} {link}");
        assert_eq!(warnings, "");
        let told = format!("{slow}host_latency: 6ms\n");
        let (off, link, warnings) = round_trip(&told, "");
        assert!(is(off, 0.0) && is(link, 0.0), "{off} {link}");
        assert_eq!(warnings, "");
        let (off, _, _) = round_trip(&slow, "6ms");
        assert!(is(off, 0.0), "by the environment: {off}");
        let (off, _, _) = round_trip(&told, "1ms");
        assert!(is(off, 0.0), "the file comes first: {off}");

        // From b to a there are 5 ms before a's line, which is 1 ms less than the network takes.
        let quick = TOPOLOGY.replace("100ms", "0ms") + "host_latency: 6ms\n";
        let (off, _, warnings) = round_trip(&quick, "");
        assert!(is(off, 1.0), "{off}");
        assert!(
            warnings.contains("packets from b to a have 5 ms of latency"),
            "{warnings}"
        );
    });
}
