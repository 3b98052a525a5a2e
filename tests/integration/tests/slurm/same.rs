//! The same experiment on one, two and four nodes.
use std::{collections::BTreeMap, fs};

use integration::median;

use crate::{
    cluster::{Cluster, with_cluster},
    experiment::{Shared, files, succeed},
};

/// Seven clients send twelve pings each to a server, and one sends it half a megabyte. The
/// server reports when it is ready, on whichever node it runs.
const EXPERIMENT: &str = "name: same
topology: topology.yaml
seed: 7
duration: 60s
programs:
  - name: server
    on: servers/0
    run: [iperf3, -s, -B, '{ip}', -p, '5201']
    ready: {tcp: 5201}
    background: true
  - name: ping
    on: clients/0-6
    run: [ping, -c, '12', -i, '0.2', -I, '{ip}', '{ip:server}']
  - name: upload
    on: clients/7
    run: [iperf3, -c, '{ip:server}', -B, '{ip}', -n, 500K, -J]
";
/// Round trip of 84 bytes: twice 75 ms, and the serialisation on four pipes.
const ROUND_TRIP_MS: f64 = 150.0 + 84.0 * 8.0 / 1e3 * (1.0 / 2.0 + 1.0 / 8.0 + 2.0 / 100.0);

/// Results of a run: final counters of each vnode, minimum and mean time of each client's
/// pings.
struct Result {
    counters: BTreeMap<String, [f64; 4]>,
    pings_ms: Vec<[f64; 2]>,
}

fn result(cluster: &Cluster, shared: &Shared, nodes: usize) -> Result {
    let out = format!("on-{nodes}");
    let begin = std::time::Instant::now();
    let said = succeed(
        cluster,
        shared.srun(cluster, &format!("-N{nodes}"), &out, ""),
    );
    println!("{said}took {:.1} s", begin.elapsed().as_secs_f64());
    let mut counters = BTreeMap::new();
    for row in shared.table(&format!("{out}/counters.csv")) {
        let number = |name: &str| row[name].parse::<f64>().unwrap();
        let last = [
            "sent_packets",
            "received_packets",
            "sent_bytes",
            "received_bytes",
        ];
        counters.insert(row["vnode"].clone(), last.map(number));
    }
    // ping prints whole milliseconds on each line, and thousandths in its summary.
    let pings_ms = files(&shared.path(&format!("{out}/vnodes")), "stdout")
        .iter()
        .filter_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let (_, times) = text.split_once("rtt min/avg/max/mdev = ")?;
            let mut times = times.split('/').map(|t| t.parse::<f64>().unwrap_or(0.0));
            Some([times.next()?, times.next()?])
        })
        .collect();
    Result { counters, pings_ms }
}

#[test]
fn one_two_and_four_nodes_give_the_same() {
    with_cluster("one_two_and_four_nodes_give_the_same", 4, |cluster| {
        let shared = Shared::new(EXPERIMENT);
        let results = [1, 2, 4].map(|nodes| result(cluster, &shared, nodes));
        for (result, nodes) in results.iter().zip([1, 2, 4]) {
            assert_eq!(result.pings_ms.len(), 7, "over {nodes} nodes");
            let middle = median(&result.pings_ms.iter().map(|p| p[1]).collect::<Vec<_>>());
            let least = result
                .pings_ms
                .iter()
                .map(|p| p[0])
                .fold(f64::MAX, f64::min);
            println!(
                "over {nodes} nodes: ping {middle:.2} ms (least {least:.2}), model {ROUND_TRIP_MS:.2}"
            );
            // The model is a lower bound; with many packets at least one finds the machine
            // idle.
            assert!(least > ROUND_TRIP_MS - 0.1, "{least}");
            assert!(least < ROUND_TRIP_MS * 1.05, "{least}");
            alike(&results[0], result);
        }
        let merged = shared.json("on-4/summary.json");
        assert_eq!(merged["lost"].as_array().unwrap().len(), 0, "{merged}");
        assert_eq!(merged["ended"], "complete");
        assert_eq!(merged["hosts"].as_array().unwrap().len(), 4);
        // The nodes share one clock; a datagram's round trip bounds the measured error.
        for host in &merged["hosts"].as_array().unwrap()[1..] {
            let [ahead, trip] = ["ahead_ns", "round_trip_ns"].map(|k| host["clock"][k].as_f64());
            assert!(ahead.unwrap().abs() <= trip.unwrap() / 2.0 + 1e3, "{host}");
        }
        let apart = merged["starts_apart_ms"].as_f64().unwrap();
        println!("four nodes started within {apart:.2} ms");
        assert!(apart < 2e3, "{apart}");
        let page = fs::read_to_string(shared.path("on-4/report/report.html")).unwrap();
        assert!(page.contains("a run over 4 hosts") && page.contains("<svg"));
        let rows = shared.table("on-4/processes.csv");
        let hosts: std::collections::BTreeSet<&String> = rows.iter().map(|r| &r["host"]).collect();
        assert_eq!((rows.len(), hosts.len()), (9, 4), "{rows:?}");
        // Every node is as before the run.
        for node in 0..4 {
            assert_eq!(cluster.named(node, "iperf3").len(), 0);
            let qdiscs = cluster.on(node, || integration::command::run("tc qdisc show dev eth0"));
            assert!(!qdiscs.contains("clsact"), "{qdiscs}");
        }
    });
}

/// Checks that the counters are the same: exactly where programs send a fixed number of
/// packets; with TCP, which retransmits dropped packets and acknowledges at varying
/// intervals, the bytes of the data's direction, within a tenth.
fn alike(one: &Result, other: &Result) {
    let vnodes = |r: &Result| r.counters.keys().cloned().collect::<Vec<_>>();
    assert_eq!(vnodes(one), vnodes(other));
    for (vnode, counters) in &one.counters {
        let others = &other.counters[vnode];
        let data = match vnode.as_str() {
            "10.1.0.8" => Some(2),
            "10.9.0.1" => Some(3),
            _ => None,
        };
        let same = match data {
            Some(at) => (counters[at] - others[at]).abs() < 0.1 * counters[at],
            None => counters == others,
        };
        assert!(same, "{vnode}: {counters:?}, {others:?}");
    }
}
