//! `emu exec`: the program's process, and the state that remains after its exit.
use std::{
    fs,
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use integration::{
    command::{TopologyFile, emu, emu_command, emu_json, emu_path, try_emu},
    netns::isolated,
};

use crate::{
    exec::{TOPOLOGY, as_vnode},
    safety::snapshot,
};

/// Cgroup folder of this namespace's vnodes, once a topology is loaded.
fn cgroups() -> PathBuf {
    let status = emu_json("status");
    let pins = Path::new(status["pins"].as_str().unwrap()).to_owned();
    Path::new("/sys/fs/cgroup/emu").join(pins.file_name().unwrap())
}

fn loaded(test: impl FnOnce() + Send + 'static) {
    isolated(|| {
        let file = TopologyFile::new(TOPOLOGY);
        file.load();
        let cgroups = cgroups();
        test();
        assert!(cgroups.exists());
        emu("unload");
        assert!(!cgroups.exists(), "cgroups are left");
    });
}

/// Output of a shell command that runs as a vnode.
fn shell(line: &str) -> String {
    let output = as_vnode("old/6", &["sh", "-c", line]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn sleeper(vnode: &str) -> Child {
    let child = emu_command(&format!("exec {vnode} -- sleep 1000"))
        .spawn()
        .unwrap();
    let comm = format!("/proc/{}/comm", child.id());
    let end = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(&comm).unwrap().trim() != "sleep" {
        assert!(Instant::now() < end, "exec takes too long");
        thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn exec_gives_the_status_of_the_program() {
    loaded(|| {
        let code = |argv: &[&str]| as_vnode("10.1.0.7", argv).status.code();
        assert_eq!(code(&["true"]), Some(0));
        assert_eq!(code(&["sh", "-c", "exit 7"]), Some(7));
        assert_eq!(code(&["no-such-program"]), Some(127));
        assert_eq!(code(&["/etc/passwd"]), Some(126));
        let killed = as_vnode("10.1.0.7", &["sh", "-c", "kill -TERM $$"]);
        assert_eq!(killed.status.signal(), Some(15));
        // The program replaces emu in its process, so a signal to emu is a signal to the
        // program.
        let mut child = sleeper("10.1.0.7");
        let id = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(2));
        for wrong in ["10.9.0.1", "old/200", "nosuch/0", "old"] {
            let output = as_vnode(wrong, &["true"]);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(125), "{errors}");
            assert!(
                errors.contains("as group/index, the first being"),
                "{errors}"
            );
        }
    });
    isolated(|| {
        let output = as_vnode("10.1.0.7", &["true"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{errors}");
        assert!(errors.contains("nothing is loaded"), "{errors}");
    });
}

#[test]
fn exec_keeps_environment_folder_streams_and_priority() {
    loaded(|| {
        let mut command = emu_command("exec new/6 -- sh -c");
        let line = "read word; echo $EMU_VNODE $COLOUR $PWD $word; echo fault >&2; ulimit -n; nice";
        let mut child = command
            .arg(line)
            .env("COLOUR", "green")
            .current_dir("/usr/share")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"word\n").unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let limit = std::process::Command::new("sh")
            .args(["-c", "ulimit -n; nice"])
            .output()
            .unwrap();
        let limit = String::from_utf8(limit.stdout).unwrap();
        assert_eq!(text, format!("fd10::7 green /usr/share word\n{limit}"));
        assert_eq!(output.stderr, b"fault\n");
    });
}

#[test]
fn exec_runs_as_the_user_behind_sudo() {
    loaded(|| {
        let id = [
            "exec",
            "old/6",
            "--",
            "sh",
            "-c",
            "id -u; id -g; echo $USER",
        ];
        let output = emu_command("")
            .args(id)
            .env("SUDO_UID", "65534")
            .env("SUDO_GID", "65534")
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"65534\n65534\nnobody\n");
        let named = emu_command("exec --user nobody old/6 -- id -u");
        let output = { named }.output().unwrap();
        assert_eq!(output.stdout, b"65534\n");
        assert_eq!(shell("id -u"), "0");
        let unknown = try_emu("exec --user no-such-user old/6 -- id");
        assert_eq!(unknown.status.code(), Some(125));
        // A program of an unprivileged user cannot leave its vnode.
        let leave = "echo $$ > /sys/fs/cgroup/cgroup.procs; cut -d: -f3 /proc/self/cgroup";
        let output = emu_command("exec --user nobody old/6 -- sh -c")
            .arg(leave)
            .output()
            .unwrap();
        let place = String::from_utf8(output.stdout).unwrap();
        assert!(place.trim().ends_with("/10.1.0.7"), "{place}");
    });
}

#[test]
fn exec_it_gives_a_shell() {
    loaded(|| {
        let line = format!("{} exec old/6 -it", emu_path().display());
        let mut child = std::process::Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input
            .write_all(b"tty && echo I am $EMU_VNODE; exit 3\n")
            .unwrap();
        let output = child.wait_with_output().unwrap();
        drop(input);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("I am 10.1.0.7"), "{text}");
        assert_eq!(output.status.code(), Some(3), "{text}");
        // Without a terminal, or without a program, emu prints an error.
        let piped = emu_command("exec old/6 -it").stdin(Stdio::null()).output();
        assert_eq!(piped.unwrap().status.code(), Some(125));
        assert_eq!(try_emu("exec old/6").status.code(), Some(125));
    });
}

/// Cgroups that a program creates inside its own belong to the vnode as well.
#[test]
fn exec_identity_reaches_nested_cgroups() {
    loaded(|| {
        let nest = "d=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/one/two && mkdir -p $d \
                    && echo $$ > $d/cgroup.procs &&";
        let probe = env!("CARGO_BIN_EXE_probe");
        for way in ["tcp bind 0.0.0.0 7010", "udp bind :: 7010"] {
            assert!(shell(&format!("{nest} {probe} {way}")).ends_with("10.1.0.7"));
        }
        assert_eq!(
            shell(&format!("{nest} {probe} tcp bind 10.1.0.8 1 || true")),
            "errno 99"
        );
        let guarded = shell(&format!("{nest} ping -c 1 -W 1 10.1.0.8 || true"));
        assert!(guarded.contains("0 received"), "{guarded}");
    });
}

/// emu itself works as a vnode, and root's programs may become another vnode.
#[test]
fn exec_inside_exec() {
    loaded(|| {
        let emu_path = emu_path().display().to_string();
        let status = as_vnode("new/6", &[&emu_path, "status", "--json"]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(text.contains("\"processes\": 1"), "{text}");
        let other = ["exec", "old/6", "--", env!("CARGO_BIN_EXE_probe")];
        let mut argv = vec![emu_path.as_str()];
        argv.extend(other);
        argv.extend(["udp", "bind", "0.0.0.0", "7011"]);
        let output = as_vnode("new/6", &argv);
        assert_eq!(output.stdout, b"10.1.0.7\n");
    });
}

/// Children have the vnode's identity too, and the access link delays their packets.
#[test]
fn exec_shapes_what_children_send() {
    loaded(|| {
        let ping = shell("(ping -n -q -c 3 -I 10.1.0.7 10.1.0.8 & wait) | tail -1");
        let median: f64 = ping.split('/').nth(4).unwrap().parse().unwrap();
        assert!((8.0..16.0).contains(&median), "{ping}");
    });
}

#[test]
fn unload_waits_for_processes_or_kills_them() {
    isolated(|| {
        let before = snapshot();
        let file = TopologyFile::new(TOPOLOGY);
        file.load();
        let mut children: Vec<Child> = (0..7).map(|i| sleeper(&format!("old/{i}"))).collect();
        let exec = emu_json("status")["exec"].clone();
        assert_eq!(
            (&exec["processes"], &exec["vnodes"]),
            (&7.into(), &7.into())
        );
        let (loaded, cgroups) = (snapshot(), cgroups());
        // A load in place leaves the programs alone.
        let load = format!("load {} --no-verify --full-reload", file.path());
        for command in ["unload", &load] {
            let output = try_emu(command);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{command}");
            assert!(
                errors
                    .contains("still running: 7 of `emu exec` or `emu run`, as 10.1.0.1, 10.1.0.2"),
                "{errors}"
            );
            assert!(errors.contains("and 2 other vnodes"), "{errors}");
            assert_eq!(snapshot(), loaded, "{command} changed something");
        }
        emu(&format!("load {} --no-verify", file.path()));
        assert_eq!(emu_json("status")["exec"]["processes"], 7);
        emu("unload --kill");
        for child in &mut children {
            assert_eq!(child.wait().unwrap().signal(), Some(9));
        }
        assert_eq!(snapshot(), before);
        assert!(!cgroups.exists(), "cgroups are left");
    });
}

/// Number of undo steps recorded so far in this namespace.
fn recorded(journal: &Path) -> usize {
    fs::read_to_string(journal).map_or(0, |text| text.lines().count())
}

/// SIGKILL at moments of the first exec, which sets everything up: the next exec succeeds,
/// and unload cleans up in both cases.
#[test]
fn unload_cleans_up_after_a_killed_exec() {
    isolated(|| {
        let before = snapshot();
        let file = TopologyFile::new(TOPOLOGY);
        for round in 0..12u64 {
            file.load();
            let cgroups = cgroups();
            let name = cgroups.file_name().unwrap();
            let journal = Path::new("/run/emu").join(name).join("journal.jsonl");
            let steps = recorded(&journal);
            let mut child = emu_command("exec old/0 -- sleep 1000").spawn().unwrap();
            while recorded(&journal) == steps {
                thread::sleep(Duration::from_micros(100));
            }
            thread::sleep(Duration::from_micros(700 * round));
            let _ = child.kill();
            let _ = child.wait();
            if round % 2 == 0 {
                let output = as_vnode("old/1", &["sh", "-c", "echo $EMU_VNODE"]);
                assert_eq!(output.stdout, b"10.1.0.2\n", "round {round}");
            }
            emu("unload");
            assert_eq!(snapshot(), before, "round {round}");
            assert!(!cgroups.exists(), "round {round}: cgroups are left");
        }
    });
}

/// The measurement of the hooks' cost runs here too, and leaves no residue.
#[test]
fn exec_bench_measures_and_cleans_up() {
    isolated(|| {
        let report = emu_json("bench identity --pairs 6 --operations 50");
        for case in report["cases"].as_array().unwrap() {
            println!("{case}");
            assert!(case["ratio"]["median"].as_f64().unwrap() < 2.0, "{case}");
        }
        let left = fs::read_dir("/sys/fs/cgroup/emu").map_or(0, |entries| {
            let names = entries.flatten().map(|e| e.file_name());
            names
                .filter(|n| n.to_string_lossy().starts_with("bench"))
                .count()
        });
        assert_eq!(left, 0);
    });
}
