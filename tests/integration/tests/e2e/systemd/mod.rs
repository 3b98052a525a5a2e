//! Under a systemd that runs as the first process: the agent's unit as shipped, and
//! programs that systemd starts as vnodes.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use integration::{
    command::{TopologyFile, emu_path, run, try_run},
    netns::isolated,
    probe::{ask, peer},
    wait_for,
};

use crate::exec::{OLD, TOPOLOGY, at};

const SYSTEMD: &str = "/lib/systemd/systemd";
const BOOT: &str = include_str!("boot.sh");
const UNIT: &str = include_str!("../../../../../packaging/systemd/emu-agent.service");

/// A running systemd; killed with all its processes on drop.
struct Systemd {
    _folder: tempfile::TempDir,
    unshare: Child,
    /// PID of the systemd, in the test's PID namespace.
    first: u32,
}

impl Systemd {
    /// Starts a systemd with these units in this network namespace. `None` if systemd is
    /// not installed.
    fn boot(units: &[(String, String)], legacy: bool) -> Option<Self> {
        if !Path::new(SYSTEMD).exists() {
            println!("SKIPPED: no {SYSTEMD} (Debian: systemd)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("units")).unwrap();
        fs::write(at("boot.sh"), BOOT).unwrap();
        // The target starts nothing else.
        let target = "[Unit]\nDescription=Test\nDefaultDependencies=no\n";
        fs::write(at("units/test.target"), target).unwrap();
        for (name, text) in units {
            fs::write(at("units").join(name), text).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--pid", "--fork"]);
        command.args(["--kill-child", "bash"]).arg(at("boot.sh"));
        // The folder contains both programs of the tests.
        command.arg(folder.path()).arg(emu_path().parent().unwrap());
        if legacy {
            command.env("LEGACY", "1");
        }
        let unshare = command.stdin(Stdio::null()).spawn().unwrap();
        let list = format!("/proc/{0}/task/{0}/children", unshare.id());
        let first = wait_for("the first process", || {
            fs::read_to_string(&list).ok()?.trim().parse().ok()
        });
        let systemd = Self {
            _folder: folder,
            unshare,
            first,
        };
        wait_for("systemd", || {
            let state = systemd.run("systemctl is-active test.target");
            (state.stdout == b"active\n").then_some(())
        });
        Some(systemd)
    }

    /// A command line that runs in systemd's mount and PID namespaces.
    fn inside(&self, line: &str) -> String {
        let first = self.first;
        format!("nsenter --target {first} --mount --pid --root --wd=/ -- {line}")
    }

    /// Runs a program in these namespaces, whatever its exit status.
    fn run(&self, line: &str) -> Output {
        try_run(&self.inside(line))
    }

    /// Runs a program there, which must succeed; returns its output.
    fn succeed(&self, line: &str) -> String {
        run(&self.inside(line)).trim().to_owned()
    }

    fn emu(&self, arguments: &str) -> String {
        self.succeed(&format!("{} {arguments}", emu_path().display()))
    }

    /// Value of a property of a unit.
    fn show(&self, unit: &str, property: &str) -> String {
        self.succeed(&format!(
            "systemctl show --value --property={property} {unit}"
        ))
    }

    /// Path, outside, of a file that systemd sees at `path`.
    fn own(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.first)).join(path)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// Minimum round trip between two vnodes in milliseconds.
fn round_trip_ms() -> f64 {
    let (from, to) = ("10.1.0.7", "10.1.0.100");
    let text = run(&format!("ping -n -q -c 5 -i 0.2 -I {from} {to}"));
    let figures = text.rsplit(" = ").next().unwrap();
    figures.split('/').next().unwrap().parse().unwrap()
}

/// The agent's unit, with this build's program instead of the installed one.
fn agent() -> String {
    assert!(UNIT.contains("ExecStart=/usr/bin/emu agent"));
    UNIT.replace("/usr/bin/emu", "/opt/emu/emu")
}

#[test]
fn systemd_runs_the_agent() {
    isolated(|| {
        let Some(systemd) = Systemd::boot(&[("emu-agent.service".to_owned(), agent())], false)
        else {
            return;
        };
        // By the unit's condition, systemd does not start the agent without a topology.
        systemd.succeed("systemctl start emu-agent");
        assert_eq!(systemd.show("emu-agent", "ActiveState"), "inactive");
        let file = systemd.own("etc/emu/topology.yaml");
        fs::write(&file, TOPOLOGY).unwrap();
        // Type=notify: the command returns when the loaded state is that of the file.
        systemd.succeed("systemctl start emu-agent");
        assert_eq!(systemd.show("emu-agent", "ActiveState"), "active");
        let before = round_trip_ms();
        fs::write(&file, TOPOLOGY.replace("2ms", "40ms")).unwrap();
        systemd.succeed("systemctl reload emu-agent");
        wait_for("the change", || {
            Some(round_trip_ms()).filter(|ms| *ms > before + 30.0)
        });
        // The change may have come while that round trip was on its way.
        let after = round_trip_ms();
        println!("round trip {before} ms, after the change {after} ms");
        assert!((after - before - 152.0).abs() < 10.0);
        // systemd restarts a killed agent; in between traffic is still shaped.
        let process = systemd.show("emu-agent", "MainPID");
        systemd.succeed(&format!("kill -9 {process}"));
        let shaped = round_trip_ms();
        assert!((shaped - after).abs() < 10.0, "{shaped} ms");
        wait_for("another agent", || {
            let active = systemd.show("emu-agent", "SubState") == "running";
            (active && systemd.show("emu-agent", "MainPID") != process).then_some(())
        });
        assert_eq!(systemd.show("emu-agent", "NRestarts"), "1");
        systemd.succeed("systemctl stop emu-agent");
        assert_eq!(systemd.show("emu-agent", "Result"), "success");
        let left = round_trip_ms();
        assert!((left - after).abs() < 10.0, "{left} ms");
        systemd.emu("unload --force");
        assert!(!run("tc qdisc show dev lo").contains("fq"));
    });
}

/// A unit whose program runs as a vnode; its output is in /run.
fn unit(name: &str, kind: &str, argv: &str) -> (String, String) {
    let text = format!(
        "[Unit]\nDefaultDependencies=no\n[Service]\nType={kind}\n\
         ExecStart={} exec {} -- {argv}\nStandardOutput=file:/run/{name}\n",
        emu_path().display(),
        OLD.0
    );
    (format!("{name}.service"), text)
}

/// Programs that systemd starts are vnodes; `judge` gets their cgroup paths.
fn programs_are_vnodes(legacy: bool, judge: impl FnOnce(&str) + Send + 'static) {
    isolated(move || {
        let probe = env!("CARGO_BIN_EXE_probe");
        let units = [
            unit(
                "speaker",
                "oneshot",
                &format!("{probe} tcp connect {} 7000", OLD.1),
            ),
            unit("server", "exec", &format!("{probe} tcp serve 0.0.0.0 7001")),
            unit("sleeper", "exec", "sleep 1000"),
            unit("failure", "oneshot", "sh -c 'exit 3'"),
        ];
        let Some(systemd) = Systemd::boot(&units, legacy) else {
            return;
        };
        let file = TopologyFile::new(TOPOLOGY);
        fs::copy(file.path(), systemd.own("run/topology.yaml")).unwrap();
        systemd.emu("load /run/topology.yaml --no-verify");
        let printed = |name: &str| {
            let text = fs::read_to_string(systemd.own("run").join(name));
            text.unwrap_or_default().trim().to_owned()
        };
        peer(&at(OLD.1, 7000));
        systemd.succeed("systemctl start speaker");
        assert_eq!(printed("speaker"), OLD.0);
        assert!(!systemd.run("systemctl start failure").status.success());
        assert_eq!(systemd.show("failure", "ExecMainStatus"), "3");

        systemd.succeed("systemctl start server sleeper");
        let sleeper = systemd.show("sleeper", "MainPID");
        let cgroups = || systemd.succeed(&format!("cat /proc/{sleeper}/cgroup"));
        let before = wait_for("the vnode's cgroup", || {
            Some(cgroups()).filter(|text| text.contains("0::/emu/ns-"))
        });
        judge(&before);
        // systemd reorganises its own cgroup tree, and does not touch emu's.
        systemd.succeed("systemctl daemon-reload");
        assert_eq!(cgroups(), before);
        wait_for("the server", || (printed("server") == OLD.0).then_some(()));
        let answer = ask("tcp", OLD.1, &at(OLD.0, 7001));
        assert_eq!(answer.as_deref(), Some(OLD.1));

        // systemd stops its own programs although they are in a cgroup of emu.
        let refused = systemd.run(&format!("{} unload", emu_path().display()));
        assert!(!refused.status.success(), "a vnode's program runs");
        systemd.succeed("systemctl stop sleeper");
        assert_eq!(systemd.show("sleeper", "Result"), "success");
        assert!(!systemd.own("proc").join(&sleeper).exists());
        systemd.emu("unload --force");
        assert!(!systemd.own("sys/fs/cgroup/emu").exists());
        assert!(!systemd.own("sys/fs/cgroup/unified/emu").exists());
    });
}

#[test]
fn systemd_starts_vnodes() {
    programs_are_vnodes(false, |cgroups| assert_eq!(cgroups.lines().count(), 1));
}

#[test]
fn systemd_starts_vnodes_in_a_mixed_tree() {
    programs_are_vnodes(true, |cgroups| {
        // The version 1 hierarchies are still systemd's.
        let named = |line: &&str| line.contains(":name=systemd:/system.slice/sleeper.service");
        println!("{cgroups}");
        assert_eq!(cgroups.lines().filter(named).count(), 1, "{cgroups}");
        assert!(cgroups.lines().count() > 2, "{cgroups}");
    });
}
