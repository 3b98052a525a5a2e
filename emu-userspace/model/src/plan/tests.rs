//! Plans of the shipped and of small topologies.
use super::*;
use crate::topology::parse;

const P2PLAB: &str = include_str!("../../../../topologies/p2plab.yaml");

fn plan(text: &str, host: Option<&str>) -> Plan {
    let topology = parse(text, "t").unwrap_or_else(|e| panic!("{e}"));
    Plan::new(&topology, host).unwrap_or_else(|e| panic!("{e}"))
}

/// Every row of the table that the P2PLab topology must show: 84-byte ping.
#[test]
fn p2plab_round_trip_times() {
    let plan = plan(P2PLAB, None);
    let id = |name: &str| plan.groups.iter().position(|g| g.name == name).unwrap();
    for (a, b, ms) in [
        ("modem", "modem", 464.0),
        ("modem", "adsl", 518.6),
        ("modem", "cable", 472.8),
        ("modem", "campus", 1042.1),
        ("modem", "dsl", 1453.3),
        ("adsl", "adsl", 173.1),
        ("adsl", "cable", 327.3),
        ("adsl", "campus", 896.7),
        ("adsl", "dsl", 1307.9),
        ("cable", "cable", 81.5),
        ("cable", "campus", 850.9),
        ("cable", "dsl", 1262.1),
        ("campus", "campus", 20.27),
        ("campus", "dsl", 2031.5),
        ("dsl", "dsl", 42.69),
    ] {
        let got = plan.idle_rtt_ns(id(a), id(b), 84) as f64 / 1e6;
        assert!((got - ms).abs() < 0.06, "{a} to {b}: {got} instead of {ms}");
    }
}

#[test]
fn every_pipe_has_its_own_part_of_the_ring() {
    let plan = plan(P2PLAB, None);
    assert_eq!(plan.ring_slots(), 2 * 50 * 2750);
    let pipes = Entries::of(&plan).pipes;
    assert_eq!(pipes.len(), 2 * 2750);
    for (i, pipe) in pipes.iter().enumerate() {
        assert_eq!(pipe.ring_base, 50 * i as u32);
    }
}

#[test]
fn fq_holds_the_queue_and_what_is_in_flight() {
    let fat = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 1, up: 10mbit, latency: 500ms, queue: 1000 packets}
";
    let fq = plan(fat, None).fq;
    // 10 Mbit/s for half a second is 417 full packets, or 15,625 small ones.
    assert!(fq.flow_limit_packets > 1000 + 15_625);
    let slow = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 1, up: 33.6kbit}
";
    // 50 packets of 1500 bytes at 33.6 kbit/s last 17.9 s, beyond fq's 10 s.
    assert!(plan(slow, None).fq.horizon_us > 17_800_000);
    let set = "
version: 1
fq: {limit: 7, flow_limit: 8, horizon: 9s, buckets: 16, orphan_mask: 15}
groups:
  a: {prefix: 10.1.0.0/24, nodes: 1}
";
    let fq = plan(set, None).fq;
    assert_eq!((fq.limit_packets, fq.flow_limit_packets), (7, 8));
    assert_eq!(
        (fq.horizon_us, fq.buckets, fq.orphan_mask),
        (9_000_000, 16, 15)
    );
}

