//! `load` and `unload` do not take addresses away from sockets that are bound to them.
use std::{
    net::{TcpListener, TcpStream, UdpSocket},
    process::Output,
};

use integration::{
    command::{TopologyFile, emu, emu_json, emu_path, try_emu},
    netns::isolated,
};
use socket2::{Domain, Protocol, Socket, Type};

const TOPOLOGY: &str = "
version: 1
addressing: ADDRESSING
groups:
  a: {prefix: 10.1.0.0/24, nodes: 20, latency: 2ms}
  b: {prefix: 'fd10::/64', nodes: 20, latency: 2ms}
";

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// What refuses, and each name that its message must have.
fn refuses(arguments: &str, names: &[&str]) {
    let output = try_emu(arguments);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{arguments}: {text}");
    assert!(text.contains("--force"), "{text}");
    for name in names {
        assert!(text.contains(name), "{name} in {text}");
    }
    let status = emu_json("status");
    assert_eq!(
        (&status["ok"], &status["vnodes"]),
        (&true.into(), &40.into())
    );
}

#[test]
fn sockets_keep_their_addresses() {
    for addressing in ["alias", "anyip"] {
        isolated(move || {
            let text = TOPOLOGY.replace("ADDRESSING", addressing);
            let file = TopologyFile::new(&text);
            let fewer = TopologyFile::new(&text.replace("nodes: 20", "nodes: 10"));
            let slower = TopologyFile::new(&text.replace("2ms", "3ms"));
            let other = TopologyFile::new(&text.replace("10.1.0.0", "10.7.0.0"));
            let load = |file: &TopologyFile| format!("load {} --no-verify", file.path());
            file.load();
            let listener = TcpListener::bind("10.1.0.15:7100").unwrap();
            let id = format!("(process {})", std::process::id());
            let held = "tcp 10.1.0.15:7100";
            for arguments in [
                "unload".to_owned(),
                load(&fewer),
                load(&other),
                format!("{} --full-reload", load(&fewer)),
            ] {
                refuses(&arguments, &[held, &id]);
            }
            // Those that stay are no reason, and the sockets go on.
            let loaded = try_emu(&load(&slower));
            assert!(loaded.status.success(), "{}", said(&loaded));
            let reloaded = try_emu(&format!("{} --full-reload", load(&file)));
            assert!(reloaded.status.success(), "{}", said(&reloaded));
            TcpStream::connect("10.1.0.15:7100").unwrap();

            // Each kind of socket, and an IPv4 address of an IPv6 socket.
            let udp = UdpSocket::bind("[fd10::f]:7101").unwrap();
            refuses("unload", &[held, "udp [fd10::f]:7101"]);
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(200))).unwrap();
            let at: std::net::SocketAddr = "10.1.0.16:0".parse().unwrap();
            raw.bind(&at.into()).unwrap();
            let mixed = TcpListener::bind("[::ffff:10.1.0.17]:7102").unwrap();
            refuses(&load(&fewer), &["raw 10.1.0.16", "tcp 10.1.0.17:7102"]);
            drop((listener, udp, raw));
            refuses("unload", &["tcp 10.1.0.17:7102"]);

            let forced = try_emu(&format!("{} --force", load(&fewer)));
            assert!(forced.status.success(), "{}", said(&forced));
            assert!(said(&forced).contains("go away: tcp 10.1.0.17:7102"));
            drop(mixed);
            let unloaded = try_emu("unload");
            assert!(unloaded.status.success(), "{}", said(&unloaded));
        });
    }
}

/// Processes of vnodes have their own rule: they are refused as such, or killed.
#[test]
fn sockets_of_vnodes_do_not_count_twice() {
    isolated(|| {
        let file = TopologyFile::new(&TOPOLOGY.replace("ADDRESSING", "alias"));
        file.load();
        let probe = env!("CARGO_BIN_EXE_probe");
        let mut child = std::process::Command::new(emu_path())
            .args([
                "exec", "a/14", "--", probe, "tcp", "serve", "0.0.0.0", "7103",
            ])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
        assert_eq!(line.trim(), "10.1.0.15");
        let text = said(&try_emu("unload"));
        assert!(
            text.contains("still running") && !text.contains("7103"),
            "{text}"
        );
        // A change in place would leave the program without its address.
        let fewer = TopologyFile::new(
            &TOPOLOGY
                .replace("ADDRESSING", "alias")
                .replace("nodes: 20", "nodes: 10"),
        );
        refuses(
            &format!("load {} --no-verify", fewer.path()),
            &["tcp 10.1.0.15:7103 of probe"],
        );
        let killed = try_emu("unload --kill");
        assert!(killed.status.success(), "{}", said(&killed));
        child.wait().unwrap();
        assert_eq!(emu_json("unload")["was_loaded"], false);
        emu("unload");
    });
}
