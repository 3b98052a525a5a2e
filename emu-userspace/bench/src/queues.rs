//! Managed queues under an open loop of too many datagrams, beside their formulas
//! and beside Linux's own qdiscs of the same name: netem has none.
use std::{fs, time::Duration};

use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;

use super::{
    BenchError,
    probe::{self, Ends, Pace},
    scene::{Place, Scene},
    stats,
};

/// Rate of the line in bits per second.
const RATE: f64 = 1e6;
/// Bytes of a frame: what both lines charge.
const FRAME_BYTES: f64 = (probe::PAYLOAD_BYTES + 28 + 14) as f64;
/// ECT(0): the sender understands marks.
const ECN_CAPABLE: i32 = 2;
/// What a measurement may differ from its formula: the load comes from a process
/// that other work holds up.
const TOLERANCE: f64 = 0.15;

/// Longest that the machine may stand still meanwhile.
const STILL: Duration = Duration::from_millis(40);
/// Attempts at a calm measurement.
const ATTEMPTS: u32 = 3;

/// One managed queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueRow {
    /// Which.
    pub name: &'static str,
    /// Keys of the topology.
    pub emu_setting: &'static str,
    /// Linux's qdisc.
    pub linux_setting: &'static str,
    /// What is compared.
    pub quantity: &'static str,
    /// By the formula.
    pub model: f64,
    /// As emu has it.
    pub emu: f64,
    /// As Linux's qdisc has it.
    pub linux: f64,
    /// Datagrams sent on each line.
    pub sent: u32,
    /// Whether emu is as close to the formula as the load allows.
    pub as_model: bool,
}

/// Serialisation of a frame in seconds.
const SERIALISATION_S: f64 = FRAME_BYTES * 8.0 / RATE;

/// Marks that RFC 8289 gives to datagrams that come each `gap_s` seconds; marked
/// ones stay in the queue.
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

/// Datagrams that arrived with a mark so far.
fn marks(scene: &Scene, place: Place) -> Result<f64, BenchError> {
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

/// Measures CoDel's marks and RED's wait, with so many datagrams each.
///
/// # Errors
/// [`BenchError`].
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

/// A quarter more than the line takes; the queue grows to the end, and the marks
/// come faster and faster.
fn codel(scene: &Scene, count: u32) -> Result<QueueRow, BenchError> {
    let emu_setting = "rate: 1mbit, queue: 1min, aqm: {codel: {ecn: true}}";
    let linux_setting = "codel limit 100000 target 5ms interval 100ms ecn";
    let gap_s = SERIALISATION_S / 1.25;
    let count_marks = |place: Place| {
        // Made anew each time: CoDel remembers how often it marked last.
        let prepare = || {
            let ends = match place {
                Place::Emu => scene.emu(emu_setting)?,
                Place::Right => scene.queue(linux_setting)?,
            };
            setsockopt(&ends.from, sockopt::Ipv4Tos, &ECN_CAPABLE)
                .map_err(|e| BenchError::system("set the ECN bits")(e.into()))?;
            Ok((ends, marks(scene, place)?))
        };
        probe::calmly(STILL, ATTEMPTS, prepare, |(ends, before)| {
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
        emu: count_marks(Place::Emu)?,
        linux: count_marks(Place::Right)?,
        sent: count,
        as_model: false,
    }))
}

/// One in 21 too many: RED drops as many, which takes an average wait of
/// `min + (max - min) (1 / 21) / probability`.
fn red(scene: &Scene, count: u32) -> Result<QueueRow, BenchError> {
    let emu_setting =
        "rate: 1mbit, queue: 1min, aqm: {red: {min: 20ms, max: 60ms, probability: 10%, weight: 7}}";
    // The same in bytes of the line: 2,500 and 7,500.
    let linux_setting =
        "red limit 400000 min 2500 max 7500 avpkt 242 burst 43 probability 0.1 bandwidth 1mbit";
    let gap_s = SERIALISATION_S * 20.0 / 21.0;
    let wait_ms = |ends: &Ends| {
        let arrivals = probe::calmly(
            STILL,
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

    /// While it marks, n marks take 2 sqrt(n) intervals.
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