/// fq's horizon is 2^32 - 1 us, one second of which is for the clock.
#[test]
fn packets_that_fq_cannot_hold_as_long_as_they_wait_are_refused() {
    let refusal = |pipe: &str, rest: &str| {
        let text = format!(
            "version: 1\ngroups: {{a: {{prefix: 10.1.0.0/24, nodes: 1, {pipe}}}}}\n{rest}\n"
        );
        let topology = crate::topology::parse(&text, "t").unwrap();
        Plan::new(&topology, None).err().map(|e| e.to_string())
    };
    let event = |change: &str| format!("events: [{{at: 5s, set: {{group: a, {change}}}}}]");
    for (pipe, rest) in [
        ("up: {rate: 1mbit, queue: 60min, latency: 693967ms}", ""),
        // 36 packets of 1500 bytes at 100 bit/s are 72 minutes, and 35 are 70.
        ("up: {rate: 100bit, queue: 35 packets}", ""),
        ("up: 1mbit", &event("up: 100bit, queue: 35 packets")),
        // It waits for both at the same time.
        (
            "up: {rate: 1mbit, queue: 60min}",
            "latencies: [{between: [a, a], rate: 1mbit, queue: 60min}]",
        ),
    ] {
        assert_eq!(refusal(pipe, rest), None, "{pipe} {rest}");
    }
    for (pipe, rest, word) in [
        (
            "up: {rate: 1mbit, queue: 60min, latency: 693968ms}",
            "",
            "the group a could wait 1h 11m 33s",
        ),
        ("down: {rate: 100bit, queue: 36 packets}", "", "1h 12m"),
        (
            "up: 1mbit",
            &event("up: 100bit, queue: 36 packets"),
            "a after its event at 5s could wait 1h 12m",
        ),
    ] {
        let message = refusal(pipe, rest).unwrap_or_default();
        assert!(message.contains(word), "{pipe} {rest}: {message}");
    }
}

const TWO_HOSTS: &str = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 6}
hosts:
  - {name: h1, interface: eth0, address: 192.0.2.1, nodes: [10.1.0.1-10.1.0.4]}
  - {name: h2, interface: eth1, address: 192.0.2.2, nodes: [10.1.0.5-10.1.0.6]}
";

#[test]
fn a_host_carries_its_part_and_routes_the_rest() {
    let plan = plan(TWO_HOSTS, Some("h1"));
    assert_eq!(plan.vnodes.len(), 4);
    assert_eq!(plan.interfaces, ["lo", "eth0"]);
    let [routes] = &plan.routes[..] else {
        panic!("{:?}", plan.routes)
    };
    assert_eq!(routes.gateway.to_string(), "192.0.2.2");
    let prefixes: Vec<String> = routes.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.1.0.5/32", "10.1.0.6/32"]);
}

#[test]
fn hosts_must_be_known() {
    let topology = parse(TWO_HOSTS, "t").unwrap();
    let error = |host| Plan::new(&topology, host).unwrap_err().to_string();
    assert!(error(None).contains("--host NAME"), "{}", error(None));
    assert!(
        error(Some("h3")).contains("h1, h2"),
        "{}",
        error(Some("h3"))
    );
}

#[test]
fn more_vnodes_than_a_host_carries() {
    let text = "
version: 1
groups: {a: {prefix: 10.0.0.0/8, nodes: 65537, queue: 64KB}}
";
    let topology = parse(text, "t").unwrap();
    assert_eq!(
        Plan::new(&topology, None).unwrap_err(),
        PlanError::TooManyVnodes { count: 65_537 }
    );
}

