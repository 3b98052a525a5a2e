//! The bytecode itself, run by the kernel on single packets: verdict, bytes, delivery time,
//! counters. Needs root; changes nothing outside a scratch namespace.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![expect(clippy::print_stdout, reason = "what a test measured")]
use aya::{TestRunOptions, programs::TestRun};
use emu_common::{
    Reason,
    layout::{Direction, ImpairmentState, PairLink, Pipe, QueueDelayHistogram, Row, Schedule},
    model::{queue_delay, rate},
    names::{PROG_EGRESS, PROG_IFB, PROG_INGRESS},
};
use emu_kernel::bpf::{self, Maps, Programs};
use integration::{
    command,
    netns::isolated,
    packet::{ethernet, ipv4, ipv6, monotonic_ns, run, run_on, try_run},
    plan,
};

/// The packet passes, and the chain of filters continues.
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_STOLEN: i32 = 4;
const CLASS_MATCH: i32 = -1;
const CLASS_NO_MATCH: i32 = 0;

/// The programs of a topology without machines.
const BASIC: [&str; 3] = [PROG_EGRESS, PROG_INGRESS, PROG_IFB];

mod corpus;
mod impair;
mod ports;
mod schedule;

const TOPOLOGY: &str = "
version: 1
groups:
  near: {prefix: 10.1.0.0/16, nodes: 4, up: 1mbit, down: 2mbit, latency: 20ms, queue: 5 packets}
  far: {prefix: 10.2.0.0/16, nodes: 4, up: 10mbit, down: 10mbit, latency: 5ms, queue: 9000B}
  free: {prefix: 10.3.0.0/16, nodes: 4, latency: 1ms}
latencies:
  - {between: [near, far], latency: 400ms}
";

fn load(text: &str, orphan: bool) -> (Programs, Maps) {
    let programs = bpf::load_with(&plan(text), orphan).unwrap_or_else(|e| panic!("{e}"));
    let maps = programs.maps().unwrap();
    (programs, maps)
}

fn count(maps: &Maps, reason: Reason) -> u64 {
    let reasons = maps.reasons().unwrap();
    reasons.iter().find(|(r, _)| *r == reason).unwrap().1
}

fn pipe(maps: &Maps, vnode: usize, direction: Direction) -> Pipe {
    maps.pipes.get(vnode * 2 + direction as usize).unwrap()
}

#[test]
fn foreign_packets_pass_untouched() {
    isolated(|| {
        let (programs, maps) = load(TOPOLOGY, false);
        let frame = ipv4("192.0.2.1", "192.0.2.2", 100);
        for (name, verdict) in [
            (PROG_EGRESS, TC_ACT_UNSPEC),
            (PROG_INGRESS, 0),
            (PROG_IFB, TC_ACT_UNSPEC),
        ] {
            let outcome = run(&programs, name, &frame);
            assert_eq!(outcome.verdict, verdict, "{name}");
            assert_eq!(
                (&outcome.bytes, outcome.due_ns, outcome.priority),
                (&frame, 0, 7),
                "{name}"
            );
        }
        assert_eq!(count(&maps, Reason::NotVnode), 3);
    });
}

#[test]
fn an_idle_pipe_delays_by_serialisation_and_latencies() {
    isolated(|| {
        let (programs, maps) = load(TOPOLOGY, false);
        // 1000 bytes at 1 Mbit/s: 8 ms; 20 ms on the access link, 400 ms between the
        // groups.
        for (to, expected_ns) in [
            ("10.2.0.1", 428_000_000),
            ("10.1.0.2", 28_000_000),
            ("192.0.2.9", 28_000_000),
        ] {
            let (programs, _maps) = load(TOPOLOGY, false);
            let before = monotonic_ns();
            let outcome = run(&programs, PROG_EGRESS, &ipv4("10.1.0.1", to, 1000));
            let after = monotonic_ns();
            assert_eq!((outcome.verdict, outcome.priority), (TC_ACT_UNSPEC, 0));
            let due = outcome.due_ns - expected_ns;
            assert!(
                before <= due && due <= after,
                "{to}: {due} outside {before}..{after}"
            );
        }
        let before = monotonic_ns();
        let outcome = run(&programs, PROG_IFB, &ipv4("10.2.0.1", "10.1.0.1", 1000));
        let due = outcome.due_ns - 24_000_000;
        assert!(before <= due && due <= monotonic_ns());
        let down = pipe(&maps, 0, Direction::Down);
        assert_eq!((down.packets, down.bytes, down.sequence), (1, 1000, 1));
        assert_eq!(count(&maps, Reason::ShapedDown), 1);
    });
}

