//! IPv6 with the same features as IPv4, in one file with IPv4.
use std::{thread, time::Duration};

use integration::{
    command::{TopologyFile, emu, emu_json, run},
    netns::{isolated, load_on, two_hosts},
    udp,
};

use crate::safety::snapshot;

fn topology(addressing: &str, rest: &str) -> String {
    format!(
        "
version: 1
addressing: {addressing}
groups:
  new:
    prefix: fd10::/32
    groups:
      near: {{prefix: 'fd10:0:1::/64', nodes: 20, up: 1mbit, down: 8mbit, latency: 20ms}}
      far: {{prefix: 'fd10:0:2::/64', nodes: 20, up: 10mbit, down: 10mbit, latency: 5ms}}
  old: {{prefix: 10.1.0.0/24, nodes: 20, up: 1mbit, down: 1mbit, latency: 10ms}}
latencies:
  - {{between: [near, far], latency: 100ms}}
{rest}
"
    )
}

#[test]
fn a_mixed_file_shows_the_model_and_unloads() {
    for addressing in ["alias", "anyip"] {
        isolated(move || {
            let before = snapshot() + &run("sysctl net.ipv6.ip_nonlocal_bind");
            let file = TopologyFile::new(&topology(addressing, ""));
            file.load();
            let report = emu_json("verify --rates");
            assert_eq!(report["ok"], true, "{addressing}: {report}");
            // near-near, near-far, far-far, old-old: there are no pairs across address
            // families.
            assert_eq!(report["pairs"].as_array().unwrap().len(), 4);
            assert_eq!(report["rates"].as_array().unwrap().len(), 6);
            let near = &emu_json("status fd10:0:1::1")["up"]["counters"];
            assert!(near["packets"].as_u64().unwrap() > 100, "{near}");
            emu("unload");
            assert_eq!(
                snapshot() + &run("sysctl net.ipv6.ip_nonlocal_bind"),
                before
            );
        });
    }
}

#[test]
fn udp_over_ipv6_gets_the_rate() {
    isolated(|| {
        let file = TopologyFile::new(&topology("alias", ""));
        file.load();
        // The kernel completes new IPv6 addresses in a work queue, which in virtual time may
        // run after the first datagram.
        thread::sleep(Duration::from_secs(1));
        let (from, to) = (udp::socket("fd10:0:1::1"), udp::socket("fd10:0:1::2"));
        let receiver = thread::spawn(move || udp::receive(&to, usize::MAX, Duration::from_secs(2)));
        let gap = Duration::from_millis(6);
        let sent = udp::blast(&from, "fd10:0:1::2", 1452, gap, Duration::from_secs(5));
        let arrivals = receiver.join().unwrap();
        let time = arrivals.last().unwrap().arrived - arrivals[0].arrived;
        let rate = (arrivals.len() - 1) as f64 * 12_000.0 / time.as_secs_f64();
        assert!((rate / 1e6 - 1.0).abs() <= 0.01, "{rate}");
        let counters = &emu_json("status fd10:0:1::1")["up"]["counters"];
        let drops = counters["drops_packets"].as_u64().unwrap();
        assert_eq!(arrivals.len() as u64 + drops, u64::from(sent));
    });
}

#[test]
fn two_hosts_reach_each_other_by_both_families() {
    isolated(|| {
        let hosts = two_hosts("six");
        for (i, host) in hosts.iter().enumerate() {
            let name = host.name();
            // Neighbour discovery needs a link-local address, which these interfaces do not
            // have.
            for prefix in ["fd99", "fe80"] {
                let address = format!("{prefix}::{}/64", i + 1);
                run(&format!("ip -n {name} addr add {address} dev eth0 nodad"));
            }
        }
        let file = TopologyFile::new(&topology(
            "alias",
            "hosts:
  - {name: h1, interface: eth0, address: [192.0.2.1, 'fd99::1'], groups: [near], nodes: [10.1.0.1-10.1.0.10]}
  - {name: h2, interface: eth0, address: [192.0.2.2, 'fd99::2'], groups: [far], nodes: [10.1.0.11-10.1.0.20]}",
        ));
        load_on(&hosts, &file);
        for host in &hosts {
            let report = host.enter(|| emu_json("verify"));
            assert_eq!(report["ok"], true, "{report}");
        }
        let a = hosts[0].name();
        let ping = run(&format!(
            "ip netns exec {a} ping -n -c 2 -I 10.1.0.1 10.1.0.11"
        ));
        assert!(ping.contains("2 received"), "{ping}");
        for host in &hosts {
            host.enter(|| emu("unload"));
        }
    });
}