#[test]
fn runs_and_prefixes_cover_exactly() {
    let addresses_in = |list: &[&str]| {
        list.iter()
            .map(|a| a.parse::<IpAddr>().unwrap())
            .collect::<Vec<_>>()
    };
    let input = addresses_in(&["10.0.0.3", "10.0.0.1", "10.0.0.2", "10.0.0.9", "10.0.0.2"]);
    let found = address_ranges(input.into_iter());
    assert_eq!(found.len(), 2);
    let all: Vec<IpAddr> = found.iter().flat_map(|run| addresses(*run)).collect();
    assert_eq!(
        all,
        addresses_in(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9"])
    );
    let covered: Vec<String> = covering_prefixes(&found)
        .iter()
        .map(|p| p.to_string())
        .collect();
    assert_eq!(covered, ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.9/32"]);
}

#[test]
fn events_bring_features_and_room() {
    use emu_common::layout::feature;

    let quiet = "
version: 1
groups: {a: {prefix: 10.1.0.0/24, nodes: 100, up: 1mbit}, b: {prefix: 10.2.0.0/24, nodes: 2}}
";
    assert_eq!(plan(quiet, None).features(), 0);
    let events = format!(
        "{quiet}events:
  - {{at: 1s, set: {{group: a, loss: 1%, queue: 900 packets}}}}
  - {{at: 2s, set: {{between: [a, b], duplicate: 1%}}}}
"
    );
    let loud = plan(&events, None);
    assert_eq!(loud.features(), feature::IMPAIRMENTS | feature::COPIES);
    assert!(!loud.corrupts());
    let room = MapCapacity::of(&loud, &Entries::of(&loud));
    assert!(room.stages >= 200, "{room:?}");
    assert!(room.ring >= loud.ring_slots() + 2 * 900 * 100, "{room:?}");
    let corrupt = events.replace("duplicate", "corrupt");
    assert!(plan(&corrupt, None).corrupts());
}

/// The plan of a host grows with its own vnodes, not with all vnodes.
#[test]
fn a_slice_of_a_million_vnodes() {
    let groups: String = (0..16)
        .map(|i| {
            format!("  g{i}: {{prefix: 10.{i}.0.0/16, nodes: 62500, up: 1mbit, down: 2mbit}}\n")
        })
        .collect();
    let hosts = "hosts: {count: 100, interface: eth0, address: 192.168.0.1}";
    for placement in ["block", "spread"] {
        let text = format!("version: 1\nplacement: {placement}\n{hosts}\ngroups:\n{groups}");
        let mut topology = parse(&text, "t").unwrap();
        let plan = Plan::new(&topology, Some("h42")).unwrap();
        assert_eq!(plan.vnodes.len(), 10_000, "{placement}");
        assert!(plan.address_ranges.len() <= 16);
        assert_eq!(plan.routes.len(), 99);
        // A range of addresses needs about two prefixes per bit of its length.
        let prefixes: usize = plan.routes.iter().map(|r| r.prefixes.len()).sum();
        assert!(prefixes < 99 * 16 * 32, "{placement}: {prefixes}");
        topology.resize(4).unwrap();
        assert_eq!(
            Plan::new(&topology, Some("h3")).unwrap_err(),
            PlanError::TooManyVnodes { count: 250_000 }
        );
    }
}

/// Aliases for up to some thousands of vnodes of this host, routes for more, unless the file
/// sets one of them.
#[test]
fn the_number_of_vnodes_decides_how_they_get_their_addresses() {
    for (says, nodes, expected) in [
        ("", MOST_ALIASES, Addressing::Alias),
        ("addressing: auto\n", MOST_ALIASES + 1, Addressing::AnyIp),
        ("addressing: alias\n", MOST_ALIASES + 1, Addressing::Alias),
        ("addressing: anyip\n", 1, Addressing::AnyIp),
    ] {
        let text =
            format!("version: 1\n{says}groups: {{a: {{prefix: 10.1.0.0/16, nodes: {nodes}}}}}\n");
        assert_eq!(plan(&text, None).addressing, expected, "{text}");
    }
}

#[test]
fn machines_have_no_aliases_and_bring_their_programs() {
    use emu_common::layout::feature;

    let text = "version: 1\nkind: machine\ngroups:\n  \
        a: {prefix: 10.1.0.0/24, nodes: 3}\n  \
        p: {prefix: 10.2.0.0/24, kind: process, nodes: 2, groups: \
        {q: {prefix: 10.2.0.128/25, nodes: 1}}}\n  \
        b: {prefix: 10.3.0.0/24, nodes: 1}\n";
    let plan = plan(text, None);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let machines: Vec<_> = plan.machines().collect();
    let wanted = [
        (0, "10.1.0.1"),
        (1, "10.1.0.2"),
        (2, "10.1.0.3"),
        (6, "10.3.0.1"),
    ];
    assert_eq!(machines, wanted.map(|(index, a)| (index, address(a))));
    let aliases: Vec<_> = (plan.address_ranges.iter())
        .flat_map(|range| super::addresses(*range))
        .collect();
    assert_eq!(aliases, plan.process_addresses().collect::<Vec<_>>());
    assert_eq!(aliases, ["10.2.0.1", "10.2.0.2", "10.2.0.129"].map(address));
    assert_eq!(plan.features(), feature::MACHINES);
    let names: Vec<_> = (plan.placed_vnodes())
        .map(|(vnode, place)| plan.host_name(vnode, place))
        .collect();
    assert_eq!(names, ["a-0", "a-1", "a-2", "p-0", "p-1", "q-0", "b-0"]);
    assert_eq!(plan.uplink(), None);
}
