//! What happens at once in a soak.
use std::{
    fs,
    path::Path,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Options, Report};
use crate::{
    agent::Agent,
    command::{TopologyFile, emu_command, run, try_emu, try_run},
    netns::Host,
    udp,
};

/// Port of the agent, in its own namespace.
pub(super) const AGENT_PORT: u16 = 9750;
/// What must have been done for a soak to say anything.
pub(super) const PARTS: [&str; 7] = [
    "set",
    "load in place",
    "partition and heal",
    "exec",
    "change of the agent's file",
    "part taken away from the agent",
    "killed load",
];
/// Pairs of vnodes that exchange datagrams.
const PAIRS: u32 = 4;
/// Pause of a part between two of its steps, so that all parts have their turn.
const PAUSE: Duration = Duration::from_millis(200);
/// Time between two datagrams of a pair.
const GAP: Duration = Duration::from_millis(20);
/// Time without a datagram after which no more are expected: a sender may get no CPU for
/// seconds.
const QUIET: Duration = Duration::from_secs(5);

/// Datagrams that were sent and received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number sent.
    pub sent: u64,
    /// Number that arrived.
    pub received: u64,
    /// Number that arrived behind one that was sent later.
    pub overtaken: u64,
}

/// What the parts of a soak share.
pub(super) struct Work<'a> {
    pub options: Options,
    pub report: &'a Mutex<Report>,
    /// File of the topology in the calm namespace.
    pub calm: &'a TopologyFile,
    /// The namespace of the agent.
    pub agents: &'a Host,
    /// The file that the agent follows.
    pub followed: &'a Path,
    pub agent: &'a Agent,
    /// A namespace in which loads of a topology are killed.
    pub kills: &'a Host,
    pub killed: &'a TopologyFile,
}

/// The topology of the calm namespace: nobody changes `steady`, whose queues hold what a sender
/// without CPU sends late.
pub(super) fn calm(vnodes: u32, round: u64) -> String {
    let (more, latency) = (round % 3, 5 + round % 7);
    format!(
        "version: 1\nseed: 1\ngroups:\n  \
         steady: {{prefix: 10.1.0.0/16, nodes: {vnodes}, up: 10mbit, down: 10mbit, \
         queue: 10MB, latency: 10ms}}\n  \
         varied: {{prefix: 10.2.0.0/16, nodes: {}, up: 1mbit, \
         loss: 0%, latency: {latency}ms}}\n",
        u64::from(vnodes) + more
    )
}

/// The topology whose load is killed: processes and machines.
pub(super) const KILLED: &str = "version: 1\nseed: 1\ngroups:\n  \
    a: {prefix: 10.4.0.0/16, nodes: 4, up: 1mbit}\n  \
    m: {prefix: 10.5.0.0/16, kind: machine, nodes: 2, latency: 10ms}\n";

/// The topology that the agent follows.
pub(super) fn followed(round: u64) -> String {
    let (nodes, latency) = (4 + round % 3, 5 + round % 7);
    format!(
        "version: 1\nname: n{round}\nseed: 1\ngroups:\n  \
         a: {{prefix: 10.3.0.0/16, nodes: {nodes}, latency: {latency}ms}}\n"
    )
}

