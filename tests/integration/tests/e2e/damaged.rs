//! Damaged state: the readable part is used, the rest is kept and named, and there is always
//! a way out.
use std::{fs, process::Output};

use emu_kernel::state::StateDir;
use integration::{
    command::{TopologyFile, emu, emu_json, emu_path, run, try_emu, try_run},
    netns::isolated,
};

use crate::run::everything;

fn topology(nodes: usize, latency: &str) -> TopologyFile {
    TopologyFile::new(&format!(
        "version: 1\nseed: 3\ngroups:\n  \
         a: {{prefix: 10.1.0.0/16, nodes: {nodes}, up: 1mbit, down: 8mbit, latency: {latency}}}\n  \
         b: {{prefix: 10.2.0.0/16, nodes: 5, up: 1mbit, down: 8mbit, latency: 10ms}}\n"
    ))
}

fn load(file: &TopologyFile) -> Output {
    try_emu(&format!("load {} --no-verify", file.path()))
}

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// No panic, which ends a process with SIGABRT or 101.
fn no_panic(output: &Output, what: &str) {
    let text = said(output);
    assert!(
        matches!(output.status.code(), Some(0..=2)),
        "{what}: {:?} {text}",
        output.status
    );
    assert!(!text.contains("panicked"), "{what}: {text}");
}

fn folder() -> String {
    format!("/run/emu/{}", StateDir::here().unwrap().name())
}

#[test]
fn a_damaged_journal_is_kept_and_its_readable_part_is_undone() {
    for (damage, clean) in [
        // The last line, which tells of a filter.
        ("sed -i '$s/.*/{\"undo\": \"from-another-version\"}/'", true),
        // All lines but the first two.
        ("sed -i '3,$s/undo/odnu/'", false),
        ("sed -i 's/^/\\xff/'", false),
        ("truncate -s 3", false),
    ] {
        isolated(move || {
            let before = everything();
            let file = topology(4, "20ms");
            emu(&format!("load {} --no-verify", file.path()));
            let journal = format!("{}/journal.jsonl", folder());
            let script = tempfile::NamedTempFile::new().unwrap();
            fs::write(script.path(), format!("{damage} {journal}")).unwrap();
            run(&format!("bash {}", script.path().display()));
            let output = try_emu("unload");
            let words = said(&output);
            assert_eq!(output.status.code(), Some(1), "{damage}: {words}");
            let told = words.contains(".damaged.jsonl") || words.contains("--stale");
            assert!(told, "{damage}: {words}");
            assert!(!words.contains("as it was before\n"), "{damage}: {words}");
            // The way out.
            let _ = try_emu("unload --stale");
            let rules = run("tc filter show dev lo egress") + &run("tc qdisc show dev lo");
            assert!(!rules.contains("e30"), "{damage}: {rules}");
            assert_eq!(emu_json("unload")["was_loaded"], false, "{damage}");
            if clean {
                assert_eq!(everything(), before, "{damage}");
            }
            assert!(load(&topology(4, "20ms")).status.success(), "{damage}");
            emu("unload");
        });
    }
}

#[test]
fn a_damaged_state_is_told_of_and_a_load_puts_it_in_order() {
    isolated(|| {
        let before = everything();
        let (six, seven) = (topology(6, "20ms"), topology(7, "20ms"));
        for slots in ["4294967295", "65535", "5000", "5"] {
            assert!(load(&six).status.success());
            assert!(load(&seven).status.success());
            let path = format!("{}/state.json", folder());
            let mut state: serde_json::Value =
                serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let count = state["slots"].as_array().unwrap().len();
            assert_eq!(count, 12);
            let slot: u64 = slots.parse().unwrap();
            // Different ones, where that is what is wrong.
            let each = |i: usize| if slot == 5000 { slot + i as u64 } else { slot };
            state["slots"] = (0..count).map(each).collect();
            fs::write(&path, serde_json::to_vec(&state).unwrap()).unwrap();
            for command in ["status", "set a up=2mbit", "down 10.1.0.1", "verify"] {
                no_panic(&try_emu(command), &format!("{slots}: {command}"));
            }
            let output = load(&six);
            no_panic(&output, slots);
            assert!(output.status.success(), "{slots}: {}", said(&output));
            assert!(try_emu("status").status.success(), "{slots}");
        }
        for text in ["", "{", "[]", "{\"version\": 1}", "\u{0}\u{0}"] {
            fs::write(format!("{}/state.json", folder()), text).unwrap();
            for command in ["status", "set a up=2mbit", "exec a/0 -- true"] {
                let output = try_emu(command);
                let words = said(&output);
                assert!(
                    !output.status.success() && !words.contains("panicked"),
                    "{words}"
                );
            }
            let output = load(&six);
            assert!(output.status.success(), "{text:?}: {}", said(&output));
        }
        emu("unload");
        assert_eq!(everything(), before);
    });
}