/// IPv6 is treated like IPv4, with extension headers, in one file with IPv4.
#[test]
fn ipv6_packets_are_shaped_by_their_addresses() {
    isolated(|| {
        let text = "
version: 1
groups:
  near: {prefix: 'fd01::/64', nodes: 4, up: 1mbit, down: 2mbit, latency: 20ms}
  far: {prefix: 'fd02::/48', nodes: 4, latency: 5ms}
  old: {prefix: 10.1.0.0/16, nodes: 4, up: 1mbit, latency: 7ms}
latencies:
  - {between: [near, far], latency: 100ms}
";
        let (programs, maps) = load(text, false);
        for (frame, expected_ns) in [
            (ipv6("fd01::1", "fd02::1", 1000), 128_000_000),
            (ipv6("fd01::2", "fd01::1", 1000), 28_000_000),
            (ipv6("fd01::3", "2001:db8::1", 1000), 28_000_000),
            (ipv4("10.1.0.1", "10.1.0.2", 1000), 15_000_000),
        ] {
            let before = monotonic_ns();
            let outcome = run(&programs, PROG_EGRESS, &frame);
            assert_eq!((outcome.verdict, &outcome.bytes), (TC_ACT_UNSPEC, &frame));
            let due = outcome.due_ns - expected_ns;
            assert!((before..=monotonic_ns()).contains(&due), "{expected_ns}");
        }
        let foreign = run(&programs, PROG_EGRESS, &ipv6("fd03::1", "fd01::1", 100));
        assert_eq!((foreign.verdict, foreign.due_ns), (TC_ACT_UNSPEC, 0));
        let arrival = run(&programs, PROG_INGRESS, &ipv6("fd03::1", "fd01::1", 100));
        assert_eq!(arrival.verdict, CLASS_MATCH);
        run(&programs, PROG_IFB, &ipv6("fd03::1", "fd01::1", 100));
        assert_eq!(pipe(&maps, 0, Direction::Down).bytes, 100);
    });
}

/// The arithmetic of the bytecode is that of the model, for many rates and sizes.
#[test]
fn departures_are_those_of_the_model() {
    isolated(|| {
        for (rate_text, rate_bits) in [
            ("33.6kbit", 33_600),
            ("128kbit", 128_000),
            ("8mbit", 8_000_000),
            ("1gbit", 1_000_000_000),
            ("100gbit", 100_000_000_000),
        ] {
            let text = format!(
                "version: 1\ngroups:\n  a: {{prefix: 10.1.0.0/16, nodes: 2, up: {rate_text}, queue: 1000 packets}}\n"
            );
            let (programs, maps) = load(&text, false);
            let per_byte = rate::ns_per_byte_q20(rate_bits);
            assert_eq!(pipe(&maps, 0, Direction::Up).ns_per_byte_q20, per_byte);
            let (mut free_ns, mut exact) = (0, 0);
            // The largest first: on a slow pipe the other packets still find it busy when
            // an emulated CPU takes milliseconds for a run.
            for size in [3000, 20, 84, 576, 1499, 1500, 1500, 40] {
                let before = monotonic_ns();
                let due = run(&programs, PROG_EGRESS, &ipv4("10.1.0.1", "10.9.0.1", size)).due_ns;
                let after = monotonic_ns();
                let serialisation = rate::serialisation_ns(per_byte, size as u32);
                let [low, high] = [before, after]
                    .map(|now| rate::reserve(now, free_ns, serialisation, 0).departure_ns);
                assert!(
                    low <= due && due <= high,
                    "{rate_text} {size}: {due} not in {low}..{high}"
                );
                exact += u32::from(low == high);
                free_ns = due;
                assert_eq!(pipe(&maps, 0, Direction::Up).next_free_ns, free_ns);
            }
            // On a slow pipe all but the first packet wait for the previous one, so they
            // have no slack.
            assert!(rate_bits > 1_000_000 || exact >= 7, "{rate_text}: {exact}");
        }
    });
}