impl Work<'_> {
    fn count(&self, name: &'static str) {
        *self.report.lock().unwrap().counts.entry(name).or_default() += 1;
    }

    fn fail(&self, text: String) {
        eprintln!("soak: {text}");
        self.report.lock().unwrap().failures.push(text);
    }

    /// Runs a command that must succeed; returns its output.
    fn emu(&self, arguments: &str) -> String {
        let output = try_emu(arguments);
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            self.fail(format!("emu {arguments}: {}: {errors}", output.status));
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Changes by hand and loads in place, in the calm namespace.
    pub fn change(&self, stop: &AtomicBool) {
        for round in rounds(stop) {
            let (rate, latency, loss) = (100 + round % 900, 1 + round * 7 % 60, round % 5);
            self.emu(&format!(
                "set varied up={rate}kbit latency={latency}ms loss={loss}%"
            ));
            self.count("set");
            self.emu("partition varied steady");
            self.emu("heal varied steady");
            self.count("partition and heal");
            let text = calm(self.options.vnodes, round);
            fs::write(self.calm.path(), text).unwrap();
            let load = format!("load {} --no-verify --force --json", self.calm.path());
            let how = self.emu(&load);
            if how.contains("in_place") {
                self.count("load in place");
            } else {
                self.fail(format!("a load was not in place: {how}"));
            }
        }
    }

    /// Programs of vnodes come and go; the state is read.
    pub fn enter(&self, stop: &AtomicBool) {
        for round in rounds(stop) {
            let vnode = round % u64::from(self.options.vnodes);
            self.emu(&format!("exec steady/{vnode} -- true"));
            self.count("exec");
            self.emu("status --json");
        }
    }

    /// The agent's file changes, and somebody takes away what the agent loaded.
    pub fn follow(&self, stop: &AtomicBool) {
        self.agents.join();
        const PARTS: [(&str, &str); 4] = [
            (
                "tc filter del dev lo egress",
                "tc filter show dev lo egress",
            ),
            (
                "tc qdisc del dev lo root",
                "tc qdisc show dev lo handle e30:",
            ),
            ("ip link set emu-ifb0 down", "ip link show up dev emu-ifb0"),
            ("ip link del emu-ifb0", "ip link show up dev emu-ifb0"),
        ];
        for round in rounds(stop) {
            let new = self.followed.with_extension("new");
            fs::write(&new, followed(round)).unwrap();
            fs::rename(&new, self.followed).unwrap();
            let name = format!("n{round}");
            let follows = self.until(|| {
                let ready = self.agent.readiness();
                ready.is_some_and(|(code, answer)| code == 200 && answer["topology"] == *name)
            });
            if follows {
                self.count("change of the agent's file");
            } else {
                self.fail(format!("the agent does not follow: {}", self.agent.log()));
            }
            let (take, look) = PARTS[round as usize % PARTS.len()];
            run(take);
            if self.until(|| !try_run(look).stdout.is_empty()) {
                self.count("part taken away from the agent");
            } else {
                self.fail(format!("the agent does not restore: {take}"));
            }
        }
    }

    /// Whether a condition holds within half a minute, in the agent's namespace.
    fn until(&self, holds: impl Fn() -> bool) -> bool {
        let begin = Instant::now();
        while !holds() {
            if begin.elapsed() > Duration::from_secs(30) {
                return false;
            }
            thread::sleep(PAUSE / 4);
        }
        true
    }

    /// Loads are killed; the next load repairs, and the unload leaves nothing.
    pub fn kill(&self, stop: &AtomicBool) {
        self.kills.join();
        let load = format!("load {} --no-verify --force", self.killed.path());
        for round in rounds(stop) {
            let mut child = emu_command(&load)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            thread::sleep(Duration::from_millis(round * 37 % 300));
            let _ = child.kill();
            let _ = child.wait();
            if round.is_multiple_of(2) {
                self.emu(&load);
            }
            self.emu("unload --force");
            self.count("killed load");
        }
    }

    /// Datagrams between vnodes of the group that nobody changes.
    pub fn send(&self, stop: &AtomicBool) {
        thread::scope(|scope| {
            for pair in 0..PAIRS {
                scope.spawn(move || self.send_pair(pair, stop));
            }
        });
    }

    fn send_pair(&self, pair: u32, stop: &AtomicBool) {
        let [from, to] = [1, 2].map(|end| format!("10.1.0.{}", 2 * pair + end));
        let (from, receiver) = (udp::socket(&from), udp::socket(&to));
        let begin = Instant::now();
        let traffic = thread::scope(|scope| {
            let arrivals = scope.spawn(|| udp::receive(&receiver, usize::MAX, QUIET));
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = udp::send(&from, &to, sent, 400) {
                    self.fail(format!("a vnode cannot send: {error}"));
                }
                sent += 1;
                thread::sleep((GAP * sent).saturating_sub(begin.elapsed()));
            }
            let arrivals = arrivals.join().unwrap();
            Traffic {
                sent: sent.into(),
                received: arrivals.len() as u64,
                overtaken: udp::overtaken(&arrivals) as u64,
            }
        });
        let all = &mut self.report.lock().unwrap().traffic;
        all.sent += traffic.sent;
        all.received += traffic.received;
        all.overtaken += traffic.overtaken;
    }
}

/// Numbers of rounds, with a pause after each, until the end.
fn rounds(stop: &AtomicBool) -> impl Iterator<Item = u64> {
    (0..).take_while(|round| {
        if *round > 0 {
            thread::sleep(PAUSE);
        }
        !stop.load(Ordering::Relaxed)
    })
}
