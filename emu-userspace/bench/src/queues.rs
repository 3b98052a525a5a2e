//! AQM queues under a constant overload of datagrams, compared with their formulas and with
//! Linux's own CoDel and RED qdiscs: netem has no AQM.
use std::{fs, time::Duration};

use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;

use super::{
    BenchError,
    probe::{self, Ends, Pace},
    scene::{Scene, SceneSide},
    stats,
};

/// Rate of the bottleneck in bits per second.
const RATE: f64 = 1e6;
/// Bytes of a frame, which both systems charge.
const FRAME_BYTES: f64 = (probe::PAYLOAD_BYTES + 28 + 14) as f64;
/// The ECT(0) codepoint, by which a sender declares that it supports ECN.
const ECN_CAPABLE: i32 = 2;
/// Largest relative error against the formula: the load comes from a process that other
/// work delays.
const TOLERANCE: f64 = 0.15;

/// Longest stall of the machine that is accepted during a measurement.
const MAX_STALL: Duration = Duration::from_millis(40);
/// Maximum number of attempts at a measurement without a longer stall.
const ATTEMPTS: u32 = 3;

/// Results of one AQM.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueRow {
    /// Name of the AQM.
    pub name: &'static str,
    /// The setting as YAML keys of a topology.
    pub emu_setting: &'static str,
    /// The setting as arguments of Linux's qdisc.
    pub linux_setting: &'static str,
    /// The measured quantity and its unit.
    pub quantity: &'static str,
    /// Value by the formula.
    pub model: f64,
    /// Value measured with emu.
    pub emu: f64,
    /// Value measured with Linux's qdisc.
    pub linux: f64,
    /// Number of datagrams sent through each system.
    pub sent: u32,
    /// Whether emu is as close to the formula as the load allows.
    pub as_model: bool,
}

/// Serialisation time of a frame in seconds.
const SERIALISATION_S: f64 = FRAME_BYTES * 8.0 / RATE;

/// Number of CE marks that RFC 8289 gives to datagrams arriving every `gap_s` seconds;
/// marked datagrams stay in the queue.
fn codel_marks(count: u32, gap_s: f64, target_s: f64, interval_s: f64) -> f64 {
    let (mut free, mut above_from, mut next, mut marking) = (0.0f64, None, 0.0, false);
    let (mut marks, mut number) = (0u32, 0u32);
    for i in 0..count {
        let arrival = f64::from(i) * gap_s;
        let now = free.max(arrival);
        free = now + SERIALISATION_S;
        if now - arrival < target_s {
            (above_from, marking) = (None, false);
            continue;
        }
        let from = *above_from.get_or_insert(now + interval_s);
        if now < from || (marking && now < next) {
            continue;
        }
        number = if marking { number + 1 } else { 1 };
        let base = if marking { next } else { now };
        next = base + interval_s / f64::from(number).sqrt();
        marking = true;
        marks += 1;
    }
    f64::from(marks)
}

