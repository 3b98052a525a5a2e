//! Hosts that are reached by ssh, with the commands of `docs/testbeds.md`: a real sshd on
//! each of four hosts, ssh and clush on a fifth. `cargo xtask test` runs the tests in the
//! VM.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![expect(clippy::print_stdout, reason = "what a test measured")]

mod site;

use integration::command::emu_path;
use serde_json::Value;
use site::with_site;

/// A topology whose hosts are those of the site.
fn topology(hosts: &str) -> String {
    format!(
        "
version: 1
name: site
groups:
  servers: {{prefix: 10.9.0.0/24, nodes: 4, up: 100mbit, down: 100mbit, latency: 5ms}}
  clients: {{prefix: 10.1.0.0/24, nodes: 8, up: 2mbit, down: 8mbit, latency: 20ms}}
latencies:
  - {{between: [servers, clients], latency: 50ms}}
{hosts}
"
    )
}

/// The output of one host, from output that has each line behind the host's name.
fn of(said: &str, host: usize) -> Vec<&str> {
    let name = format!("node{host}: ");
    said.lines().filter_map(|l| l.strip_prefix(&name)).collect()
}

#[test]
fn topologies_over_clush() {
    with_site("topologies_over_clush", 4, |site| {
        let hosts: String = (1..=4)
            .map(|n| {
                format!(
                    "  - {{name: node{n}, interface: eth0, address: 192.0.2.{n}, nodes: \
                     [10.9.0.{n}, 10.1.0.{}-10.1.0.{}]}}\n",
                    2 * n - 1,
                    2 * n
                )
            })
            .collect();
        let file = site.write("topo.yaml", &topology(&format!("hosts:\n{hosts}")));
        let emu = emu_path().display().to_string();
        let said = site.clush(&format!("{emu} load {file} --host auto --no-verify"));
        for host in 1..=4 {
            let lines = of(&said, host);
            assert!(
                lines.iter().any(|l| l.contains("3 vnodes")),
                "node{host}: {said}"
            );
        }
        // Each host also measures the pairs of its vnodes with those of the other hosts.
        let said = site.clush(&format!("{emu} verify"));
        for host in 1..=4 {
            let lines = of(&said, host);
            let verdict = lines
                .iter()
                .find(|l| l.contains("pairs of groups as expected"));
            println!("node{host}: {}", verdict.unwrap_or(&"no verdict"));
            assert!(verdict.is_some(), "{said}");
            assert!(
                lines
                    .iter()
                    .any(|l| l.contains("round trip, subtracted from its pairs")),
                "node{host} measured with no other: {said}"
            );
        }
        site.clush(&format!("{emu} unload"));
        let left = site.clush("tc qdisc show dev eth0");
        assert!(!left.contains("clsact"), "{left}");
    });
}

/// A server on one host and clients on all hosts, started by one ssh per host.
const EXPERIMENT: &str = "
name: site
topology: topo.yaml
seed: 7
duration: 60s
programs:
  - {name: server, on: servers/0, run: [iperf3, -s, -B, '{ip}'], ready: {tcp: 5201}, background: true}
  - {name: ping, on: clients, run: [ping, -c, '8', -i, '0.2', -I, '{ip}', '{ip:server}']}
";

#[test]
fn an_experiment_over_ssh() {
    with_site("an_experiment_over_ssh", 4, |site| {
        site.write("topo.yaml", &topology(""));
        let experiment = site.write("experiment.yaml", EXPERIMENT);
        let results = site.path("results");
        let emu = emu_path().display().to_string();
        let sessions: Vec<_> = (0..4)
            .map(|rank| {
                let line = format!("{emu} run {experiment} --out {results} --rank {rank} --size 4");
                site.ssh(rank + 1, &line)
            })
            .collect();
        for session in sessions {
            let output = session.wait_with_output().unwrap();
            let output_text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{output_text}");
        }
        let text = std::fs::read_to_string(site.path("results/summary.json")).unwrap();
        let merged: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(merged["ended"], "complete", "{merged}");
        assert_eq!((&merged["done"], &merged["failed"]), (&8.into(), &0.into()));
        assert_eq!(merged["hosts"].as_array().unwrap().len(), 4);
        // 150 ms and the serialisation of 84 bytes on four pipes.
        let model_ms = 150.0 + 84.0 * 8.0 / 1e3 * (1.0 / 2.0 + 1.0 / 8.0 + 2.0 / 100.0);
        for client in 1..=8 {
            let said = site.read(&format!("results/vnodes/10.1.0.{client}/ping/stdout"));
            let (_, times) = said.split_once("rtt min/avg/max/mdev = ").unwrap();
            let least: f64 = times.split('/').next().unwrap().parse().unwrap();
            println!("10.1.0.{client}: {least:.2} ms, model {model_ms:.2}");
            // The network between the hosts and a busy machine add delay; nothing makes it
            // smaller.
            assert!((model_ms - 0.1..model_ms * 1.05).contains(&least), "{said}");
        }
    });
}
