//! `emu exec`: the sockets of a program have the vnode's address and no other, in every
//! language.
use std::process::Output;

use integration::{
    command::{self, TopologyFile, emu, emu_command, emu_json, emu_path, run},
    netns::{isolated, load_on, two_hosts},
    probe::{Probe, ask, peer, probes},
};

pub const TOPOLOGY: &str = "
version: 1
groups:
  old: {prefix: 10.1.0.0/24, nodes: 200, latency: 2ms}
  new: {prefix: 'fd10::/64', nodes: 200, latency: 2ms}
";
/// Addresses of vnodes that run the probes, and of their peers, which run outside any
/// vnode.
pub const OLD: (&str, &str) = ("10.1.0.7", "10.1.0.100");
pub const NEW: (&str, &str) = ("fd10::7", "fd10::64");

/// Runs a test with the topology loaded and the probes of all languages.
pub fn with_probes(test: impl FnOnce(&[Probe]) + Send + 'static) {
    isolated(|| {
        let file = TopologyFile::new(TOPOLOGY);
        file.load();
        let folder = tempfile::tempdir().unwrap();
        test(&probes(env!("CARGO_BIN_EXE_probe"), folder.path()));
        emu("unload");
    });
}

/// Output of a Python program that runs as a vnode; `None` without Python.
pub fn python(vnode: &str, program: &str) -> Option<String> {
    let Some(python) = command::python() else {
        println!("SKIPPED a Python program: no python3");
        return None;
    };
    let output = as_vnode(vnode, &[python, "-c", program]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a program as a vnode to completion.
pub fn as_vnode(vnode: &str, argv: &[&str]) -> Output {
    let mut command = emu_command(&format!("exec {vnode} --"));
    command.args(argv).output().unwrap()
}

pub fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

#[test]
fn peers_see_the_vnode() {
    with_probes(|probes| {
        for (vnode, other) in [OLD, NEW] {
            peer(&at(other, 7000));
            for probe in probes {
                for way in ["tcp connect", "udp connect", "udp sendto"] {
                    let seen = probe.run(vnode, &format!("{way} {other} 7000"));
                    assert_eq!(seen, vnode, "{} {way}", probe.language);
                }
            }
        }
        // An IPv6 socket with IPv4-mapped addresses.
        for probe in probes {
            for way in ["tcp connect", "udp connect", "udp sendto"] {
                let seen = probe.run(OLD.0, &format!("{way} ::ffff:{} 7000", OLD.1));
                assert_eq!(seen, OLD.0, "{} {way}, mapped", probe.language);
            }
        }
    });
}

#[test]
fn wildcard_servers_answer_as_the_vnode() {
    with_probes(|probes| {
        for probe in probes {
            for kind in ["tcp", "udp"] {
                for ((vnode, other), wildcard, bound, seen) in [
                    (OLD, "0.0.0.0", "10.1.0.7", "10.1.0.100"),
                    (OLD, "::", "::ffff:10.1.0.7", "::ffff:10.1.0.100"),
                    (NEW, "::", "fd10::7", "fd10::64"),
                ] {
                    let what = format!("{} {kind} {wildcard} in {vnode}", probe.language);
                    let server = probe.serve(vnode, kind, wildcard, 7001);
                    assert_eq!(server.bound, bound, "{what}");
                    let answer = ask(kind, other, &at(vnode, 7001));
                    assert_eq!(answer.as_deref(), Some(seen), "{what}");
                }
            }
        }
    });
}

#[test]
fn foreign_addresses_are_refused() {
    with_probes(|probes| {
        run("ip addr add 192.0.2.1/24 dev lo");
        for probe in probes {
            for kind in ["tcp", "udp"] {
                for (vnode, address, answer) in [
                    (OLD.0, "10.1.0.8", "errno 99"),
                    (OLD.0, "192.0.2.1", "errno 99"),
                    (OLD.0, "fd10::7", "errno 99"),
                    (OLD.0, "::ffff:10.1.0.8", "errno 99"),
                    (NEW.0, "fd10::8", "errno 99"),
                    (NEW.0, "0.0.0.0", "127.0.0.1"),
                    (OLD.0, "10.1.0.7", "10.1.0.7"),
                    (NEW.0, "fd10::7", "fd10::7"),
                    (OLD.0, "127.0.0.1", "127.0.0.1"),
                    (OLD.0, "::1", "::1"),
                    (NEW.0, "127.0.0.5", "127.0.0.5"),
                ] {
                    let found = probe.run(vnode, &format!("{kind} bind {address} 7002"));
                    let what = format!("{} {kind} {address} in {vnode}", probe.language);
                    assert_eq!(found, answer, "{what}");
                }
            }
        }
        let refused = &emu_json("status")["exec"]["events"]["refused"];
        assert_eq!(refused.as_u64(), Some(10 * probes.len() as u64));
    });
}

/// The other address family is unreachable, as on a host without an address of that family.
#[test]
fn other_families_are_unreachable() {
    with_probes(|probes| {
        for probe in probes {
            for way in ["tcp connect", "udp connect", "udp sendto"] {
                for (vnode, address) in [(OLD.0, "fd10::8"), (NEW.0, "10.1.0.8")] {
                    let found = probe.run(vnode, &format!("{way} {address} 7003"));
                    assert_eq!(found, "errno 101", "{} {way} {address}", probe.language);
                }
            }
        }
    });
}

/// P2P programs usually all listen on the same port.
#[test]
fn a_port_is_bound_160_times() {
    with_probes(|probes| {
        let probe = probes.last().unwrap();
        // The C program is the smallest one.
        let probe = probes.iter().find(|p| p.language == "C").unwrap_or(probe);
        for kind in ["tcp", "udp"] {
            let servers: Vec<_> = (0..160)
                .map(|i| probe.serve(&format!("old/{i}"), kind, "0.0.0.0", 6881))
                .collect();
            for (i, server) in servers.iter().enumerate() {
                let vnode = format!("10.1.0.{}", i + 1);
                assert_eq!(server.bound, vnode);
                let answer = ask(kind, "10.1.0.200", &at(&vnode, 6881));
                assert_eq!(answer.as_deref(), Some("10.1.0.200"), "{kind} {vnode}");
            }
        }
    });
}

/// Without a bind no hook can give the listener an address: it answers as its vnode and on
/// loopback, but at no other address.
#[test]
fn a_listener_that_never_called_bind_cannot_answer_as_another() {
    with_probes(|_| {
        let program = "
import socket
listener = socket.socket()
listener.listen()
port = listener.getsockname()[1]
for address in ['10.1.0.7', '127.0.0.1', '10.1.0.8']:
    asker = socket.socket()
    asker.settimeout(1)
    try:
        asker.connect((address, port))
        print('answers')
    except TimeoutError:
        print('silent')
";
        if let Some(found) = python(OLD.0, program) {
            assert_eq!(found, "answers\nanswers\nsilent");
            let events = &emu_json("status")["exec"]["events"];
            assert!(
                events["foreign_destination"].as_u64().unwrap() > 0,
                "{events}"
            );
        }
    });
}

/// Attempts to evade the hooks of bind and connect: a control message, a socket option, a
/// raw socket, loopback as the source address.
#[test]
fn programs_cannot_use_other_source_addresses() {
    with_probes(|_| {
        let program = "
import socket, struct
def attempt(call):
    try:
        call()
        print('ok')
    except OSError as error:
        print(error.errno)
other = ('10.1.0.8', 9)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def info(source):
    data = struct.pack('I4s4s', 0, socket.inet_aton(source), socket.inet_aton('0.0.0.0'))
    return [(socket.IPPROTO_IP, 8, data)]
attempt(lambda: udp.sendmsg([b'x'], info('10.1.0.9'), 0, other))
attempt(lambda: udp.sendmsg([b'x'], info('10.1.0.7'), 0, other))
free = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
free.setsockopt(socket.IPPROTO_IP, 15, 1)
attempt(lambda: free.bind(('10.1.0.9', 0)))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 200)
attempt(lambda: raw.sendto(b'x', ('10.1.0.8', 0)))
raw.bind(('10.1.0.7', 0))
attempt(lambda: raw.sendto(b'x', ('10.1.0.8', 0)))
forger = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
forger.bind(('10.1.0.9', 0))
attempt(lambda: forger.sendto(b'12345678', ('10.1.0.8', 0)))
local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
local.bind(('127.0.0.1', 0))
attempt(lambda: local.sendto(b'x', other))
attempt(lambda: local.connect(other))
attempt(lambda: udp.connect(other))
six = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
attempt(lambda: six.bind(('::', 0)))
";
        if let Some(found) = python(OLD.0, program) {
            assert_eq!(found, "99\nok\n99\n1\nok\n1\n22\n22\n99\nok");
        }
    });
}

/// A wildcard destination means the vnode itself, where a wildcard listener answers.
#[test]
fn a_wildcard_destination_is_the_vnode_itself() {
    with_probes(|probes| {
        for probe in probes {
            for (kind, way) in [("tcp", "connect"), ("udp", "connect"), ("udp", "sendto")] {
                for (vnode, wildcard) in [(OLD.0, "0.0.0.0"), (NEW.0, "::")] {
                    let _server = probe.serve(vnode, kind, wildcard, 7005);
                    let seen = probe.run(vnode, &format!("{kind} {way} {wildcard} 7005"));
                    assert_eq!(seen, vnode, "{} {kind} {way}", probe.language);
                }
            }
        }
    });
}

#[test]
fn ping_works_with_the_address_named() {
    with_probes(|_| {
        let ping = ["sh", "-c", "ping -n -c 2 -I $EMU_VNODE 10.1.0.8"];
        let output = as_vnode(OLD.0, &ping);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("2 received"), "{text}");
        // Without the hook the kernel would choose 10.1.0.8 itself as the source address.
        let output = as_vnode(OLD.0, &["ping", "-n", "-c", "1", "-W", "1", "10.1.0.8"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("0 received"), "{text}");
        // The user is told what to do.
        let hint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(hint.contains("ping -I 10.1.0.7"), "{hint}");
    });
}

/// The same addresses in two namespaces, one of them entered by `ip netns exec`, which
/// hides the cgroup file system; and packets of a vnode to another host.
#[test]
fn namespaces_do_not_mix() {
    isolated(|| {
        let hosts = two_hosts("exec");
        let file = TopologyFile::new(&format!(
            "{TOPOLOGY}hosts:
  - {{name: h1, interface: eth0, address: 192.0.2.1, groups: [new], nodes: [10.1.0.1-10.1.0.9]}}
  - {{name: h2, interface: eth0, address: 192.0.2.2, nodes: [10.1.0.10-10.1.0.200]}}
"
        ));
        load_on(&hosts, &file);
        let folder = tempfile::tempdir().unwrap();
        let probes = probes(env!("CARGO_BIN_EXE_probe"), folder.path());
        let probe = probes[0].clone();
        hosts[1].enter(move || {
            let server = probe.serve("old/99", "tcp", "0.0.0.0", 7006);
            assert_eq!(server.bound, "10.1.0.100");
            // The server is left running in the other namespace.
            std::mem::forget(server);
        });
        let (emu_path, name) = (emu_path(), hosts[0].name());
        let inside =
            |arguments: &str| format!("ip netns exec {name} {} {arguments}", emu_path.display());
        let probe = env!("CARGO_BIN_EXE_probe");
        let ask = format!("exec old/6 -- {probe} tcp connect 10.1.0.100 7006");
        assert_eq!(run(&inside(&ask)).trim(), "10.1.0.7");
        let wrong = command::try_run(&inside("exec 10.1.0.100 -- true"));
        let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(
            text.contains("not a vnode of this host but of h2"),
            "{text}"
        );
        run(&inside("unload"));
        hosts[1].enter(|| emu("unload --kill"));
    });
}
