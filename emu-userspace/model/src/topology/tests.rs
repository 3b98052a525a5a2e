//! The model of the checked topology, on the P2PLab example.
use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::*;

const P2PLAB: &str = include_str!("../../../../topologies/p2plab.yaml");

fn p2plab() -> Topology {
    parse(P2PLAB, "p2plab.yaml").unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn p2plab_has_2750_vnodes_in_five_leaf_groups() {
    let topology = p2plab();
    let count = |name| topology.vnode_count(topology.group_named(name).unwrap());
    assert_eq!(topology.vnode_total(), 2750);
    assert_eq!(
        ["modem", "adsl", "cable", "campus", "dsl"].map(count),
        [250, 250, 250, 1000, 1000]
    );
    let modem = topology.group_named("modem").unwrap();
    let first: Vec<IpAddr> = topology.vnode_addresses(modem).take(2).collect();
    assert_eq!(
        first,
        ["10.1.1.1", "10.1.1.2"].map(|a| a.parse::<IpAddr>().unwrap())
    );
}

#[test]
fn vnodes_have_two_names() {
    let topology = p2plab();
    let named = |name| topology.vnode_named(name).map(|a| a.to_string());
    for (name, address) in [
        ("modem/0", Some("10.1.1.1")),
        ("modem/249", Some("10.1.1.250")),
        ("modem/250", None),
        ("modem/-1", None),
        ("modem", None),
        ("nosuch/0", None),
        ("10.1.1.250", Some("10.1.1.250")),
        ("10.1.1.251", None),
        ("10.9.0.1", None),
    ] {
        assert_eq!(named(name).as_deref(), address, "{name}");
    }
}

/// Milliseconds of the link that applies from one group to another.
fn latency_ms(topology: &Topology, from: &str, to: &str) -> u128 {
    let [from, to] = [from, to].map(|name| topology.group_named(name).unwrap());
    topology.pair_links()[from * topology.groups.len() + to]
        .map_or(0, |way| topology.links[way.link].latency.as_millis())
}

#[test]
fn the_most_specific_link_counts() {
    let topology = p2plab();
    for (a, b, ms) in [
        ("modem", "modem", 0),
        ("modem", "adsl", 100),
        ("cable", "modem", 100),
        ("modem", "campus", 400),
        ("campus", "adsl", 400),
        ("cable", "dsl", 600),
        ("campus", "dsl", 1000),
        ("dsl", "dsl", 0),
    ] {
        assert_eq!(latency_ms(&topology, a, b), ms, "{a} to {b}");
    }
}

#[test]
fn equal_depth_prefers_the_more_specific_source() {
    let text = "
version: 1
groups:
  a: {prefix: 10.1.0.0/16, groups: {a1: {prefix: 10.1.1.0/24, nodes: 1}}}
  b: {prefix: 10.2.0.0/16, groups: {b1: {prefix: 10.2.1.0/24, nodes: 1}}}
latencies:
  - {between: [a1, b], latency: 10ms}
  - {between: [a, b1], latency: 20ms}
  - {between: [a1, a1], latency: 5ms}
";
    let topology = parse(text, "t").unwrap();
    for (from, to, ms) in [
        ("a1", "b1", 10),
        ("b1", "a1", 20),
        ("a1", "a1", 5),
        ("b1", "b1", 0),
    ] {
        assert_eq!(latency_ms(&topology, from, to), ms, "{from} to {to}");
    }
}

#[test]
fn counted_vnodes_skip_nested_groups_and_the_ends_of_the_prefix() {
    let text = "
version: 1
groups:
  outer:
    prefix: 10.0.0.0/29
    nodes: 2
    groups: {inner: {prefix: 10.0.0.0/30, nodes: 2}}
";
    let topology = parse(text, "t").unwrap();
    let all = |g| {
        topology
            .vnode_addresses(g)
            .map(|a| a.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(all(0), ["10.0.0.4", "10.0.0.5"]);
    assert_eq!(all(1), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(topology.group_of("10.0.0.2".parse().unwrap()), Some(1));
}

#[test]
fn hosts_share_a_group_by_runs() {
    let text = "
version: 1
groups:
  a: {prefix: 10.0.0.0/24, nodes: 4}
  b: {prefix: 10.0.1.0/24, nodes: 2}
hosts:
  - {name: h1, interface: eth0, address: 192.0.2.1, groups: [b], nodes: [10.0.0.1-10.0.0.3]}
  - {name: h2, interface: eth0, address: 192.0.2.2, nodes: [10.0.0.4]}
";
    let topology = parse(text, "t").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(topology.host_vnodes("h1").len(), 5);
    assert_eq!(
        topology.host_vnodes("h2"),
        ["10.0.0.4".parse::<IpAddr>().unwrap()]
    );
}

#[test]
fn profiles_and_inheritance() {
    let text = "
version: 1
profiles: {line: {up: 1mbit, down: {rate: 8mbit, queue: 64KB}, latency: 20ms}}
groups:
  a:
    prefix: 10.0.0.0/16
    profile: line
    groups:
      b: {prefix: 10.0.1.0/24, nodes: 1, up: 2mbit, latency: 30ms}
";
    let topology = parse(text, "t").unwrap_or_else(|e| panic!("{e}"));
    let b = &topology.groups[1];
    assert_eq!(b.up.rate, Some(Rate(2_000_000)));
    assert_eq!(b.down.rate, Some(Rate(8_000_000)));
    assert_eq!(b.down.queue, Queue::Bytes(64_000));
    assert_eq!(b.up.latency, Duration::from_millis(30));
}

#[test]
fn large_topologies_are_checked_quickly() {
    let mut text = String::from("version: 1\ngroups:\n");
    for i in 0..1000 {
        text += &format!(
            "  g{i}: {{prefix: 10.{}.{}.0/24, nodes: 65}}\n",
            i / 250,
            i % 250
        );
    }
    let start = std::time::Instant::now();
    let topology = parse(&text, "t").unwrap();
    assert_eq!(topology.vnode_total(), 65_000);
    // Any check that is quadratic in vnodes would take minutes; a second is generous.
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

/// The largest matrix: every pair of the largest number of groups.
#[test]
fn a_full_matrix_is_read() {
    let groups = 1024;
    let mut text = String::from("version: 1\ngroups:\n");
    for i in 0..groups {
        text += &format!(
            "  g{i}: {{prefix: 10.{}.{}.0/24, nodes: 2}}\n",
            i / 256,
            i % 256
        );
    }
    let names: Vec<String> = (0..groups).map(|i| format!("g{i}")).collect();
    text += &format!(
        "latency_matrix:\n  groups: [{}]\n  rows:\n",
        names.join(", ")
    );
    for i in 0..groups {
        let row: Vec<String> = (0..groups)
            .map(|j| format!("{}ms", (i + j) % 100))
            .collect();
        text += &format!("    - [{}]\n", row.join(", "));
    }
    let topology = parse(&text, "t").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(topology.links.len(), groups * groups);
    assert_eq!(latency_ms(&topology, "g3", "g40"), 43);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any damage to a good file is an error or a topology, never a panic.
    #[test]
    fn damaged_files_do_not_panic(
        at in 0usize..P2PLAB.len(),
        length in 0usize..40,
        insert in "[\\PC\\n\\t:{}\\[\\]&*<>|-]{0,12}",
    ) {
        let mut bytes = P2PLAB.as_bytes().to_vec();
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, insert.bytes());
        if let Ok(text) = String::from_utf8(bytes)
            && let Err(errors) = parse(&text, "damaged.yaml")
        {
            prop_assert!(!errors.problems.is_empty());
            prop_assert!(errors.to_string().contains("damaged.yaml"));
        }
    }

    #[test]
    fn any_text_does_not_panic(text in "\\PC{0,200}") {
        let _ = parse(&text, "t").map_err(|e| e.to_string());
    }
}
