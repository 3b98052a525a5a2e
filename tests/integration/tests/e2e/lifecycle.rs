//! Loading repeatedly, over damage, alternately, and at scale.
use std::{
    io::Write,
    process::Stdio,
    time::{Duration, Instant},
};

use integration::{
    command::{TopologyFile, emu, emu_command, emu_json, run, try_emu},
    netns::isolated,
    udp,
};

use crate::{latency::TOPOLOGIES, safety::snapshot};

const SMALL: &str = "
version: 1
name: small
groups: {a: {prefix: 10.1.0.0/24, nodes: 4, up: 1mbit, down: 1mbit, latency: 5ms}}
";

#[test]
fn a_second_load_replaces_the_first() {
    isolated(|| {
        let before = snapshot();
        emu(&format!("load {TOPOLOGIES}/p2plab.yaml --no-verify"));
        let file = TopologyFile::new(SMALL);
        emu(&format!("load {}", file.path()));
        let status = emu_json("status");
        assert_eq!(
            (&status["name"], &status["vnodes"]),
            (&"small".into(), &4.into())
        );
        emu(&format!("load {}", file.path()));
        emu("unload");
        assert_eq!(snapshot(), before);
    });
}

/// The topology is read once, from a pipe; later commands know it from the state folder.
#[test]
fn a_topology_from_a_pipe_is_loaded() {
    isolated(|| {
        for file in ["-", "/dev/stdin"] {
            let mut load = emu_command(&format!("load {file} --no-verify"));
            let mut load = load.stdin(Stdio::piped()).spawn().unwrap();
            load.stdin
                .take()
                .unwrap()
                .write_all(SMALL.as_bytes())
                .unwrap();
            assert!(load.wait().unwrap().success(), "{file}");
            assert_eq!(emu_json("status")["vnodes"], 4);
            emu("set a latency=9ms");
            emu("unload");
        }
    });
}

/// Parts were removed by hand: status reports the drift, verify fails, load repairs, unload
/// restores.
#[test]
fn drift_is_reported_and_repaired() {
    isolated(|| {
        let before = snapshot();
        let file = TopologyFile::new(SMALL);
        for damage in [
            "tc qdisc del dev lo root",
            "tc qdisc del dev lo clsact",
            "ip link del emu-ifb0",
            "ip addr flush dev lo scope global",
            "rm -rf /sys/fs/bpf/emu",
        ] {
            file.load();
            run(damage);
            let seen = try_emu("status").status.code() == Some(1)
                || try_emu("verify --samples 2").status.code() == Some(1);
            assert!(seen || damage.starts_with("rm"), "{damage} went unseen");
            emu(&format!("load {}", file.path()));
            run(damage);
            emu("unload");
            assert_eq!(snapshot(), before, "after {damage}");
        }
    });
}

#[test]
fn errors_change_nothing_and_have_their_exit_codes() {
    isolated(|| {
        let good = TopologyFile::new(SMALL);
        good.load();
        let before = snapshot();
        let bad = TopologyFile::new("version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 999}}\n");
        let output = try_emu(&format!("load {}", bad.path()));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2));
        assert!(errors.contains(&format!("{}:2:42", bad.path())), "{errors}");

        let absent = TopologyFile::new(&format!(
            "{SMALL}hosts: [{{name: h1, interface: nosuch0, groups: [a]}}]\n"
        ));
        let output = try_emu(&format!("load {}", absent.path()));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            errors.contains("no interface nosuch0; there are"),
            "{errors}"
        );

        assert_eq!(try_emu("load").status.code(), Some(2));
        assert_eq!(try_emu("status nosuch").status.code(), Some(1));
        assert_eq!(snapshot(), before);
        assert_eq!(emu_json("status")["name"], "small");
    });
}

#[test]
fn without_a_load_commands_say_so() {
    isolated(|| {
        for command in ["status", "verify"] {
            let output = try_emu(command);
            assert_eq!(output.status.code(), Some(1));
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(errors.contains("nothing is loaded"), "{errors}");
        }
        assert_eq!(emu_json("unload")["was_loaded"], false);
    });
}