#[test]
fn a_full_queue_drops_in_silence_and_takes_no_time() {
    isolated(|| {
        let (programs, maps) = load(TOPOLOGY, false);
        let frame = ipv4("10.1.0.1", "10.1.0.2", 1500);
        let verdicts: Vec<i32> = (0..8)
            .map(|_| run(&programs, PROG_EGRESS, &frame).verdict)
            .collect();
        let expected = [vec![TC_ACT_UNSPEC; 5], vec![TC_ACT_STOLEN; 3]].concat();
        assert_eq!(verdicts, expected);
        let up = pipe(&maps, 0, Direction::Up);
        assert_eq!((up.packets, up.drops_packets, up.drops_bytes), (5, 3, 0));
        assert_eq!((up.bytes, up.dropped_bytes), (7500, 4500));
        assert_eq!(count(&maps, Reason::QueuePackets), 3);
        // Five packets take 12 ms each; the dropped ones take no time.
        let busy_ns = up.next_free_ns - monotonic_ns();
        assert!(busy_ns <= 60_000_000, "{busy_ns}");

        let frame = ipv4("10.2.0.1", "10.2.0.2", 1500);
        let taken = (0..10)
            .filter(|_| run(&programs, PROG_EGRESS, &frame).verdict == TC_ACT_UNSPEC)
            .count();
        // 9000 bytes are six packets; one may have departed meanwhile.
        assert!((6..=7).contains(&taken), "{taken}");
        assert_eq!(pipe(&maps, 4, Direction::Up).drops_bytes, 10 - taken as u64);
    });
}

/// The group's histogram counts each packet in the bucket of its queueing and serialisation
/// time.
#[test]
fn queue_delays_are_counted_in_their_group_and_bucket() {
    isolated(|| {
        let (programs, maps) = load(TOPOLOGY, false);
        let of = |group, direction| maps.waits(group, direction).unwrap();
        let (mut low_sum, mut high_sum) = (0, 0);
        for _ in 0..5 {
            let counted = of(0, Direction::Up);
            let before = monotonic_ns();
            let due = run(&programs, PROG_EGRESS, &ipv4("10.1.0.1", "10.1.0.2", 1500)).due_ns;
            let departure = due - 20_000_000;
            let (low, high) = (departure.saturating_sub(monotonic_ns()), departure - before);
            (low_sum, high_sum) = (low_sum + low, high_sum + high);
            let now = of(0, Direction::Up);
            let changed: Vec<u32> = (0..queue_delay::BUCKETS)
                .filter(|c| now.buckets[*c as usize] != counted.buckets[*c as usize])
                .collect();
            assert_eq!(now.packets(), counted.packets() + 1);
            let right = queue_delay::bucket(low)..=queue_delay::bucket(high);
            assert!(
                changed.len() == 1 && right.contains(&changed[0]),
                "{changed:?}"
            );
        }
        assert!((low_sum..=high_sum).contains(&of(0, Direction::Up).sum_ns));
        // A dropped packet is not counted, and other groups and directions have their own
        // histograms.
        let _ = run(&programs, PROG_EGRESS, &ipv4("10.1.0.1", "10.1.0.2", 1500));
        let _ = run(&programs, PROG_IFB, &ipv4("10.1.0.1", "10.2.0.2", 125));
        assert_eq!(of(0, Direction::Up).packets(), 5);
        assert_eq!(of(1, Direction::Down).sum_ns, 100_000);
        assert_eq!(of(1, Direction::Down).buckets[1], 1);
        assert_eq!(of(2, Direction::Up), QueueDelayHistogram::default());
    });
}

#[test]
fn a_burst_leaves_at_once_and_the_rest_at_the_rate() {
    isolated(|| {
        let text = "
version: 1
groups:
  a: {prefix: 10.1.0.0/16, nodes: 2, up: {rate: 1mbit, burst: 3000B, queue: 100 packets}}
";
        let (programs, _maps) = load(text, false);
        let frame = ipv4("10.1.0.1", "10.9.0.1", 1500);
        let start = monotonic_ns();
        let waits: Vec<u64> = (0..5)
            .map(|_| run(&programs, PROG_EGRESS, &frame).due_ns - start)
            .collect();
        let end = monotonic_ns() - start;
        // Two packets of 12 ms fit into the burst, the others follow 12 ms apart.
        for (i, wait) in waits.iter().enumerate() {
            let due = 12_000_000 * (i as u64).saturating_sub(1);
            assert!((due..=due + end).contains(wait), "{i}: {waits:?}, {end}");
        }
    });
}

