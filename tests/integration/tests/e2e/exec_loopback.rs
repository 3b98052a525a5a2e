//! 127.0.0.1 and `::1` of a vnode are its own, and programs are told those addresses.
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
};

use integration::{
    command::{TopologyFile, emu, emu_json, run, try_emu},
    netns::isolated,
    probe::probes,
};

use crate::exec::{NEW, OLD, TOPOLOGY, python, with_probes};

const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];
const WAYS: [(&str, &str); 3] = [("tcp", "connect"), ("udp", "connect"), ("udp", "sendto")];
/// A vnode of the same group as that of [`OLD`].
const NEIGHBOUR: &str = "10.1.0.8";

/// Three vnodes and the machine use the same port of loopback; each program reaches the one of
/// its own vnode, and both ends are told 127.0.0.1 or `::1`.
#[test]
fn a_port_of_loopback_is_bound_by_every_vnode() {
    with_probes(|probes| {
        for loopback in LOOPBACKS {
            let _machines = TcpListener::bind((loopback, 8384)).unwrap();
            for probe in probes {
                for (kind, way) in WAYS {
                    let what = format!("{} {kind} {way} {loopback}", probe.language);
                    let serve = |vnode| probe.serve(vnode, kind, loopback, 8384);
                    let vnodes = [OLD.0, NEIGHBOUR, NEW.0];
                    let servers = vnodes.map(serve);
                    for (vnode, server) in vnodes.into_iter().zip(servers) {
                        assert_eq!(server.bound, loopback, "{what}");
                        let seen = probe.run(vnode, &format!("{kind} {way} {loopback} 8384"));
                        assert_eq!(seen, loopback, "{what}");
                    }
                }
            }
        }
    });
}

/// What listens on loopback in one vnode is not there in another, and the machine's is in none.
#[test]
fn one_vnode_does_not_reach_the_loopback_of_another() {
    with_probes(|probes| {
        let probe = &probes[0];
        for loopback in LOOPBACKS {
            let _machines = TcpListener::bind((loopback, 8385)).unwrap();
            for kind in ["tcp", "udp"] {
                let _server = probe.serve(OLD.0, kind, loopback, 8386);
                for vnode in [NEIGHBOUR, NEW.0] {
                    for port in [8385, 8386] {
                        let found = probe.run(vnode, &format!("{kind} connect {loopback} {port}"));
                        assert_eq!(found, "errno 111", "{kind} {loopback} {port} in {vnode}");
                    }
                }
                let outside = TcpStream::connect((loopback, 8386)).unwrap_err().kind();
                assert_eq!(outside, std::io::ErrorKind::ConnectionRefused);
            }
        }
        // Nor by the address that stands for it.
        let _server = probe.serve(OLD.0, "tcp", "127.0.0.1", 8387);
        let real = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let port = format!(":{:04X}", 8387);
        let real = real.lines().find(|line| line.contains(&port)).unwrap();
        let real = real.split_whitespace().nth(1).unwrap().split(':').next();
        let real = u32::from_str_radix(real.unwrap(), 16)
            .unwrap()
            .to_ne_bytes();
        assert!(real[0] == 127 && real[1] > 0, "{real:?}");
        let real = std::net::Ipv4Addr::from(real);
        let found = probe.run(NEIGHBOUR, &format!("tcp connect {real} 8387"));
        assert_eq!(found, "errno 111", "{real}");
    });
}

/// All calls that tell an address, for TCP and UDP, IPv4, IPv6 and IPv4 in IPv6.
#[test]
fn every_call_tells_the_address_that_was_asked() {
    with_probes(|_| {
        let program = "
import socket
V6 = socket.AF_INET6
for family, loopback in [(socket.AF_INET, '127.0.0.1'), (V6, '::1'), (V6, '::ffff:127.0.0.1')]:
    listener = socket.socket(family)
    listener.bind((loopback, 0))
    listener.listen()
    port = listener.getsockname()[1]
    client = socket.socket(family)
    client.connect((loopback, port))
    server, peer = listener.accept()
    told = [s.getsockname()[0] for s in (listener, client, server)]
    told += [s.getpeername()[0] for s in (client, server)] + [peer[0]]
    assert told == [loopback] * 6, (loopback, told)
    assert client.getpeername()[1] == port and server.getpeername() == client.getsockname()

    one, two = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    one.bind((loopback, 0))
    two.sendto(b'?', one.getsockname())
    _, sender = one.recvfrom(10)
    assert sender[0] == loopback, sender
    one.sendto(b'!', sender)
    _, sender = two.recvfrom(10)
    assert sender == one.getsockname(), sender
    two = socket.socket(family, socket.SOCK_DGRAM)
    two.connect(one.getsockname())
    two.send(b'?')
    one.sendto(b'!', one.recvfrom(10)[1])
    assert two.recv(10) == b'!' and two.getsockname()[0] == loopback

other = socket.socket()
other.bind(('127.0.0.53', 0))
assert other.getsockname()[0] == '127.0.0.53'
third = socket.socket()
try:
    third.bind(other.getsockname())
except OSError as error:
    print(error.errno)
mixed = socket.socket(V6)
mixed.bind(('::', 0))
mixed.listen()
port = mixed.getsockname()[1]
for address in ['10.1.0.7', '0.0.0.0', 'localhost']:
    try:
        socket.create_connection((address, port)).close()
        print('answers')
    except OSError as error:
        print(error.errno)
";
        if let Some(found) = python(OLD.0, program) {
            assert_eq!(found, "98\nanswers\nanswers\n111");
        }
    });
}