/// Number of CE-marked datagrams that have arrived so far.
fn marks(scene: &Scene, place: SceneSide) -> Result<f64, BenchError> {
    let text = scene.at(place).enter(|| {
        fs::read_to_string("/proc/thread-self/net/netstat")
            .map_err(BenchError::system("read counters"))
    })?;
    let mut lines = text.lines().filter(|l| l.starts_with("IpExt:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let at = names.split(' ').position(|name| name == "InCEPkts");
    let value = at.and_then(|at| values.split(' ').nth(at)?.parse().ok());
    Ok(value.unwrap_or(0.0))
}

/// Measures CoDel's marks and RED's queueing delay, with `count` datagrams each.
///
/// # Errors
/// [`BenchError`] if a load, a qdisc or a socket operation fails.
pub fn run(scene: &Scene, count: u32) -> Result<Vec<QueueRow>, BenchError> {
    Ok(vec![codel(scene, count)?, red(scene, count)?])
}

fn row(mut row: QueueRow) -> QueueRow {
    row.as_model = (row.emu / row.model - 1.0).abs() <= TOLERANCE;
    row
}

fn pace(count: u32, gap_s: f64) -> Pace {
    Pace {
        count,
        group: 1,
        gap: Some(Duration::from_secs_f64(gap_s)),
        quiet: Duration::from_millis(500),
    }
}

/// Sends 125 % of the bottleneck's rate; the queue grows until the end, and the interval
/// between marks keeps falling.
fn codel(scene: &Scene, count: u32) -> Result<QueueRow, BenchError> {
    let emu_setting = "rate: 1mbit, queue: 1min, aqm: {codel: {ecn: true}}";
    let linux_setting = "codel limit 100000 target 5ms interval 100ms ecn";
    let gap_s = SERIALISATION_S / 1.25;
    let count_marks = |place: SceneSide| {
        // The queue is set up again for each attempt, because CoDel remembers its last
        // marking rate.
        let prepare = || {
            let ends = match place {
                SceneSide::Emu => scene.emu(emu_setting)?,
                SceneSide::Right => scene.queue(linux_setting)?,
            };
            setsockopt(&ends.from, sockopt::Ipv4Tos, &ECN_CAPABLE)
                .map_err(|e| BenchError::system("set the ECN bits")(e.into()))?;
            Ok((ends, marks(scene, place)?))
        };
        probe::retry_on_stall(MAX_STALL, ATTEMPTS, prepare, |(ends, before)| {
            probe::stream(ends, &pace(count, gap_s))?;
            Ok(marks(scene, place)? - before)
        })
    };
    Ok(row(QueueRow {
        name: "CoDel with ECN, 125 % load",
        emu_setting,
        linux_setting,
        quantity: "datagrams marked",
        model: codel_marks(count, gap_s, 0.005, 0.1),
        emu: count_marks(SceneSide::Emu)?,
        linux: count_marks(SceneSide::Right)?,
        sent: count,
        as_model: false,
    }))
}

/// Sends 1 datagram in 21 too many: RED drops that share at an average queueing delay of
/// `min + (max - min) (1 / 21) / probability`.
fn red(scene: &Scene, count: u32) -> Result<QueueRow, BenchError> {
    let emu_setting =
        "rate: 1mbit, queue: 1min, aqm: {red: {min: 20ms, max: 60ms, probability: 10%, weight: 7}}";
    // The same thresholds in bytes at the bottleneck's rate: 2,500 and 7,500.
    let linux_setting =
        "red limit 400000 min 2500 max 7500 avpkt 242 burst 43 probability 0.1 bandwidth 1mbit";
    let gap_s = SERIALISATION_S * 20.0 / 21.0;
    let wait_ms = |ends: &Ends| {
        let arrivals = probe::retry_on_stall(
            MAX_STALL,
            ATTEMPTS,
            || Ok(()),
            |()| probe::stream(ends, &pace(count, gap_s)),
        )?;
        let late: Vec<f64> = arrivals
            .iter()
            .filter(|a| a.number > count / 2)
            .map(|a| a.delay_ms - SERIALISATION_S * 1e3)
            .collect();
        Ok::<f64, BenchError>(stats::mean(&late))
    };
    Ok(row(QueueRow {
        name: "RED, 105 % load",
        emu_setting,
        linux_setting,
        quantity: "mean wait in ms",
        model: 20.0 + 40.0 / 21.0 / 0.1,
        emu: wait_ms(&scene.emu(emu_setting)?)?,
        linux: wait_ms(&scene.queue(linux_setting)?)?,
        sent: count,
        as_model: false,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While CoDel is marking, n marks take 2 sqrt(n) intervals.
    #[test]
    fn marks_follow_the_control_law() {
        let gap_s = SERIALISATION_S / 1.25;
        let marks = codel_marks(4_000, gap_s, 0.005, 0.1);
        let time = 4_000.0 * SERIALISATION_S - 0.15;
        let expected = (time / 0.2).powi(2);
        assert!((marks / expected - 1.0).abs() < 0.1, "{marks} {expected}");
        assert!(codel_marks(4_000, SERIALISATION_S * 1.1, 0.005, 0.1) < 0.5);
    }
}