#[test]
fn an_unlimited_pipe_adds_its_latency_only() {
    isolated(|| {
        let (programs, _maps) = load(TOPOLOGY, false);
        for _ in 0..50 {
            let before = monotonic_ns();
            let due = run(&programs, PROG_EGRESS, &ipv4("10.3.0.1", "10.3.0.2", 1500)).due_ns;
            assert!((before..=monotonic_ns()).contains(&(due - 1_000_000)));
        }
    });
}

#[test]
fn a_packet_with_a_socket_is_replaced_by_its_clone() {
    isolated(|| {
        // Packets of test runs have a socket; the clone leaves by lo, where emu is not
        // loaded.
        let (programs, maps) = load(TOPOLOGY, true);
        let frame = ipv4("10.1.0.1", "10.1.0.2", 100);
        let outcome = run(&programs, PROG_EGRESS, &frame);
        assert_eq!((outcome.verdict, outcome.bytes), (TC_ACT_STOLEN, frame));
        assert_eq!(count(&maps, Reason::Orphaned), 1);
        assert_eq!(pipe(&maps, 0, Direction::Up).packets, 0);
    });
}

#[test]
fn ingress_matches_local_destinations_only() {
    isolated(|| {
        let (programs, _maps) = load(TOPOLOGY, false);
        for (from, to, verdict) in [
            ("192.0.2.1", "10.1.0.1", CLASS_MATCH),
            ("10.2.0.1", "10.1.0.4", CLASS_MATCH),
            ("10.1.0.1", "10.1.0.1", 0),
            ("10.1.0.1", "10.1.0.5", 0),
            ("10.1.0.1", "192.0.2.1", 0),
        ] {
            let outcome = run(&programs, PROG_INGRESS, &ipv4(from, to, 60));
            assert_eq!(outcome.verdict, verdict, "{from} to {to}");
        }
    });
}

#[test]
fn a_vnode_that_talks_to_itself_is_not_delayed() {
    isolated(|| {
        let (programs, maps) = load(TOPOLOGY, true);
        let outcome = run(&programs, PROG_EGRESS, &ipv4("10.1.0.1", "10.1.0.1", 60));
        assert_eq!((outcome.verdict, outcome.due_ns), (TC_ACT_UNSPEC, 0));
        assert_eq!(count(&maps, Reason::ToSelf), 1);
    });
}

#[test]
fn accounting_charges_the_overhead() {
    isolated(|| {
        for (accounting, charged) in [("ip", 100), ("ethernet", 138), ("{overhead: -20}", 80)] {
            let text = format!(
                "version: 1\naccounting: {accounting}\ngroups: {{a: {{prefix: 10.1.0.0/16, nodes: 2, up: 1mbit}}}}\n"
            );
            let (programs, maps) = load(&text, false);
            run(&programs, PROG_EGRESS, &ipv4("10.1.0.1", "10.1.0.2", 100));
            assert_eq!(pipe(&maps, 0, Direction::Up).bytes, charged, "{accounting}");
        }
    });
}

/// The frame with one more VLAN tag in front of its ethertype.
fn tagged(ethertype: u16, vlan: u16, frame: &[u8]) -> Vec<u8> {
    let mut inner = vlan.to_be_bytes().to_vec();
    inner.extend(&frame[12..]);
    ethernet(ethertype, &inner)
}