/// nginx and others listen at 0.0.0.0 and, for IPv6 alone, at `::`: this works in every vnode.
#[test]
fn wildcards_of_both_families_can_be_listened_at() {
    with_probes(|_| {
        let program = "
import os, socket, sys
sockets = []
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for family, wildcard in [(socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')]:
        one = socket.socket(family, kind)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((wildcard, 80))
        if kind == socket.SOCK_STREAM:
            one.listen()
        sockets.append(one)
print(*[one.getsockname()[0] for one in sockets], flush=True)
for address in ('0.0.0.0', '::1'):
    socket.create_connection((address, 80)).close()
if len(sys.argv) < 2:
    os.execvp('EMU', ['EMU', 'exec', '10.1.0.8', '--', sys.executable, '-c', PROGRAM, 'last'])
";
        // Twice, one in the other: the sockets of the first stay open.
        let program = program
            .replace(
                "EMU",
                &integration::command::emu_path().display().to_string(),
            )
            .replace(
                "PROGRAM",
                "open('/proc/self/cmdline').read().split('\\0')[2]",
            )
            .replace(
                "        sockets.append(one)",
                "        one.set_inheritable(True)\n        sockets.append(one)",
            );
        if let Some(found) = python(OLD.0, &program) {
            assert_eq!(
                found,
                "10.1.0.7 ::1 10.1.0.7 ::1\n10.1.0.8 ::1 10.1.0.8 ::1"
            );
        }
    });
}

/// `loopback: shared`: 127.0.0.1 is the machine's.
#[test]
fn loopback_can_be_shared() {
    isolated(|| {
        let file = TopologyFile::new(&TOPOLOGY.replace("groups:", "loopback: shared\ngroups:"));
        file.load();
        let folder = tempfile::tempdir().unwrap();
        for probe in probes(env!("CARGO_BIN_EXE_probe"), folder.path()) {
            for (kind, way) in WAYS {
                for loopback in LOOPBACKS {
                    let server = probe.serve(OLD.0, kind, loopback, 7004);
                    assert_eq!(server.bound, loopback);
                    let seen = probe.run(NEW.0, &format!("{kind} {way} {loopback} 7004"));
                    assert_eq!(seen, loopback, "{} {kind} {way}", probe.language);
                }
            }
        }
        // Programs that run would keep what they have.
        let server = probes(env!("CARGO_BIN_EXE_probe"), folder.path())[0].serve(
            OLD.0,
            "udp",
            "127.0.0.1",
            7005,
        );
        let own = TopologyFile::new(TOPOLOGY);
        let refused = try_emu(&format!("load {} --no-verify", own.path()));
        assert_eq!(refused.status.code(), Some(1));
        drop(server);
        emu("unload");
    });
}

/// What the first program adds for `::1` is gone with the load, is noticed if it is taken away,
/// and is not needed where IPv6 is off.
#[test]
fn the_own_loopback_of_ipv6_leaves_nothing_behind() {
    let setting = Path::new("/proc/sys/net/ipv6/ip_nonlocal_bind");
    isolated(move || {
        let file = TopologyFile::new(TOPOLOGY);
        file.load();
        emu("exec old/0 -- true");
        let routes = || run("ip -6 route show table local");
        assert!(routes().contains("fd65:6d75:6c6f::/96"), "{}", routes());
        assert_eq!(fs::read_to_string(setting).unwrap().trim(), "1");
        run("ip -6 route del local fd65:6d75:6c6f::/96 dev lo table local");
        fs::write(setting, "0").unwrap();
        let status = try_emu("status");
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(text.contains("MISSING"), "{status:?}");
        file.load_again();
        assert!(routes().contains("fd65:6d75:6c6f::/96"), "{}", routes());
        assert_eq!(fs::read_to_string(setting).unwrap().trim(), "1");
        assert_eq!(emu_json("status")["ok"], true);
        emu("unload");
        assert!(!routes().contains("fd65"), "{}", routes());
        assert_eq!(fs::read_to_string(setting).unwrap().trim(), "0");
    });
    isolated(move || {
        fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1").unwrap();
        let old = TOPOLOGY.lines().filter(|line| !line.contains("new:"));
        let file = TopologyFile::new(&old.collect::<Vec<_>>().join("\n"));
        file.load();
        let program = "
import socket
one = socket.socket()
one.bind(('127.0.0.1', 0))
print(one.getsockname()[0])
";
        if let Some(found) = python(OLD.0, program) {
            assert_eq!(found, "127.0.0.1");
        }
        assert_eq!(fs::read_to_string(setting).unwrap().trim(), "0");
        emu("unload");
    });
}
