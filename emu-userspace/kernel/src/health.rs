//! Whether the host, and not the emulated network, was the limit.
//!
//! A run or a measurement takes a [`Monitor`], calls [`Monitor::sample`] now and
//! then, and asks [`Monitor::report`] at its end. [`Health::limits`] says in words
//! what the host did not keep up with; a measurement with any is no evidence about
//! the emulated network.
use std::{fs, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{
    clock,
    fq_stats::{FqStats, fq_stats},
    netlink::Netlink,
};

/// Share of time in which all processors together may be busy, in one interval.
const BUSY: f64 = 0.95;
/// Share of a run that may be that busy, before a warning.
const BUSY_TIME: f64 = 0.05;
/// Share of the processors that the machine's owner may take away.
const STOLEN: f64 = 0.05;
/// Lateness of fq that no emulated latency hides, in milliseconds.
const LATE_MS: f64 = 2.0;

/// Totals of `/proc/stat`, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ticks {
    all: u64,
    idle: u64,
    softirq: u64,
    stolen: u64,
}

/// Totals of `/proc/net/softnet_stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Softnet {
    dropped: u64,
    squeezed: u64,
}

/// What is read at a time.
#[derive(Debug, Clone, Default)]
struct Reading {
    ticks: Ticks,
    softnet: Softnet,
    fq: Vec<FqStats>,
}

/// Looks after a host.
pub struct Monitor {
    netlink: Option<Netlink>,
    first: Reading,
    last: Reading,
    at: Instant,
    /// Seconds in all, and of busy intervals.
    seconds: f64,
    busy_seconds: f64,
    late_ms: f64,
    most_busy: f64,
}

/// How a host kept up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Time under watch.
    pub seconds: f64,
    /// Share of the processors' time that was not idle.
    pub busy: f64,
    /// The same in the busiest interval.
    pub most_busy: f64,
    /// Seconds of intervals that were busy all over.
    pub saturated_s: f64,
    /// Share of the processors' time that went to packets in interrupts.
    pub softirq: f64,
    /// Share that other machines on the same processors took.
    pub stolen: f64,
    /// Packets that were dropped because a processor's backlog was full.
    pub softnet_dropped: u64,
    /// Times that a processor had more packets than it could handle at once.
    pub softnet_squeezed: u64,
    /// Packets that fq dropped: queues too short, or beyond its horizon.
    pub fq_dropped: u64,
    /// Largest lateness that fq told of, in milliseconds.
    pub fq_late_ms: f64,
    /// Whether the clock was an emulated one that computing does not move: then the host's
    /// speed cannot be a limit, and what is said of its processors means nothing.
    #[serde(default)]
    pub in_virtual_time: bool,
    /// What the host did not keep up with, in words; empty: nothing.
    pub limits: Vec<String>,
}

impl Monitor {
    /// Begins now, in the calling thread's network namespace.
    pub fn new() -> Self {
        let mut netlink = Netlink::open().ok();
        let first = read(&mut netlink);
        Self {
            netlink,
            last: first.clone(),
            first,
            at: Instant::now(),
            seconds: 0.0,
            busy_seconds: 0.0,
            late_ms: 0.0,
            most_busy: 0.0,
        }
    }

    /// Looks at the interval since the last call; best about once a second.
    pub fn sample(&mut self) {
        let now = read(&mut self.netlink);
        let seconds = self.at.elapsed().as_secs_f64();
        self.at = Instant::now();
        let busy = busy(&self.last.ticks, &now.ticks);
        self.seconds += seconds;
        if busy >= BUSY {
            self.busy_seconds += seconds;
        }
        self.most_busy = self.most_busy.max(busy);
        // What it tells is old while no packet waits.
        if throttled(&now.fq) > throttled(&self.last.fq) {
            self.late_ms = self.late_ms.max(late_ms(&now.fq));
        }
        self.last = now;
    }

    /// How the host kept up so far.
    pub fn report(&self) -> Health {
        let (first, last) = (&self.first, &self.last);
        let mut health = Health {
            seconds: self.seconds,
            busy: busy(&first.ticks, &last.ticks),
            most_busy: self.most_busy,
            saturated_s: self.busy_seconds,
            softirq: share(&first.ticks, &last.ticks, |t| t.softirq),
            stolen: share(&first.ticks, &last.ticks, |t| t.stolen),
            softnet_dropped: last.softnet.dropped.saturating_sub(first.softnet.dropped),
            softnet_squeezed: last.softnet.squeezed.saturating_sub(first.softnet.squeezed),
            fq_dropped: dropped(&last.fq).saturating_sub(dropped(&first.fq)),
            fq_late_ms: self.late_ms,
            in_virtual_time: clock::is_computing_free(),
            limits: Vec::new(),
        };
        health.limits = health.words();
        health
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let in_real_time = !self.in_virtual_time;
        if in_real_time && self.saturated_s > self.seconds * BUSY_TIME {
            words.push(format!(
                "all processors were busy for {:.1} of {:.1} s",
                self.saturated_s, self.seconds
            ));
        }
        if in_real_time && self.stolen > STOLEN {
            words.push(format!(
                "other machines took {:.0} % of the processors",
                self.stolen * 100.0
            ));
        }
        if self.fq_late_ms > LATE_MS {
            words.push(format!("fq sent packets {:.1} ms late", self.fq_late_ms));
        }
        if self.fq_dropped > 0 {
            words.push(format!("fq dropped {} packets", self.fq_dropped));
        }
        if self.softnet_dropped > 0 {
            words.push(format!(
                "processors dropped {} packets before the network saw them",
                self.softnet_dropped
            ));
        }
        words
    }
}

