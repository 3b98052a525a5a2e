//! The ready-made experiments in `experiments/`: real programs, which check themselves
//! whether they completed their task.
use integration::{
    experiment::{Results, run},
    netns::isolated,
};
use serde_json::Value;

/// Median of the bytes that the home vnodes sent: without uploads of clients there is no
/// swarm.
fn median_upload_bytes(results: &Results) -> u64 {
    let mut last = std::collections::BTreeMap::new();
    for row in results.table("counters.csv") {
        if row[1].starts_with("10.21.") {
            last.insert(row[1].clone(), row[3].parse::<u64>().unwrap());
        }
    }
    let mut sent: Vec<u64> = last.into_values().filter(|bytes| *bytes > 0).collect();
    sent.sort_unstable();
    sent[sent.len() / 2]
}

#[test]
fn bittorrent_clients_get_the_same_file_and_share_it() {
    isolated(|| {
        let results = run("bittorrent");
        let clients = results.printed("client");
        assert_eq!(clients.len(), 8);
        assert!(
            clients.iter().all(|text| text.contains("file: OK")),
            "{clients:?}"
        );
        // A sixteenth of the file is far more than the acknowledgements for the file.
        let sent = median_upload_bytes(&results);
        assert!(sent > (1 << 20) / 16, "clients sent {sent} bytes (median)");
    });
}

#[test]
fn dht_nodes_find_every_value() {
    isolated(|| {
        let nodes = run("dht").printed("node");
        assert_eq!(nodes.len(), 20);
        assert!(
            nodes.iter().all(|text| text.contains("\nfound ")),
            "{nodes:?}"
        );
    });
}

#[test]
fn gossip_members_know_all_members() {
    isolated(|| {
        let members = run("gossip").printed("member");
        assert_eq!(members.len(), 20);
        assert!(
            members.iter().all(|text| text.starts_with("members 20 ")),
            "{members:?}"
        );
    });
}

#[test]
fn http_pages_arrive_and_iperf3_gets_its_line() {
    isolated(|| {
        let results = run("http");
        let pages = results.printed("reader");
        assert_eq!(pages, ["page: OK\n"; 4]);
        let meter: Value = serde_json::from_str(&results.printed("meter")[0]).unwrap();
        let bits_per_s = meter["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .unwrap();
        // 1448 of 1500 bytes are payload, and TCP has to find the rate first.
        let share = bits_per_s / 8e6;
        println!("iperf3: {share:.3} of the line");
        assert!((0.85..=1.0).contains(&share), "{share} of the line");
    });
}
