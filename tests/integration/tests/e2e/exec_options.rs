//! Socket options of vnodes' processes that assume another network than a vnode's.
use std::{thread, time::Duration};

use integration::{
    command::{TopologyFile, emu, emu_command, emu_json, python},
    netns::{isolated, load_on, two_hosts},
};

/// Two hosts with a vnode each.
const TWO: &str = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 1, up: 8mbit, down: 8mbit, latency: 20ms}
  b: {prefix: 10.2.0.0/24, nodes: 1, up: 8mbit, down: 8mbit, latency: 20ms}
hosts:
  - {name: h1, interface: eth0, address: 192.0.2.1, groups: [a]}
  - {name: h2, interface: eth0, address: 192.0.2.2, groups: [b]}
";

/// As libtorrent connects: bound to the vnode's address and to the interface that has it.
const CLIENT: &str = "
import socket
s = socket.socket()
s.settimeout(5)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo\\0')
s.bind(('10.1.0.1', 0))
s.connect(('10.2.0.1', 8000))
print(s.getpeername()[0], s.recv(9).decode(), end='')
";

const SERVER: &str = "
import socket
s = socket.create_server(('10.2.0.1', 8000))
c, who = s.accept()
c.sendall(who[0].encode())
";

/// Segmentation offload fails as on a kernel without it; other options, and one with a value
/// longer than the page that the kernel copies for hooks, have their usual effects.
const OPTIONS: &str = "
import socket, errno
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    udp.setsockopt(17, 103, 1200)
    print('segments')
except OSError as error:
    print(errno.errorcode[error.errno])
udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
print(udp.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST))
long = (5000).to_bytes(4, 'little') + bytes(8188)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, long)
print(udp.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
";

fn count(event: &str) -> u64 {
    let status = emu_json("status");
    let counted = &status["exec"]["events"][event];
    counted
        .as_u64()
        .unwrap_or_else(|| panic!("{event}: {status:#}"))
}

#[test]
fn a_socket_bound_to_lo_reaches_a_vnode_of_another_host() {
    let Some(python) = python() else {
        println!("SKIPPED: no Debian Python");
        return;
    };
    isolated(move || {
        let hosts = two_hosts("dev");
        let file = TopologyFile::new(TWO);
        load_on(&hosts, &file);
        let mut server = hosts[1].enter(move || {
            let mut server = emu_command("exec 10.2.0.1 --");
            server.args([python, "-c", SERVER]).spawn().unwrap()
        });
        thread::sleep(Duration::from_secs(2));
        let client = hosts[0].enter(move || {
            let mut client = emu_command("exec 10.1.0.1 --");
            client.args([python, "-c", CLIENT]).output().unwrap()
        });
        assert_eq!(
            String::from_utf8_lossy(&client.stdout),
            "10.2.0.1 10.1.0.1",
            "{client:?}"
        );
        assert!(server.wait().unwrap().success());
        assert_eq!(hosts[0].enter(|| count("device_ignored")), 1);
        for host in &hosts {
            host.enter(|| emu("unload"));
        }
    });
}

#[test]
fn segmentation_offload_is_refused_and_other_options_work() {
    let Some(python) = python() else {
        println!("SKIPPED: no Debian Python");
        return;
    };
    isolated(move || {
        let outside = std::process::Command::new(python)
            .args(["-c", OPTIONS])
            .output()
            .unwrap();
        let outside = String::from_utf8_lossy(&outside.stdout).into_owned();
        assert_eq!(outside, "segments\n1\n10000\n", "a process of no vnode");
        let file = TopologyFile::new(crate::exec::TOPOLOGY);
        file.load();
        let mut program = emu_command("exec old/6 --");
        let inside = program.args([python, "-c", OPTIONS]).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&inside.stdout),
            outside.replace("segments", "ENOPROTOOPT"),
            "{inside:?}"
        );
        assert_eq!(count("segmentation_refused"), 1);
        assert_eq!(count("device_ignored"), 0);
        emu("unload");
    });
}
