//! `emu exec`: unmodified programs of any language and linkage, and the address that their
//! peers see.
use std::{net::IpAddr, time::Instant};

use integration::{
    command::{TopologyFile, emu},
    languages::{is_heavy, languages},
    netns::isolated,
    probe::{Probe, ask, peer},
};

use crate::exec::{NEW, OLD, TOPOLOGY, as_vnode, at};

/// A test case: the action of a program, its place, and the expected result.
struct Cell {
    what: String,
    found: String,
    expected: String,
}

/// Normalises an address as Rust formats it, with IPv4-mapped addresses as IPv4, because
/// languages differ in both.
fn plain(address: &str) -> String {
    let parsed = address.trim().parse::<IpAddr>();
    parsed.map_or_else(
        |_| address.to_owned(),
        |address| address.to_canonical().to_string(),
    )
}

/// Programs that send: the peer replies with the address that it sees.
fn speaking(probe: &Probe, cells: &mut Vec<Cell>) {
    for (vnode, other, to) in [
        (OLD.0, OLD.1.to_owned(), "IPv4"),
        (NEW.0, NEW.1.to_owned(), "IPv6"),
        (OLD.0, format!("::ffff:{}", OLD.1), "IPv4 by ::ffff:"),
    ] {
        for way in ["tcp connect", "udp connect", "udp sendto"] {
            let found = probe.run(vnode, &format!("{way} {other} 7000"));
            cells.push(Cell {
                what: format!("{way} to {to}"),
                found: plain(&found),
                expected: vnode.to_owned(),
            });
        }
    }
}

/// Programs that listen on the wildcard address: the address that they are bound to, and
/// that they receive and answer at the vnode's address and see the client's address.
fn listening(probe: &Probe, cells: &mut Vec<Cell>) {
    for ((vnode, other), wildcard) in [(OLD, "0.0.0.0"), (OLD, "::"), (NEW, "::")] {
        for kind in ["tcp", "udp"] {
            let server = probe.serve(vnode, kind, wildcard, 7001);
            let answer = ask(kind, other, &at(vnode, 7001)).unwrap_or_default();
            cells.push(Cell {
                what: format!("{kind} bind to {wildcard} in {vnode}"),
                found: format!("{} asked by {}", plain(&server.bound), plain(&answer)),
                expected: format!("{vnode} asked by {other}"),
            });
        }
    }
}

/// Programs that use another vnode's address.
fn pretending(probe: &Probe, cells: &mut Vec<Cell>) {
    for (vnode, address) in [(OLD.0, "10.1.0.8"), (NEW.0, "fd10::8")] {
        for kind in ["tcp", "udp"] {
            cells.push(Cell {
                what: format!("{kind} bind to {address} in {vnode}"),
                found: probe.run(vnode, &format!("{kind} bind {address} 7002")),
                expected: "errno 99".to_owned(),
            });
        }
    }
}

#[test]
fn exec_gives_every_language_its_address() {
    matrix(|language| !is_heavy(language));
}

/// Languages that start slowly have a test and its time limit of their own.
#[test]
fn exec_gives_heavy_languages_their_address() {
    matrix(is_heavy);
}

/// Runs the probe in the wanted languages, in all cases.
fn matrix(wanted: fn(&str) -> bool) {
    isolated(move || {
        let file = TopologyFile::new(TOPOLOGY);
        file.load();
        let folder = tempfile::tempdir().unwrap();
        let mut wrong = Vec::new();
        for other in [OLD.1, NEW.1] {
            peer(&at(other, 7000));
        }
        for probe in languages(env!("CARGO_BIN_EXE_probe"), folder.path(), wanted) {
            let begin = Instant::now();
            let mut cells = Vec::new();
            speaking(&probe, &mut cells);
            listening(&probe, &mut cells);
            pretending(&probe, &mut cells);
            let right = cells.iter().filter(|c| c.found == c.expected).count();
            println!(
                "{}: {right} of {} right, in {:.1} s",
                probe.language,
                cells.len(),
                begin.elapsed().as_secs_f64()
            );
            let of = cells.iter().filter(|c| c.found != c.expected);
            wrong.extend(of.map(|c| {
                let Cell {
                    what,
                    found,
                    expected,
                } = c;
                format!("{}: {what}: {found}, not {expected}", probe.language)
            }));
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        emu("unload");
    });
}

/// Addresses that a program sees: getsockname, getpeername, and those of a datagram in
/// recvmsg.
#[test]
fn exec_shows_sockets_the_vnode() {
    isolated(|| {
        let Some(python) = integration::command::python() else {
            println!("SKIPPED what sockets see: no python3");
            return;
        };
        let file = TopologyFile::new(TOPOLOGY);
        file.load();
        for (vnode, other) in [OLD, NEW] {
            peer(&at(other, 7000));
            let output = as_vnode(vnode, &[python, "-c", VIEWS, vnode, other]);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{errors}");
            let seen = String::from_utf8_lossy(&output.stdout).into_owned();
            let wildcard = if vnode == OLD.0 { "0.0.0.0" } else { "::" };
            assert_eq!(
                seen,
                format!(
                    "tcp {vnode} {other}\nudp {vnode} {other}\nunbound {wildcard} {other}\n\
                     bound {vnode} from {vnode} at {vnode}\n"
                ),
            );
        }
        emu("unload");
    });
}

/// Prints the addresses that the sockets of a vnode see of themselves and of their peers.
const VIEWS: &str = "
import socket, sys
vnode, other = sys.argv[1:]
six = ':' in vnode
family = socket.AF_INET6 if six else socket.AF_INET
def new(kind):
    s = socket.socket(family, kind)
    s.settimeout(5)
    return s
for name, kind in ('tcp', socket.SOCK_STREAM), ('udp', socket.SOCK_DGRAM):
    s = new(kind)
    s.connect((other, 7000))
    print(name, s.getsockname()[0], s.getpeername()[0])
# Without a bind it has no address of its own, only a port; its datagrams have one.
s = new(socket.SOCK_DGRAM)
s.sendto(b'?', (other, 7000))
data, sender = s.recvfrom(256)
assert data.decode() == vnode, data
print('unbound', s.getsockname()[0], sender[0])
# A server at the wildcard: who asked, and at which of its addresses.
server = new(socket.SOCK_DGRAM)
if six:
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
else:
    server.setsockopt(socket.IPPROTO_IP, 8, 1)
server.bind(('::' if six else '0.0.0.0', 7008))
s.sendto(b'?', (vnode, 7008))
_, [(_, _, info)], _, sender = server.recvmsg(256, 256)
at = info[:16] if six else info[8:12]
print('bound', server.getsockname()[0], 'from', sender[0], 'at', socket.inet_ntop(family, at))
";
