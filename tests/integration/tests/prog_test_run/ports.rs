//! The access router of machines.
use emu_common::{
    Reason,
    layout::Port,
    model::port,
    names::{PROG_INGRESS, PROG_PORT_IN, PROG_PORT_OUT, PROG_TO_PORT},
};
use emu_kernel::bpf::{Maps, Programs};
use integration::{
    netns::isolated,
    packet::{ethernet, ipv4, ipv6, run, run_on},
};

use super::{CLASS_MATCH, CLASS_NO_MATCH, TC_ACT_STOLEN, TC_ACT_UNSPEC, count, load};

const TC_ACT_OK: i32 = 0;
const TC_ACT_REDIRECT: i32 = 7;
/// The only interface of the test's namespace stands for the port of 10.1.0.1 and fd01::1.
const HERE: u32 = 1;
/// The port of 10.1.0.2, which the programs do not look for.
const ELSEWHERE: u32 = 77;

const TOPOLOGY: &str = "
version: 1
kind: machine
groups:
  a: {prefix: 10.1.0.0/24, nodes: 2}
  six: {prefix: 'fd01::/64', nodes: 1}
  p: {prefix: 10.2.0.0/24, kind: process, nodes: 1}
";

fn router() -> (Programs, Maps) {
    let (programs, maps) = load(TOPOLOGY, false);
    let mut ports = programs.ports().unwrap();
    for (vnode, interface) in [(0, HERE), (1, ELSEWHERE), (2, HERE)] {
        let mtu_bytes = 1400;
        ports.set(
            vnode,
            Port {
                interface,
                mtu_bytes,
            },
        );
    }
    (programs, maps)
}

/// Sum of the 16-bit words of an IPv4 header, which is 0xffff with a right checksum.
fn header_sum(frame: &[u8]) -> u32 {
    let words = frame[14..34].chunks(2);
    let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    (sum & 0xffff) + (sum >> 16)
}

/// Gives an IPv4 frame a time to live and a right checksum.
fn with_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    frame[22] = hops;
    frame[24..26].fill(0);
    let sum = !(header_sum(&frame) as u16);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(header_sum(&frame), 0xffff);
    frame
}

/// What passes loses one hop, keeps a right checksum, and goes on to `lo`.
#[test]
fn the_router_passes_packets_between_vnodes() {
    isolated(|| {
        let (programs, maps) = router();
        for hops in [2, 3, 64, 128, 255] {
            for to in ["10.1.0.2", "10.2.0.1"] {
                let frame = with_hops(ipv4("10.1.0.1", to, 1000), hops);
                let outcome = run(&programs, PROG_PORT_IN, &frame);
                assert_eq!(outcome.verdict, TC_ACT_REDIRECT, "{to}");
                assert_eq!(outcome.bytes[22], hops - 1);
                assert_eq!(header_sum(&outcome.bytes), 0xffff, "{hops}");
                // The frame is for lo; all else is as it was.
                assert_eq!(outcome.bytes[..6], [0; 6]);
                assert_eq!(outcome.bytes[6..22], frame[6..22]);
                assert_eq!(outcome.bytes[26..], frame[26..]);
            }
        }
        let mut frame = ipv6("fd01::1", "fd01::3", 500);
        frame[21] = 64;
        // An address of the group that no vnode has, and no other host.
        let outcome = run(&programs, PROG_PORT_IN, &frame);
        assert_eq!(outcome.verdict, TC_ACT_STOLEN);
        assert_eq!(count(&maps, Reason::Outside), 1);
    });
}

#[test]
fn the_router_drops_what_is_not_the_machines_or_for_no_vnode() {
    isolated(|| {
        let (programs, maps) = router();
        let v4 = |from, to| with_hops(ipv4(from, to, 100), 64);
        for (frame, reason) in [
            // An address of another machine, of a process, of nobody.
            (v4("10.1.0.2", "10.2.0.1"), Reason::Spoofed),
            (v4("10.2.0.1", "10.1.0.2"), Reason::Spoofed),
            (v4("10.1.0.99", "10.2.0.1"), Reason::Spoofed),
            (v4("192.0.2.1", "10.2.0.1"), Reason::Spoofed),
            (ipv6("fd01::9", "fd01::1", 100), Reason::Spoofed),
            (v4("10.1.0.1", "192.0.2.1"), Reason::Outside),
            (v4("10.1.0.1", "10.2.0.77"), Reason::Outside),
            (v4("10.1.0.1", "224.0.0.251"), Reason::Multicast),
            (v4("10.1.0.1", "255.255.255.255"), Reason::Multicast),
            (ipv6("fe80::1", "ff02::2", 100), Reason::Multicast),
            (ethernet(0x0806, &[0; 28]), Reason::Foreign),
            (ethernet(0x0800, &[0x65; 40]), Reason::Foreign),
        ] {
            let before = count(&maps, reason);
            let outcome = run(&programs, PROG_PORT_IN, &frame);
            assert_eq!(outcome.verdict, TC_ACT_STOLEN, "{reason:?}");
            assert_eq!(count(&maps, reason), before + 1, "{reason:?}");
            assert_eq!(outcome.bytes, frame, "{reason:?}");
        }
    });
}

