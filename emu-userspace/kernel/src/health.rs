//! Whether the host, rather than the emulated network, was the bottleneck.
//!
//! A run or a measurement creates a [`Monitor`], calls [`Monitor::sample`] about once per
//! second and [`Monitor::report`] at its end. [`Health::limits`] describes the resources that
//! were exhausted; a measurement with any is no evidence about the emulated network.
use std::{fs, time::Instant};

use serde::{Deserialize, Serialize};

use crate::{
    clock,
    fq_stats::{FqStats, fq_stats},
    netlink::Netlink,
};

/// CPU utilisation above which an interval counts as saturated.
const BUSY: f64 = 0.95;
/// Fraction of saturated time above which a warning is given.
const BUSY_TIME: f64 = 0.05;
/// Fraction of steal time above which a warning is given.
const STOLEN: f64 = 0.05;
/// Lateness of fq above which a warning is given, in milliseconds.
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

/// The counters of one sample.
#[derive(Debug, Clone, Default)]
struct Reading {
    ticks: Ticks,
    softnet: Softnet,
    fq: Vec<FqStats>,
}

/// Monitors the host.
pub struct Monitor {
    netlink: Option<Netlink>,
    first: Reading,
    last: Reading,
    at: Instant,
    /// Total seconds, and seconds of saturated intervals.
    seconds: f64,
    busy_seconds: f64,
    late_ms: f64,
    most_busy: f64,
}

/// Load of the host during a measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Monitored time.
    pub seconds: f64,
    /// CPU utilisation.
    pub busy: f64,
    /// CPU utilisation in the busiest interval.
    pub most_busy: f64,
    /// Seconds of intervals in which the CPU was saturated.
    pub saturated_s: f64,
    /// Fraction of CPU time in softirqs.
    pub softirq: f64,
    /// Fraction of CPU time that other machines on the same processors took (steal).
    pub stolen: f64,
    /// Packets dropped because the backlog of a processor was full.
    pub softnet_dropped: u64,
    /// Number of times that a processor exhausted its budget for packets.
    pub softnet_squeezed: u64,
    /// Packets that fq dropped: a queue was full, or they were due beyond the horizon.
    pub fq_dropped: u64,
    /// Largest lateness of fq, in milliseconds.
    pub fq_late_ms: f64,
    /// Whether the clock was an emulated one that computing does not advance: then the host's
    /// speed cannot be a bottleneck, and the figures about its processors mean nothing.
    #[serde(default)]
    pub in_virtual_time: bool,
    /// Descriptions of the bottlenecks; empty if there are none.
    pub limits: Vec<String>,
}

impl Monitor {
    /// Starts now, in the calling thread's network namespace.
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

    /// Samples the interval since the last call; best about once per second.
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
        // The average is outdated while no packet waits.
        if throttled(&now.fq) > throttled(&self.last.fq) {
            self.late_ms = self.late_ms.max(late_ms(&now.fq));
        }
        self.last = now;
    }

    /// The load of the host so far.
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
        health.limits = health.descriptions();
        health
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    fn descriptions(&self) -> Vec<String> {
        let mut limits = Vec::new();
        let in_real_time = !self.in_virtual_time;
        if in_real_time && self.saturated_s > self.seconds * BUSY_TIME {
            limits.push(format!(
                "CPU saturated for {:.1} of {:.1} s",
                self.saturated_s, self.seconds
            ));
        }
        if in_real_time && self.stolen > STOLEN {
            limits.push(format!(
                "other machines took {:.0} % of the processors",
                self.stolen * 100.0
            ));
        }
        if self.fq_late_ms > LATE_MS {
            limits.push(format!("fq sent packets {:.1} ms late", self.fq_late_ms));
        }
        if self.fq_dropped > 0 {
            limits.push(format!("fq dropped {} packets", self.fq_dropped));
        }
        if self.softnet_dropped > 0 {
            limits.push(format!(
                "processors dropped {} packets before the network saw them",
                self.softnet_dropped
            ));
        }
        limits
    }
}

/// Packets that any fq dropped.
fn dropped(fq: &[FqStats]) -> u64 {
    fq.iter().map(|fq| u64::from(fq.drops)).sum()
}

/// Number of packets that waited for their due time.
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
        assert_eq!(calm.descriptions(), Vec::<String>::new());
        let full = Health {
            saturated_s: 6.0,
            stolen: 0.2,
            fq_late_ms: 12.0,
            fq_dropped: 3,
            softnet_dropped: 1,
            ..calm
        };
        assert_eq!(full.descriptions().len(), 5, "{:?}", full.descriptions());
        assert!(full.descriptions()[0].contains("6.0 of 10.0 s"));
        let emulated = Health {
            in_virtual_time: true,
            ..full
        };
        let limits = emulated.descriptions().join(", ");
        assert!(
            !limits.contains("busy") && !limits.contains("machines"),
            "{limits}"
        );
        assert!(
            limits.contains("12.0 ms late") && limits.contains("fq dropped 3"),
            "{limits}"
        );
    }
}