/// Packets that any fq dropped.
fn dropped(fq: &[FqStats]) -> u64 {
    fq.iter().map(|fq| u64::from(fq.drops)).sum()
}

/// How late the latest fq is lately.
/// Packets that waited for their time.
fn throttled(stats: &[FqStats]) -> u64 {
    stats.iter().map(|s| s.throttled).sum()
}

fn late_ms(fq: &[FqStats]) -> f64 {
    let late = fq.iter().map(|fq| fq.lateness_ns).max();
    f64::from(late.unwrap_or(0)) / 1e6
}

fn read(netlink: &mut Option<Netlink>) -> Reading {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let fq = netlink.as_mut().and_then(|netlink| fq_stats(netlink).ok());
    Reading {
        ticks: ticks(&file("/proc/stat")),
        softnet: softnet(&file("/proc/net/softnet_stat")),
        fq: fq.unwrap_or_default(),
    }
}

/// The first line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq,
/// softirq, steal; guests' time is in user's.
fn ticks(text: &str) -> Ticks {
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(|f| f.parse().unwrap_or(0))
        .collect();
    let field = |at: usize| fields.get(at).copied().unwrap_or(0);
    Ticks {
        all: fields.iter().sum(),
        idle: field(3) + field(4),
        softirq: field(6),
        stolen: field(7),
    }
}

/// A line for each processor, hexadecimal: packets, dropped, squeezed, …
fn softnet(text: &str) -> Softnet {
    let mut sum = Softnet::default();
    for line in text.lines() {
        let mut fields = line
            .split_whitespace()
            .map(|f| u64::from_str_radix(f, 16).unwrap_or(0));
        sum.dropped += fields.nth(1).unwrap_or(0);
        sum.squeezed += fields.next().unwrap_or(0);
    }
    sum
}

fn share(from: &Ticks, to: &Ticks, what: fn(&Ticks) -> u64) -> f64 {
    let all = to.all.saturating_sub(from.all);
    if all == 0 {
        return 0.0;
    }
    what(to).saturating_sub(what(from)) as f64 / all as f64
}

fn busy(from: &Ticks, to: &Ticks) -> f64 {
    if from.all == to.all {
        return 0.0;
    }
    1.0 - share(from, to, |t| t.idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_files_are_understood() {
        let from = ticks("cpu  100 0 50 800 50 0 10 0 0 0\ncpu0 1 2 3\n");
        let to = ticks("cpu  190 0 60 800 50 0 10 100 0 0\n");
        assert_eq!(from.all, 1010);
        assert!((busy(&from, &to) - 1.0).abs() < 1e-9);
        assert!((share(&from, &to, |t| t.stolen) - 0.5).abs() < 1e-9);
        assert!(busy(&from, &from).abs() < 1e-9);
        let text = "0000a1 00000002 00000010 0\n0000b2 00000001 00000000 0\n";
        assert_eq!(
            softnet(text),
            Softnet {
                dropped: 3,
                squeezed: 16
            }
        );
    }

    #[test]
    fn a_host_that_kept_up_gives_no_words() {
        let calm = Health {
            seconds: 10.0,
            busy: 0.6,
            saturated_s: 0.3,
            fq_late_ms: 0.2,
            ..Health::default()
        };
        assert_eq!(calm.words(), Vec::<String>::new());
        let full = Health {
            saturated_s: 6.0,
            stolen: 0.2,
            fq_late_ms: 12.0,
            fq_dropped: 3,
            softnet_dropped: 1,
            ..calm
        };
        assert_eq!(full.words().len(), 5, "{:?}", full.words());
        assert!(full.words()[0].contains("6.0 of 10.0 s"));
        let emulated = Health {
            in_virtual_time: true,
            ..full
        };
        let words = emulated.words().join(", ");
        assert!(
            !words.contains("busy") && !words.contains("machines"),
            "{words}"
        );
        assert!(
            words.contains("12.0 ms late") && words.contains("fq dropped 3"),
            "{words}"
        );
    }
}