/// A packet that needs an ICMP error goes to the kernel, unchanged.
#[test]
fn the_router_hands_over_what_needs_an_error() {
    isolated(|| {
        let (programs, maps) = router();
        let v4 = |bytes, hops| with_hops(ipv4("10.1.0.1", "10.1.0.2", bytes), hops);
        for (place, frame) in [v4(100, 1), v4(100, 0), v4(1401, 64)]
            .into_iter()
            .enumerate()
        {
            let outcome = run(&programs, PROG_PORT_IN, &frame);
            assert_eq!(outcome.verdict, TC_ACT_OK);
            assert_eq!(outcome.bytes, frame);
            assert_eq!(count(&maps, Reason::ToRouter), place as u64 + 1);
        }
        let whole = run(&programs, PROG_PORT_IN, &v4(1400, 64));
        assert_eq!(whole.verdict, TC_ACT_REDIRECT);
    });
}

/// What arrives for a machine goes to its port, with the machine's hardware address; what
/// arrives for a process goes to its down pipe as ever.
#[test]
fn arriving_packets_are_told_apart() {
    isolated(|| {
        let (programs, maps) = router();
        let (machine, process) = (
            ipv4("10.2.0.1", "10.1.0.2", 100),
            ipv4("10.1.0.1", "10.2.0.1", 100),
        );
        assert_eq!(
            run(&programs, PROG_INGRESS, &machine).verdict,
            CLASS_NO_MATCH
        );
        assert_eq!(count(&maps, Reason::ToPort), 1);
        let moved = run(&programs, PROG_TO_PORT, &machine);
        assert_eq!(moved.verdict, TC_ACT_REDIRECT);
        assert_eq!(moved.bytes[..6], port::mac(1));
        assert_eq!(moved.bytes[6..], machine[6..]);
        assert_eq!(run(&programs, PROG_INGRESS, &process).verdict, CLASS_MATCH);
        let kept = run(&programs, PROG_TO_PORT, &process);
        assert_eq!((kept.verdict, kept.bytes), (TC_ACT_UNSPEC, process));
        // At its port, the packet is taken to the down pipe.
        let here = ipv4("10.2.0.1", "10.1.0.1", 100);
        let outcome = run_on(&programs, PROG_INGRESS, &here, HERE).unwrap();
        assert_eq!(outcome.verdict, CLASS_MATCH);
    });
}

/// A process of this namespace that sends to a machine: to the up pipe first.
#[test]
fn what_leaves_for_a_machine_goes_to_the_up_pipe() {
    isolated(|| {
        let (programs, maps) = router();
        let outcome = run(&programs, PROG_PORT_OUT, &ipv4("10.2.0.1", "10.1.0.1", 100));
        assert_eq!(outcome.verdict, TC_ACT_REDIRECT);
        assert_eq!(count(&maps, Reason::FromPort), 1);
        // The router's own errors have no up pipe.
        let error = ipv4("169.254.1.1", "10.1.0.1", 100);
        assert_eq!(run(&programs, PROG_PORT_OUT, &error).verdict, TC_ACT_UNSPEC);
    });
}

/// Random packets from and to vnodes: a known verdict, and no byte changes except the hop limit,
/// its checksum and the frame's destination.
#[test]
fn random_packets_keep_their_bytes_at_ports() {
    isolated(|| {
        let (programs, _maps) = router();
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut passed = 0;
        for _ in 0..2000 {
            let length = 60 + random() as usize % 200;
            let mut frame: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            frame[12..15].copy_from_slice(&[8, 0, 0x45]);
            let hosts = [[10, 1, 0, 1], [10, 1, 0, 2], [10, 2, 0, 1], [10, 9, 0, 1]];
            frame[26..30].copy_from_slice(&hosts[random() as usize % 4]);
            frame[30..34].copy_from_slice(&hosts[random() as usize % 4]);
            for program in [PROG_PORT_IN, PROG_PORT_OUT, PROG_TO_PORT] {
                let mut outcome = run(&programs, program, &frame);
                let known = [TC_ACT_UNSPEC, TC_ACT_STOLEN, TC_ACT_OK, TC_ACT_REDIRECT];
                assert!(known.contains(&outcome.verdict), "{program}");
                if outcome.verdict == TC_ACT_REDIRECT {
                    outcome.bytes[..6].copy_from_slice(&frame[..6]);
                    outcome.bytes[22] = frame[22];
                    outcome.bytes[24..26].copy_from_slice(&frame[24..26]);
                    passed += 1;
                }
                assert_eq!(outcome.bytes, frame, "{program}");
            }
        }
        assert!(passed > 500, "{passed}");
    });
}
