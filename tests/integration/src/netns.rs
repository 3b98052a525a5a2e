//! Scratch network namespaces: one per test, removed when the test's thread ends.
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::fd::AsFd,
    panic, process,
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::command::{TopologyFile, emu, run};

/// Timeout of one test; a test that takes longer is stuck.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Runs a test in a network namespace of its own with `lo` up. Child processes inherit the
/// namespace. A test that hangs aborts the whole test run, after a list of what every
/// process waits for.
///
/// # Panics
/// With the test's own message, if the test left cgroups, which would disturb later ones, or if
/// the user may not create namespaces.
pub fn isolated<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    isolated_within(TEST_TIMEOUT, test)
}

/// Like [`isolated`], with another timeout.
///
/// # Panics
/// As [`isolated`].
pub fn isolated_within<T: Send + 'static>(
    timeout: Duration,
    test: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, watched) = mpsc::channel::<()>();
    thread::spawn(move || {
        if watched.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Written directly, because libtest keeps the output of eprintln until the test
            // ends.
            let message = format!("a test hangs; what the processes wait for:\n{}", waits());
            let _ = io::stderr().write_all(message.as_bytes());
            process::exit(101);
        }
    });
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("make a namespace: {e}"));
        run("ip link set lo up");
        let before = cgroups();
        let result = test();
        let mut left = cgroups();
        left.retain(|name| !before.contains(name));
        assert!(left.is_empty(), "the test left the cgroups emu/{left:?}");
        result
    });
    let outcome = thread.join();
    drop(done);
    outcome.unwrap_or_else(|e| panic::resume_unwind(e))
}

/// Names of the cgroups that emu made and did not remove.
fn cgroups() -> Vec<OsString> {
    let folders = fs::read_dir("/sys/fs/cgroup/emu").into_iter().flatten();
    let folders = folders.flatten().filter(|entry| entry.path().is_dir());
    folders.map(|entry| entry.file_name()).collect()
}

/// The command line of every user process, and the state and kernel stack of every thread.
fn waits() -> String {
    let read = |path: String| {
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let numbers = |folder: &str| -> Vec<String> {
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.map(|e| e.file_name().to_string_lossy().into_owned());
        names
            .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
            .collect()
    };
    let mut text = String::new();
    for process in numbers("/proc") {
        let line = read(format!("/proc/{process}/cmdline"));
        if line.is_empty() {
            continue;
        }
        text += &format!("{process} {line}\n");
        let tasks = format!("/proc/{process}/task");
        for task in numbers(&tasks) {
            let read = |file: &str| read(format!("{tasks}/{task}/{file}"));
            let status = read("status");
            let state = status.lines().find(|l| l.starts_with("State"));
            let (name, call, stack) = (read("comm"), read("syscall"), read("stack"));
            let state = state.unwrap_or_default();
            text += &format!(
                "  {task} {} {state}, system call {call}{stack}",
                name.trim()
            );
        }
    }
    text
}

/// A named network namespace that represents a host; deleted on drop.
pub struct Host {
    name: String,
}

impl Host {
    /// Creates a namespace with `lo` up.
    pub fn new(name: &str) -> Self {
        let name = format!("emu-{name}-{}", std::process::id());
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        Self { name }
    }

    /// Name of the namespace for `ip -n` and `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a closure on a thread in the namespace.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let name = self.name.clone();
        let thread = thread::spawn(move || {
            join(&name);
            work()
        });
        thread.join().unwrap_or_else(|e| panic::resume_unwind(e))
    }

    /// Moves the calling thread into the namespace.
    pub fn join(&self) {
        join(&self.name);
    }
}

/// Moves the calling thread into a namespace with a name.
fn join(name: &str) {
    let path = format!("/run/netns/{name}");
    let file = File::open(&path).unwrap_or_else(|e| panic!("open {path}: {e}"));
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// Creates `count` hosts on one bridge, which is in the test's own namespace: `eth0` on
/// each, 192.0.2.1 and following.
pub fn bridged_hosts(name: &str, count: usize) -> Vec<Host> {
    run("ip link add emu-br type bridge");
    run("ip link set emu-br up");
    let hosts: Vec<Host> = (0..count)
        .map(|i| Host::new(&format!("{name}{i}")))
        .collect();
    for (i, host) in hosts.iter().enumerate() {
        let host = host.name();
        run(&format!(
            "ip link add port{i} type veth peer name eth0 netns {host}"
        ));
        run(&format!("ip link set port{i} master emu-br up"));
        run(&format!(
            "ip -n {host} addr add 192.0.2.{}/24 dev eth0",
            i + 1
        ));
        run(&format!("ip -n {host} link set eth0 addrgenmode none"));
        run(&format!("ip -n {host} link set eth0 up"));
    }
    // A bridge port starts to forward shortly after it is up.
    for i in 0..count {
        let forwards = || run(&format!("bridge link show dev port{i}")).contains("forwarding");
        for _ in 0..500 {
            if forwards() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert!(forwards(), "port{i} does not forward");
    }
    hosts
}

/// Loads a topology on hosts that it calls h1, h2 and so on, without measuring.
pub fn load_on(hosts: &[Host], file: &TopologyFile) {
    for (host, number) in hosts.iter().zip(1..) {
        let load = format!("load {} --host h{number} --no-verify", file.path());
        host.enter(move || emu(&load));
    }
}

/// Two hosts joined by a veth pair: `eth0` on each, 192.0.2.1 and 192.0.2.2.
pub fn two_hosts(name: &str) -> [Host; 2] {
    let hosts = [
        Host::new(&format!("{name}1")),
        Host::new(&format!("{name}2")),
    ];
    let [a, b] = [hosts[0].name(), hosts[1].name()];
    run(&format!(
        "ip link add eth0 netns {a} type veth peer name eth0 netns {b}"
    ));
    for (i, host) in [a, b].iter().enumerate() {
        run(&format!(
            "ip -n {host} addr add 192.0.2.{}/24 dev eth0",
            i + 1
        ));
        // Without link-local IPv6 addresses, which are tentative for a second: snapshots
        // would differ.
        run(&format!("ip -n {host} link set eth0 addrgenmode none"));
        run(&format!("ip -n {host} link set eth0 up"));
    }
    // A kernel worker brings the carrier up shortly after the command.
    for host in [a, b] {
        let up = || run(&format!("ip -n {host} link show eth0")).contains("state UP");
        for _ in 0..200 {
            if up() {
                break;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(up(), "eth0 of {host} has no carrier");
    }
    hosts
}