fn odd_frames() -> Vec<(&'static str, Vec<u8>)> {
    let vnode = ipv4("10.1.0.1", "10.1.0.2", 60);
    let edit = |at: usize, bytes: &[u8]| {
        let mut frame = vnode.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let mut options = vnode[14..].to_vec();
    options[0] = 0x4f;
    options.splice(20..20, [1u8; 40]);
    vec![
        ("arp", ethernet(0x0806, &[0u8; 28])),
        ("vlan", tagged(0x8100, 42, &vnode)),
        ("two tags", tagged(0x88a8, 7, &tagged(0x8100, 42, &vnode))),
        (
            "three tags",
            tagged(0x88a8, 7, &tagged(0x8100, 1, &tagged(0x8100, 2, &vnode))),
        ),
        (
            "tagged arp",
            tagged(0x8100, 1, &ethernet(0x0806, &[0u8; 28])),
        ),
        ("ipv6", ethernet(0x86dd, &[0x60; 40])),
        ("short ipv6", ethernet(0x86dd, &[0x60; 39])),
        ("version 4 in an IPv6 frame", ethernet(0x86dd, &[0x45; 60])),
        ("unknown ethertype", ethernet(0x88b5, &[0xff; 50])),
        ("header length 0", edit(14, &[0x40])),
        ("header length beyond the packet", edit(14, &[0x4f])),
        ("version 6 in an IPv4 frame", edit(14, &[0x65])),
        ("total length beyond the packet", edit(16, &[0xff, 0xff])),
        ("first fragment", edit(20, &[0x20, 0])),
        ("last fragment", edit(20, &[0, 185])),
        ("forty bytes of options", ethernet(0x0800, &options)),
        ("broadcast", edit(30, &[255; 4])),
        ("header only", ipv4("10.1.0.1", "10.1.0.2", 20)),
    ]
}

#[test]
fn odd_packets_keep_every_byte() {
    isolated(|| {
        let text = TOPOLOGY.replace("queue: 5 packets", "queue: 1000 packets");
        let (programs, maps) = load(&text, false);
        for (name, frame) in odd_frames() {
            for program in BASIC {
                let Some(outcome) = try_run(&programs, program, &frame) else {
                    // Newer kernels refuse a test run with less than a whole IP header.
                    assert!(name.starts_with("short"), "{name} refused by {program}");
                    continue;
                };
                assert_eq!(outcome.bytes, frame, "{name} in {program}");
                let passed = [TC_ACT_UNSPEC, CLASS_NO_MATCH].contains(&outcome.verdict);
                assert!(passed, "{name} in {program}: {}", outcome.verdict);
            }
        }
        // ARP, an unknown ethertype, and an IP packet behind three tags.
        assert_eq!(count(&maps, Reason::NotIp), 4 * 3);
        assert!(count(&maps, Reason::Truncated) >= 2 * 3);
        // Tagged frames, fragments and packets with options still belong to a vnode.
        assert!(pipe(&maps, 0, Direction::Up).packets >= 6);
    });
}

#[test]
fn packets_of_every_length_pass() {
    isolated(|| {
        let (programs, _maps) = load(TOPOLOGY, false);
        let whole = ipv4("10.3.0.1", "10.3.0.2", 60);
        let mut runs = 0;
        for length in 0..=whole.len() {
            for program in BASIC {
                // The kernel itself refuses frames shorter than an Ethernet header, and
                // newer kernels those shorter than an IP header.
                let Some(outcome) = try_run(&programs, program, &whole[..length]) else {
                    assert!(length < 34, "{program} refused {length} bytes");
                    continue;
                };
                assert_eq!(
                    outcome.bytes,
                    whole[..length],
                    "{length} bytes in {program}"
                );
                runs += 1;
            }
        }
        assert!(runs >= 3 * (whole.len() - 34), "only {runs} runs");
    });
}

/// Random bytes in random lengths: no crash, no changed byte, a known verdict.
#[test]
fn random_packets_keep_every_byte() {
    isolated(|| {
        let (programs, _maps) = load(TOPOLOGY, false);
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            // xorshift64: the same packets in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..2000 {
            let length = 34 + random() as usize % 200;
            let mut frame: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            if random() % 2 == 0 {
                frame[12..14].copy_from_slice(&[8, 0]);
                if length > 34 && random() % 2 == 0 {
                    frame[14] = 0x45;
                    frame[26..29].copy_from_slice(&[10, 1, 0]);
                    frame[30..33].copy_from_slice(&[10, 2, 0]);
                }
            }
            for program in BASIC {
                let outcome = run(&programs, program, &frame);
                assert_eq!(outcome.bytes, frame);
                assert!([TC_ACT_UNSPEC, TC_ACT_STOLEN, CLASS_NO_MATCH].contains(&outcome.verdict));
            }
        }
    });
}

