//! Two hosts, each a network namespace, joined by a veth pair.
use integration::{
    command::{TopologyFile, emu, emu_json, run},
    netns::{isolated, two_hosts},
};

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
        for (host, name) in hosts.iter().zip(["h1", "h2"]) {
            let path = file.path();
            host.enter(move || emu(&format!("load {path} --host {name} --no-verify")));
        }
        for (host, pairs) in hosts.iter().zip([2, 2]) {
            let report = host.enter(|| emu_json("verify"));
            assert_eq!(report["ok"], true, "{report}");
            assert_eq!(report["pairs"].as_array().unwrap().len(), pairs);
        }
        // The way through `ip netns exec`, which hides the BPF file system.
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

/// Loading inside `ip netns exec` works too, and is seen from outside it.
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
