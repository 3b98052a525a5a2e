//! The fuzz target of packets: any bytes through the programs of the kernel, by
//! `BPF_PROG_TEST_RUN`. Needs root.
//!
//! The properties do not come from the programs: whether a packet is a vnode's is read from
//! its addresses here, in another way.
use std::{
    cell::OnceCell,
    net::{IpAddr, Ipv6Addr},
};

use emu_common::names::{PROG_EGRESS, PROG_IFB, PROG_INGRESS};
use emu_kernel::bpf::{self, Programs};

use crate::{packet::try_run, plan};

/// Verdicts that a program may return: the packet passes, or is dropped.
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_STOLEN: i32 = 4;
/// Results of the classifier.
const NO_MATCH: i32 = 0;
const MATCH: i32 = -1;

/// Vnodes with limits, impairments and filters of all kinds; the last part of an address of a
/// vnode is from 1 to 4.
const TOPOLOGY: &str = "
version: 1
groups:
  near: {prefix: 10.1.0.0/24, nodes: 4, up: 1mbit, down: 2mbit, latency: 20ms, queue: 5 packets}
  far: {prefix: 10.2.0.0/24, nodes: 4, up: 10mbit, latency: 5ms, jitter: 1ms, loss: 10%, duplicate: 10%, corrupt: 10%}
  new: {prefix: 'fd00::/64', nodes: 4, up: 1mbit, latency: 5ms, queue: 9000B}
latencies:
  - {between: [near, far], latency: 400ms}
";

thread_local! {
    static PROGRAMS: OnceCell<Programs> = const { OnceCell::new() };
}

/// Runs each program on a packet.
///
/// # Panics
/// If a program changes a packet that is not a vnode's, or returns an unknown verdict; if the
/// programs cannot be loaded.
pub fn run(data: &[u8]) {
    PROGRAMS.with(|programs| {
        let programs = programs.get_or_init(|| {
            bpf::load_with(&plan(TOPOLOGY), false).unwrap_or_else(|e| panic!("{e}"))
        });
        check(programs, data);
    });
}

fn check(programs: &Programs, data: &[u8]) {
    let [source, destination] = addresses(data);
    for (name, vnode, passes) in [
        (PROG_EGRESS, source, [TC_ACT_UNSPEC, TC_ACT_STOLEN]),
        (PROG_INGRESS, destination, [NO_MATCH, MATCH]),
        (PROG_IFB, destination, [TC_ACT_UNSPEC, TC_ACT_STOLEN]),
    ] {
        // The kernel refuses what is no frame.
        let Some(outcome) = try_run(programs, name, data) else {
            continue;
        };
        assert!(passes.contains(&outcome.verdict), "{name}: {outcome:?}");
        if !vnode.is_some_and(is_vnode) {
            assert_eq!(outcome.verdict, passes[0], "{name} holds a foreign packet");
            assert_eq!(outcome.bytes, data, "{name} changes a foreign packet");
            assert_eq!(
                (outcome.due_ns, outcome.priority),
                (0, 7),
                "{name} delays a foreign packet"
            );
        }
    }
}

/// Source and destination of a frame with at most two VLAN tags, as far as it is long enough
/// to have them.
fn addresses(frame: &[u8]) -> [Option<IpAddr>; 2] {
    const MACS: usize = 12;
    let mut rest = frame.get(MACS..).unwrap_or_default();
    for _ in 0..2 {
        rest = match rest {
            [0x81, 0x00, _, _, inner @ ..] | [0x88, 0xa8, _, _, inner @ ..] => inner,
            _ => break,
        };
    }
    match rest {
        [0x08, 0x00, packet @ ..] => [12, 16].map(|at| {
            let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(octets.into())
        }),
        [0x86, 0xdd, packet @ ..] => [8, 24].map(|at| {
            let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }),
        _ => [None, None],
    }
}

fn is_vnode(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            (a, c) == (10, 0) && [1, 2].contains(&b) && (1..=4).contains(&d)
        }
        IpAddr::V6(address) => {
            let [first, middle @ .., last] = address.segments();
            first == 0xfd00 && middle == [0; 6] && (1..=4).contains(&last)
        }
    }
}
