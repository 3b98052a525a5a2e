//! `--netns`: emu in a network namespace of its own, and the caller's namespace unchanged.
use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    thread,
    time::Duration,
};

use integration::{
    command::{TopologyFile, emu, emu_command, run, try_emu},
    netns::{Host, isolated},
    wait_for,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{run::Lab, safety::snapshot};

const TOPOLOGY: &str = "version: 1
groups: {a: {prefix: 10.1.0.0/24, nodes: 4, up: 1mbit, down: 1mbit, latency: 10ms}}
";

/// A name that no other test uses, and its file.
fn unused(what: &str) -> (String, PathBuf) {
    let name = format!("emu-{what}-{}", std::process::id());
    let path = Path::new("/run/netns").join(&name);
    assert!(!path.exists());
    (name, path)
}

/// Everything below a folder by name; nothing if there is no folder.
fn files(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.path().display().to_string())
        .collect();
    names.sort();
    names
}

/// Files of namespaces and of emu's state.
fn residue() -> Vec<String> {
    let folders = [
        "/run/netns",
        "/run/emu",
        "/run/emu/netns",
        "/sys/fs/bpf/emu",
    ];
    let names = folders.iter().flat_map(|folder| files(folder));
    // These belong to no namespace.
    names
        .filter(|name| !["/run/emu/netns", "/run/emu/netns.lock"].contains(&name.as_str()))
        .collect()
}

fn refusal(output: &Output, code: i32, text: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(text), "{errors}");
}

#[test]
fn a_load_makes_the_namespace_and_the_callers_stays_as_it_is() {
    isolated(|| {
        let (name, path) = unused("made");
        let file = TopologyFile::new(TOPOLOGY);
        // The state folder exists from here on.
        assert_eq!(emu("unload").trim(), "nothing was loaded");
        let (before, left) = (snapshot(), residue());
        let text = emu(&format!("load {} --netns {name}", file.path()));
        assert!(text.contains(&format!("made the network namespace {name}")));
        assert!(path.exists());

        assert_eq!(snapshot(), before, "in the caller's namespace");
        let inside = run(&format!("ip netns exec {name} tc qdisc show dev lo"));
        assert!(inside.contains("fq e30:"), "{inside}");

        let status = emu(&format!("status --netns {name} --json"));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert!(status["pins"].is_string(), "{status}");
        // Nothing is loaded here, so a command without the option finds it, too.
        let found: serde_json::Value = serde_json::from_str(&emu("status --json")).unwrap();
        assert_eq!(found["pins"], status["pins"]);
        emu(&format!("--netns {name} verify"));
        emu(&format!("set 10.1.0.2 up=2mbit --netns {name}"));
        let addresses = emu(&format!(
            "exec --netns {name} a/1 -- ip -o addr show dev lo"
        ));
        assert!(addresses.contains("10.1.0.2"), "{addresses}");
        let ping = "ping -n -c 2 -I 10.1.0.2 10.1.0.3";
        let ping = emu(&format!("exec --netns {name} a/1 -- {ping}"));
        assert!(ping.contains(" 2 received"), "{ping}");

        // A later load finds the namespace, which still belongs to emu.
        let again = emu(&format!("load {} --no-verify --netns {name}", file.path()));
        assert!(again.contains("changed in place"), "{again}");
        let text = emu(&format!("unload --netns {name}"));
        assert!(text.contains("unloaded"), "{text}");
        assert!(text.contains(&format!("removed the network namespace {name}")));
        assert_eq!((snapshot(), residue()), (before, left));
    });
}