/// Two CPUs on one pipe: the pipe's clock must advance by each packet exactly once.
#[test]
fn concurrent_senders_lose_no_update() {
    isolated(|| {
        let text = "
version: 1
groups: {a: {prefix: 10.1.0.0/16, nodes: 2, up: 1mbit, queue: 60min}}
";
        let (programs, maps) = load(text, false);
        let (threads, repeat) = (4u64, 50_000u32);
        let frame = ipv4("10.1.0.1", "10.9.0.1", 100);
        let send = |repeat| {
            let program = programs.program(PROG_EGRESS).unwrap();
            let options = TestRunOptions {
                data_in: Some(&frame),
                repeat,
                ..TestRunOptions::default()
            };
            program.test_run(options).unwrap();
        };
        // Four seconds of backlog at 0.8 ms a packet, so that the pipe never idles.
        send(5000);
        let before = pipe(&maps, 0, Direction::Up);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| send(repeat));
            }
        });
        let up = pipe(&maps, 0, Direction::Up);
        let accepted = up.packets - before.packets;
        assert_eq!(accepted, threads * u64::from(repeat));
        let serialisation = rate::serialisation_ns(rate::ns_per_byte_q20(1_000_000), 100);
        assert_eq!(
            up.next_free_ns - before.next_free_ns,
            accepted * serialisation
        );
    });
}

#[test]
fn map_values_have_the_layout_of_the_library() {
    isolated(|| {
        let (programs, maps) = load(TOPOLOGY, false);
        // The maps have headroom for more vnodes than the topology's.
        assert!(maps.pipes.len() >= 2 * 12);
        assert_eq!(maps.pairs.len(), 9);
        assert_eq!(maps.pairs.get(1).unwrap().latency_ns, 400_000_000);
        for (name, id) in programs.map_ids().unwrap() {
            let info = aya::maps::MapInfo::from_id(id).unwrap();
            let value = match name.as_str() {
                "EMU_PIPES" => size_of::<Pipe>(),
                "EMU_PAIRS" => size_of::<PairLink>(),
                "EMU_IMPAIRMENTS" => size_of::<ImpairmentState>(),
                "EMU_DELAYS" => size_of::<QueueDelayHistogram>(),
                "EMU_ROWS" => size_of::<Row>(),
                "EMU_SCHEDULES" => size_of::<Schedule>(),
                "EMU_GROUPS" | "EMU_TABLES" => 4,
                _ => 8,
            };
            assert_eq!(info.value_size() as usize, value, "{name}");
        }
    });
}

/// Packets that leave the host are sent earlier by what the network between the hosts takes,
/// but never before they leave their pipe; those on `lo` are not.
#[test]
fn the_latency_between_hosts_is_deducted_off_lo_only() {
    isolated(|| {
        command::run("ip link add e0 type veth peer name e1");
        let shown = command::run("ip -o link show e0");
        let index: u32 = shown.split(':').next().unwrap().parse().unwrap();
        assert_ne!(index, 1, "lo is there first");
        for (host_ms, expected_ms) in [(0.0, 5.0), (2.0, 3.0), (5.0, 0.0), (400.0, 0.0)] {
            let text = format!("{TOPOLOGY}host_latency: {host_ms}ms\n");
            let (programs, _maps) = load(&text, false);
            // 100 bytes at 10 Mbit/s.
            let serialisation_ms = 0.08;
            // A vnode each, whose pipe is idle.
            let cases = [("10.2.0.1", 0, 5.0), ("10.2.0.2", index, expected_ms)];
            for (source, interface, latency_ms) in cases {
                let frame = ipv4(source, "10.2.0.3", 100);
                let before = monotonic_ns();
                let outcome = run_on(&programs, PROG_EGRESS, &frame, interface).unwrap();
                let after = monotonic_ns();
                let least = before as f64 / 1e6 + serialisation_ms + latency_ms;
                let most = after as f64 / 1e6 + serialisation_ms + latency_ms;
                let due = outcome.due_ns as f64 / 1e6;
                assert!(
                    least - 1e-3 <= due && due <= most + 1e-3,
                    "{host_ms} ms on {interface}: {least} <= {due} <= {most}"
                );
            }
        }
    });
}