/// Without room for the state, what is loaded stays as it is.
#[test]
fn a_full_disk_leaves_the_network_as_it_is() {
    isolated(|| {
        let script = "set -e
mount -t tmpfs -o size=300k tmpfs /run/emu
EMU load T20 --no-verify
dd if=/dev/zero of=/run/emu/fill bs=1k 2>/dev/null || true
before=$(ip addr show lo; tc qdisc show; tc filter show dev lo egress)
for load in 'EMU load T25 --no-verify' 'EMU load T22 --no-verify --anew' 'EMU load T22 --no-verify'; do
  if $load; then echo loaded with a full disk; exit 3; fi
  test \"$before\" = \"$(ip addr show lo; tc qdisc show; tc filter show dev lo egress)\"
  EMU status >/dev/null
done
rm /run/emu/fill
EMU load T22 --no-verify
EMU status >/dev/null
EMU unload
for k in 4 8 12 16 24 32 48; do
  dd if=/dev/zero of=/run/emu/fill bs=1k 2>/dev/null || true
  truncate -s -${k}k /run/emu/fill
  EMU load T20 --no-verify || true
  rm /run/emu/fill
  EMU unload
  if ip link show emu-ifb0 2>/dev/null; then exit 4; fi
done
umount /run/emu
";
        let (a, b, c) = (
            topology(20, "20ms"),
            topology(20, "25ms"),
            topology(22, "20ms"),
        );
        let script = script
            .replace("EMU", &emu_path().display().to_string())
            .replace("T20", &a.path())
            .replace("T25", &b.path())
            .replace("T22", &c.path());
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), script).unwrap();
        let output = try_run(&format!("unshare -m bash -x {}", file.path().display()));
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("No space left"), "{}", said(&output));
    });
}

/// A namespace that ends leaves state and pins, and nobody else's are taken for them.
#[test]
fn what_dead_namespaces_leave_is_listed_and_removed() {
    isolated(|| {
        let file = topology(4, "20ms");
        emu(&format!("load {} --no-verify", file.path()));
        let own = folder();
        let emu_program = emu_path().display().to_string();
        let script = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "ip link set lo up; {emu_program} load {} --no-verify && {emu_program} exec a/0 -- true",
            file.path()
        );
        fs::write(script.path(), text).unwrap();
        run(&format!("unshare -n bash {}", script.path().display()));
        let listed = emu_json("unload --stale --dry-run");
        let stale = listed["stale"].as_array().unwrap();
        assert!(!stale.is_empty(), "{listed}");
        assert!(!listed.to_string().contains(&own), "{listed}");
        let paths = listed.to_string();
        for part in ["/run/emu/ns-", "/sys/fs/bpf/emu/ns-", "/emu/ns-"] {
            assert!(paths.contains(part), "{part}: {listed}");
        }
        emu("unload --stale");
        let left = emu_json("unload --stale --dry-run").to_string();
        // A namespace of an earlier test may have ended since the first list.
        for one in stale {
            let folder = format!("/run/emu/{}", one["name"].as_str().unwrap());
            assert!(!left.contains(&folder), "{folder}: {left}");
        }
        // The live one is whole.
        assert!(try_emu("status").status.success());
        emu("unload");
    });
}

/// Objects without a journal are told of and not taken for nothing.
#[test]
fn objects_without_a_journal_are_told_of_and_removed() {
    isolated(|| {
        let file = topology(4, "20ms");
        emu(&format!("load {} --no-verify", file.path()));
        fs::remove_dir_all(folder()).unwrap();
        let output = try_emu("unload");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(
            said(&output).contains("emu unload --stale"),
            "{}",
            said(&output)
        );
        let words = emu("unload --stale");
        assert!(words.contains("emu-ifb0"), "{words}");
        assert_eq!(emu_json("unload")["was_loaded"], false);
        assert!(load(&topology(4, "20ms")).status.success());
        emu("unload");
    });
}