#[test]
fn a_namespace_of_the_user_is_kept() {
    isolated(|| {
        let host = Host::new("kept");
        let name = host.name();
        let before = host.enter(snapshot);
        let file = TopologyFile::new(TOPOLOGY);
        let text = emu(&format!("load {} --no-verify --netns {name}", file.path()));
        assert!(!text.contains("made the network namespace"), "{text}");
        assert_ne!(host.enter(snapshot), before);
        assert_eq!(
            emu(&format!("unload --netns {name}")).trim(),
            "unloaded: everything is as it was before"
        );
        assert_eq!(host.enter(snapshot), before);

        // By the path of a process in it.
        let mut child = host.enter(|| {
            let sleep = std::process::Command::new("sleep").arg("600").spawn();
            sleep.unwrap()
        });
        let path = format!("/proc/{}/ns/net", child.id());
        emu(&format!("load {} --no-verify --netns {path}", file.path()));
        emu(&format!("status --netns {name}"));
        emu(&format!("unload --netns {path}"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(host.enter(snapshot), before);

        // A namespace that takes the name of one of emu's is the user's.
        let (name, path) = unused("replaced");
        let load = format!("load {} --no-verify --netns {name}", file.path());
        emu(&load);
        emu(&format!("unload --netns {name}"));
        assert!(!path.exists());
        fs::write(Path::new("/run/emu/netns").join(&name), "1").unwrap();
        run(&format!("ip netns add {name}"));
        emu(&load);
        emu(&format!("unload --netns {name}"));
        assert!(path.exists());
        assert!(!Path::new("/run/emu/netns").join(&name).exists());
        run(&format!("ip netns del {name}"));
    });
}

#[test]
fn a_load_that_fails_leaves_no_namespace() {
    isolated(|| {
        let (name, path) = unused("failed");
        emu("unload");
        let left = residue();
        let file = TopologyFile::new(
            "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2}}\nhosts: [{name: h1, interface: eth9, groups: [a]}]\n",
        );
        let output = try_emu(&format!("load {} --netns {name}", file.path()));
        refusal(&output, 1, "eth9");
        assert!(!path.exists());
        let output = try_emu(&format!("load /nowhere.yaml --netns {name}"));
        refusal(&output, 2, "nowhere");
        let file = TopologyFile::new(TOPOLOGY);
        let plan = emu(&format!("load {} --dry-run --netns {name}", file.path()));
        assert!(plan.contains("10.1.0."), "{plan}");
        assert_eq!(residue(), left);
    });
}

#[test]
fn mistakes_are_reported() {
    isolated(|| {
        let (name, path) = unused("missing");
        for command in [
            "status",
            "unload",
            "verify",
            "set a/0 up=1mbit",
            "plan x.yaml",
        ] {
            let output = try_emu(&format!("{command} --netns {name}"));
            refusal(&output, 1, &format!("no network namespace {name}"));
        }
        let output = try_emu(&format!("exec --netns {name} a/0 -- true"));
        refusal(&output, 125, &format!("no network namespace {name}"));
        refusal(&try_emu("status --netns a/b"), 2, "no `/`");
        refusal(&try_emu("status --netns="), 2, "needs a name");
        refusal(&try_emu("status --netns a\u{1b}b"), 2, "control");
        refusal(
            &try_emu("status --netns /proc/1/ns/mnt"),
            1,
            "not a network",
        );
        refusal(&try_emu("status --netns /dev/null"), 1, "not a network");
        refusal(&try_emu("schema --netns lab"), 2, "omit --netns");
        // The user's file of this name stays.
        fs::create_dir_all("/run/netns").unwrap();
        fs::write(&path, "").unwrap();
        let file = TopologyFile::new(TOPOLOGY);
        let output = try_emu(&format!("load {} --netns {name}", file.path()));
        refusal(&output, 1, "not a network namespace");
        fs::remove_file(&path).unwrap();
        for command in ["status", "load x.yaml"] {
            let mut command = emu_command(&format!("{command} --netns {name}"));
            refusal(&command.uid(65534).output().unwrap(), 1, "needs root");
        }
    });
}

/// How far a load has come that makes a namespace: 1 with the record, 2 with the name, and one
/// for each step of the journal.
fn phase(name: &str) -> usize {
    let Ok(cookie) = fs::read_to_string(Path::new("/run/emu/netns").join(name)) else {
        return 0;
    };
    if !Path::new("/run/netns").join(name).exists() {
        return 1;
    }
    let journal = fs::read_to_string(format!("/run/emu/ns-{cookie}/journal.jsonl"));
    2 + journal.map_or(0, |text| text.lines().count())
}

/// Kills a load as soon as it has come to each phase; `clean_up` is the next command.
fn kill_loads(what: &str, clean_up: impl Fn(&str, &str)) {
    let (name, path) = unused(what);
    let file = TopologyFile::new(TOPOLOGY);
    let load = format!("load {} --no-verify --netns {name}", file.path());
    let unload = format!("unload --netns {name}");
    emu(&load);
    let phases = phase(&name);
    assert!(phases >= 8, "{phases}");
    emu(&unload);
    let left = residue();
    // A load reads its standard input after it has made the namespace, so this kill is certain
    // to strike in between.
    let mut child = emu_command(&format!("load - --netns {name}"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    while phase(&name) < 2 {
        assert!(child.try_wait().unwrap().is_none(), "ended too soon");
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(path.exists());
    clean_up(&name, &file.path());
    assert_eq!(residue(), left, "killed before it read the topology");
    let mut in_between = 0;
    for until in 0..=phases {
        let mut child = emu_command(&load)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while phase(&name) < until && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_micros(200));
        }
        let _ = child.kill();
        child.wait().unwrap();
        let is_loaded = try_emu(&format!("status --netns {name}")).status.success();
        in_between += u32::from(path.exists() && !is_loaded);
        clean_up(&name, &file.path());
        assert_eq!(residue(), left, "killed in phase {until}");
    }
    println!("{in_between} of {phases} kills left a namespace without a finished load");
}

#[test]
fn a_killed_load_is_undone_by_unload() {
    isolated(|| {
        kill_loads("unload", |name, _| {
            let output = try_emu(&format!("unload --netns {name}"));
            if !output.status.success() {
                // The load was killed before its first change.
                refusal(&output, 1, &format!("no network namespace {name}"));
            }
        });
    });
}

#[test]
fn a_killed_load_is_completed_by_load() {
    isolated(|| {
        kill_loads("again", |name, file| {
            emu(&format!("load {file} --netns {name}"));
            emu(&format!("unload --netns {name}"));
        });
    });
}

/// What a load leaves that is killed before the namespace has its name: a record, with or
/// without the file that becomes the mount point.
#[test]
fn the_rest_of_a_namespace_without_a_name_is_removed() {
    isolated(|| {
        let (name, path) = unused("rest");
        let file = TopologyFile::new(TOPOLOGY);
        let load = format!("load {} --no-verify --netns {name}", file.path());
        emu(&load);
        emu(&format!("unload --netns {name}"));
        let left = residue();
        let record = Path::new("/run/emu/netns").join(&name);
        for (text, with_file) in [("", false), ("7", false), ("7", true)] {
            let rest = || {
                fs::write(&record, text).unwrap();
                if with_file {
                    fs::write(&path, "").unwrap();
                }
            };
            rest();
            let output = emu(&format!("unload --netns {name}"));
            assert_eq!(output.trim(), "nothing was loaded");
            assert_eq!(residue(), left);
            rest();
            emu(&load);
            emu(&format!("unload --netns {name}"));
            assert_eq!(residue(), left);
        }
    });
}

/// An experiment that runs until it is stopped.
fn endless(topology: &str) -> Lab {
    Lab::with(
        topology,
        "name: quiet\nduration: 1h\nprograms: [{name: wait, on: a/0, run: [sleep, '3000']}]\n",
    )
}

fn start(line: &str) -> Child {
    let mut command = emu_command(line);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// The network of a run is in a namespace of its own, which other commands find, and which
/// goes with the run, whether it ends or is killed.
#[test]
fn a_run_leaves_the_callers_network_alone() {
    for kind in ["process", "machine"] {
        isolated(move || {
            let topology =
                TOPOLOGY.replace("groups: {a: {", &format!("groups: {{a: {{kind: {kind}, "));
            let lab = endless(&topology);
            emu("unload");
            let (before, left) = (snapshot(), residue());
            for end in [Signal::SIGINT, Signal::SIGKILL] {
                let line = lab.command_line(end.as_str());
                let mut run = start(&line.replace("--host-network", ""));
                wait_for("the program", || {
                    let status = try_emu("status --json");
                    let text = String::from_utf8_lossy(&status.stdout).into_owned();
                    text.contains("\"processes\": 1").then_some(())
                });
                assert_eq!(snapshot(), before);
                let ping = run_in_vnode("ping -c 1 -I 10.1.0.1 10.1.0.2");
                assert!(ping.contains("1 received"), "{kind}: {ping}");
                kill(Pid::from_raw(run.id().cast_signed()), end).unwrap();
                run.wait().unwrap();
                wait_for("the end of the namespace", || {
                    (residue() == left).then_some(())
                });
                assert_eq!(snapshot(), before);
                assert!(!try_emu("status").status.success());
            }
        });
    }
}

fn run_in_vnode(what: &str) -> String {
    emu(&format!("exec a/0 -- {what}"))
}

/// A topology of machines is loaded in a namespace of its own, and commands find it there
/// unless something is loaded in the caller's.
#[test]
fn machines_are_loaded_apart_and_found() {
    isolated(|| {
        // Leaves the lock of this namespace.
        emu("unload");
        let (before, left) = (snapshot(), residue());
        let machines = TopologyFile::new(&format!("{TOPOLOGY}kind: machine\n"));
        let told = emu(&format!("load {} --no-verify", machines.path()));
        assert!(told.contains("made the network namespace emu\n"), "{told}");
        assert_eq!(snapshot(), before);
        assert_eq!(emu("exec a/1 -- hostname").trim(), "a-1");
        let again = emu(&format!("load {} --no-verify", machines.path()));
        assert!(again.contains("changed in place"), "{again}");
        // Two networks at once: the one that is here comes first.
        let processes = TopologyFile::new(&TOPOLOGY.replace("10.1.", "10.7."));
        emu(&format!("load {} --no-verify", processes.path()));
        assert!(emu("exec a/1 -- printenv EMU_VNODE").starts_with("10.7.0.2"));
        emu("unload");
        assert_eq!(snapshot(), before);
        // Two that are elsewhere: the user says which.
        emu(&format!(
            "load {} --netns second --no-verify",
            processes.path()
        ));
        refusal(&try_emu("status"), 2, "(emu, second)");
        assert!(emu("exec --netns second a/1 -- printenv EMU_VNODE").starts_with("10.7.0.2"));
        emu("unload --netns second");
        emu("unload");
        assert_eq!(residue(), left);
    });
}