#[test]
fn one_writer_at_a_time() {
    isolated(|| {
        let file = TopologyFile::new(SMALL);
        for _ in 0..3 {
            let children: Vec<_> = (0..6)
                .map(|_| {
                    emu_command(&format!("load {} --no-verify", file.path()))
                        .stdout(Stdio::null())
                        .stderr(Stdio::piped())
                        .spawn()
                        .unwrap()
                })
                .collect();
            let mut won = 0;
            for child in children {
                let output = child.wait_with_output().unwrap();
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                won += u32::from(output.status.success());
                let locked = errors.contains("another emu is changing");
                assert!(output.status.success() || locked, "{errors}");
            }
            assert!(won >= 1);
            assert_eq!(emu_json("status")["ok"], true);
        }
        emu("verify");
    });
}

#[test]
fn dry_run_shows_and_does_nothing() {
    isolated(|| {
        let before = snapshot();
        let text = emu(&format!("load {TOPOLOGIES}/p2plab.yaml --dry-run"));
        for part in [
            "2750 vnodes",
            "10.1.1.1 to 10.1.1.250",
            "emu_egress",
            "flow_limit",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
        assert_eq!(snapshot(), before);
    });
}

/// The largest host: as many vnodes as the flow identifier can distinguish. The file does
/// not choose how the vnodes get their addresses, so they get them by routes.
#[test]
fn sixty_five_thousand_vnodes() {
    isolated(|| {
        let before = snapshot();
        let file = TopologyFile::new(
            "
version: 1
groups:
  a: {prefix: 10.64.0.0/15, nodes: 65536, up: 1mbit, down: 8mbit, latency: 20ms, queue: 64KB}
",
        );
        let start = Instant::now();
        file.load();
        println!("65,536 vnodes loaded in {:?}", start.elapsed());
        let report = emu_json("verify");
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!(emu_json("status 10.65.0.0")["index"], 65_535);
        emu("unload");
        assert_eq!(snapshot(), before);
    });
}

/// As many groups as the maps hold, with a latency for each pair.
#[test]
fn a_thousand_and_twenty_four_groups() {
    isolated(|| {
        let mut text = String::from("version: 1\ngroups:\n");
        for i in 0..1024 {
            text += &format!(
                "  g{i}: {{prefix: 10.{}.{}.0/24, nodes: 2}}\n",
                i / 256,
                i % 256
            );
        }
        text += "latencies:\n";
        for i in 0..512 {
            text += &format!(
                "  - {{between: [g{i}, g{}], latency: {}ms}}\n",
                1023 - i,
                10 + i % 50
            );
        }
        let file = TopologyFile::new(&text);
        file.load();
        for i in [0, 49, 511] {
            let (from, to) = (format!("10.0.{i}.1"), 1023 - i);
            let (from, to) = if i < 256 {
                (from, format!("10.{}.{}.2", to / 256, to % 256))
            } else {
                (
                    format!("10.{}.{}.1", i / 256, i % 256),
                    format!("10.{}.{}.2", to / 256, to % 256),
                )
            };
            let (here, there) = (udp::socket(&from), udp::socket(&to));
            let delays = [0; 3].map(|tag| {
                udp::send(&here, &to, tag, 100).unwrap();
                udp::receive(&there, 1, Duration::from_secs(2))[0].delay_ms()
            });
            let delay = integration::median(&delays);
            let expected = f64::from(10 + i % 50);
            assert!(
                (expected..expected + 10.0).contains(&delay),
                "g{i}: {delay}"
            );
        }
    });
}

#[test]
fn doctor_finds_this_kernel_fit() {
    isolated(|| {
        let report = emu_json("doctor");
        assert_eq!(report["ok"], true, "{report}");
        assert!(report["checks"].as_array().unwrap().len() >= 8);
    });
}

/// `verify --rates` on access links that any machine can saturate.
#[test]
fn verify_measures_rates() {
    isolated(|| {
        let file = TopologyFile::new(SMALL);
        file.load();
        let report = emu_json("verify --rates");
        let rates = report["rates"].as_array().unwrap();
        assert_eq!(rates.len(), 2);
        assert_eq!(report["ok"], true, "{report}");
    });
}
