//! Round-trip time, TCP throughput and load time against the number of vnodes, for emu, for
//! one rule per destination, and without emulation.
//!
//! All systems of a size exist at the same time and are measured interleaved, so that
//! background load affects all of them alike; ratios are taken between neighbours of one
//! round.
use std::time::Duration;

use emu_kernel::health::{Health, Monitor};
use emu_report::{Axis, Chart, Environment, Point, Report, Table, Verdict};
use serde::Serialize;

use super::{
    BenchError, Measurement, MedianCi, Observer, Preset,
    lines::{Line, System},
    traffic::{self, Transfer},
};

/// Largest growth of the round-trip time, relative to one vnode, that counts as flat.
pub const FLAT: f64 = 0.05;
/// Smallest throughput, relative to one vnode, that counts as flat.
pub const LEFT: f64 = 0.95;
/// Largest load time of all vnodes, in seconds.
pub const LOAD_S: f64 = 2.0;
/// Largest width of a median's confidence interval, relative to the median; above it the
/// machine was too noisy for a verdict.
const MAX_INTERVAL_WIDTH: f64 = 0.3;
/// Largest share of CPU time that a hypervisor may steal before the verdict is undecided.
const STOLEN: f64 = 0.05;

/// The number of systems and samples of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Numbers of vnodes that emu is measured with.
    pub vnodes: &'static [u32],
    /// Largest number of vnodes that the rule-based systems are measured with.
    pub most_rules: u32,
    /// Number of rounds; each round measures all systems.
    pub turns: u32,
    /// Round trips per system and round.
    pub round_trips: u32,
    /// Measured time of a transfer, in milliseconds.
    pub transfer_ms: u64,
}

impl Preset for Sizes {
    const QUICK: Self = Self {
        vnodes: &[1, 1_000, 65_536],
        most_rules: 1_000,
        turns: 9,
        round_trips: 150,
        transfer_ms: 150,
    };
    const FULL: Self = Self {
        vnodes: &[1, 10, 100, 1_000, 10_000, 65_536],
        most_rules: 10_000,
        turns: 21,
        round_trips: 300,
        transfer_ms: 400,
    };
    const HELP: &'static str = "\
Works in network namespaces of its own and changes nothing else. Needs root, fq and netem:
`cargo xtask run -- bench vnodes` finds a kernel that has them.

Examples:
  emu bench vnodes                          about a minute
  emu bench vnodes --full --out report      all sizes; report/vnodes.html

Exit code 1 if emu is not flat, or if the machine was too noisy to tell.";
}

impl Measurement for Sizes {
    type Outcome = Outcome;

    fn run(&self, observer: &mut dyn Observer) -> Result<Option<Outcome>, BenchError> {
        measure(self, observer).map(Some)
    }

    fn report(&self, outcome: &Outcome, environment: &Environment) -> Report {
        outcome.report(environment)
    }
}

/// Measurements of one system at one size.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VnodesRow {
    /// The measured system.
    pub system: System,
    /// Number of destinations.
    pub vnodes: u32,
    /// Setup time in seconds.
    pub load_s: f64,
    /// Median round-trip time of a round, in microseconds.
    pub rtt_us: MedianCi,
    /// Throughput of one TCP connection in bits per second.
    pub tcp_bits_per_sec: MedianCi,
    /// Round-trip time minus that of the same system with one vnode, in microseconds.
    pub rtt_more_us: MedianCi,
    /// Throughput relative to that of the same system with one vnode.
    pub tcp_ratio: MedianCi,
}

/// Results of all systems on one machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The sizes of the run.
    pub sizes: Sizes,
    /// One row per system and size.
    pub rows: Vec<VnodesRow>,
    /// Systems and sizes that were not measured, with the reason.
    pub left_out: Vec<String>,
    /// Load of the machine during the run: CPU, steal time, dropped and late packets.
    pub health: Health,
    /// The verdicts, each with a sentence for the report.
    pub verdicts: Vec<(Verdict, String)>,
}

fn measure(sizes: &Sizes, observer: &mut dyn Observer) -> Result<Outcome, BenchError> {
    let mut monitor = Monitor::new();
    let mut left_out = Vec::new();
    let wanted = wanted(sizes, &mut left_out);
    let steps = wanted.len() + sizes.turns as usize;
    let mut lines = Vec::new();
    for (system, vnodes) in wanted {
        let step = format!("set up {} for {vnodes}", system.name());
        observer.step(lines.len() + left_out.len().min(1), steps, &step);
        match Line::new(system, vnodes) {
            Ok(line) => lines.push(line),
            Err(error) if system != System::Emu && system != System::None => {
                left_out.push(format!("{} for {vnodes}: {error}", system.name()));
            }
            Err(error) => return Err(error),
        }
    }
    let mut seen: Vec<[Vec<f64>; 2]> = vec![Default::default(); lines.len()];
    let transfer = Transfer {
        streams: 1,
        warm_up: Duration::from_millis(sizes.transfer_ms / 3),
        time: Duration::from_millis(sizes.transfer_ms),
    };
    for turn in 0..sizes.turns {
        let done = steps - (sizes.turns - turn) as usize;
        observer.step(
            done,
            steps,
            &format!("turn {} of {}", turn + 1, sizes.turns),
        );
        for (line, [rtt, tcp]) in lines.iter().zip(&mut seen) {
            let [from, to] = line.places();
            let times = traffic::round_trips(from, to, sizes.round_trips)?;
            rtt.push(MedianCi::of(times).map_or(f64::NAN, |s| s.median));
            tcp.push(traffic::transfer(from, to, &transfer)?);
            monitor.sample();
        }
    }
    let rows = rows(&lines, &seen);
    let health = monitor.report();
    let verdicts = verdicts(&rows, &health);
    Ok(Outcome {
        sizes: *sizes,
        rows,
        left_out,
        health,
        verdicts,
    })
}

fn wanted(sizes: &Sizes, left_out: &mut Vec<String>) -> Vec<(System, u32)> {
    let mut wanted = vec![(System::None, 1)];
    wanted.extend(sizes.vnodes.iter().map(|n| (System::Emu, *n)));
    for system in [System::U32, System::Flower] {
        let few = sizes.vnodes.iter().filter(|n| **n <= sizes.most_rules);
        wanted.extend(few.map(|n| (system, *n)));
    }
    let many: Vec<String> = sizes
        .vnodes
        .iter()
        .filter(|n| **n > sizes.most_rules)
        .map(u32::to_string)
        .collect();
    if !many.is_empty() {
        left_out.push(format!(
            "rules for {} destinations: setting them up takes too long",
            many.join(", ")
        ));
    }
    wanted
}

fn rows(lines: &[Line], seen: &[[Vec<f64>; 2]]) -> Vec<VnodesRow> {
    let first = |system| {
        let at = lines.iter().position(|l| l.system == system)?;
        seen.get(at)
    };
    let row = |(line, [rtt, tcp]): (&Line, &[Vec<f64>; 2])| {
        let [rtt_one, tcp_one] = first(line.system)?;
        let pairs = |a: &[f64], b: &[f64], f: fn(f64, f64) -> f64| {
            MedianCi::of(a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect())
        };
        Some(VnodesRow {
            system: line.system,
            vnodes: line.vnodes,
            load_s: line.load_s,
            rtt_us: MedianCi::of(rtt.clone())?,
            tcp_bits_per_sec: MedianCi::of(tcp.clone())?,
            rtt_more_us: pairs(rtt, rtt_one, |a, b| a - b)?,
            tcp_ratio: pairs(tcp, tcp_one, |a, b| a / b)?,
        })
    };
    lines.iter().zip(seen).filter_map(row).collect()
}

fn verdicts(rows: &[VnodesRow], health: &Health) -> Vec<(Verdict, String)> {
    let of = |system| rows.iter().filter(move |r| r.system == system);
    let (Some(one), Some(most)) = (of(System::Emu).next(), of(System::Emu).next_back()) else {
        return Vec::new();
    };
    let mut verdicts = Vec::new();
    let wide = |s: &MedianCi| (s.high - s.low) / s.median > MAX_INTERVAL_WIDTH;
    let noise = if health.stolen > STOLEN {
        let share = health.stolen * 100.0;
        Some(format!(
            "other machines took {share:.0} % of the processors"
        ))
    } else {
        wide(&one.rtt_us).then(|| "the machine was too restless".to_owned())
    };
    // If the confidence interval includes the bound, the verdict is undecided; so is a
    // failure on a noisy machine.
    let mut say = |holds: bool, fails: bool, text: String| {
        verdicts.push(match (holds, &noise) {
            (true, _) => (Verdict::Holds, text),
            (false, Some(why)) => (Verdict::Undecided, format!("{text}, but {why}")),
            (false, None) if fails => (Verdict::Fails, text),
            (false, None) => (Verdict::Undecided, format!("{text}, which may be noise")),
        });
    };
    let more = &most.rtt_more_us;
    let allowed = FLAT * one.rtt_us.median;
    say(
        more.low <= 0.0 || more.median <= allowed,
        more.low > allowed,
        format!(
            "emu's round trip with {} vnodes is {:+.1} us ({:+.1} to {:+.1}) longer than {:.1} us with one",
            most.vnodes, more.median, more.low, more.high, one.rtt_us.median
        ),
    );
    say(
        most.tcp_ratio.median >= LEFT,
        most.tcp_ratio.high < LEFT,
        format!(
            "emu's throughput with {} vnodes is {:.3} ({:.3} to {:.3}) of that with one",
            most.vnodes, most.tcp_ratio.median, most.tcp_ratio.low, most.tcp_ratio.high
        ),
    );
    say(
        most.load_s < LOAD_S,
        true,
        format!("loading {} vnodes took {:.2} s", most.vnodes, most.load_s),
    );
    if let Some(rules) = of(System::U32).next_back().filter(|r| r.vnodes > 1) {
        say(
            rules.rtt_more_us.low > 0.0 && rules.rtt_more_us.median > more.median,
            rules.rtt_more_us.high <= 0.0,
            format!(
                "with {} u32 rules it is {:+.1} us ({:+.1} to {:+.1}) longer than with one",
                rules.vnodes,
                rules.rtt_more_us.median,
                rules.rtt_more_us.low,
                rules.rtt_more_us.high
            ),
        );
    }
    verdicts
}

impl Outcome {
    /// Builds the report with charts, tables and verdicts.
    fn report(&self, environment: &Environment) -> Report {
        let title = "Round trip, throughput and load time against the number of vnodes";
        let mut report = Report::new("vnodes", title, environment);
        for (verdict, text) in &self.verdicts {
            report.verdict(*verdict, text.clone());
        }
        report.text(
            "Packets go to the last destination: the worst place in a list of rules. emu is \
             on lo and shapes both ends of every packet; the rivals shape one direction of a \
             veth pair, which carries packets of up to 64 KiB where emu's are of 1500 bytes. \
             emu announces its addresses by routes (`addressing: anyip`), as a topology of tens of thousands should. So compare each curve with its own beginning, and no figure of one with one of \
             another. Bars are 95 % intervals of the median over turns.",
        );
        report.table("vnodes", self.table());
        for reason in &self.left_out {
            report.text(format!("Left out: {reason}."));
        }
        let chart = |title: &str, label: &str| {
            Chart::new(title)
                .x(Axis::new("vnodes, or rules").log())
                .y(Axis::new(label).log())
        };
        let us = self.curves(chart("Round-trip time", "RTT, us"), |r| {
            (r.rtt_us.median, r.rtt_us.low, r.rtt_us.high)
        });
        report.figure("rtt", us, "Median round-trip time of a small datagram.");
        let ratio = self.curves(chart("TCP throughput", "part of that with one"), |r| {
            (r.tcp_ratio.median, r.tcp_ratio.low, r.tcp_ratio.high)
        });
        report.figure(
            "tcp",
            ratio,
            "One TCP connection, by the same system with one vnode.",
        );
        let load = self
            .curves(chart("Time to set up", "s"), |r| {
                (r.load_s, r.load_s, r.load_s)
            })
            .mark_y("2 s", LOAD_S);
        report.figure("load", load, "For the rivals, one tc -batch.");
        report
    }

    fn table(&self) -> Table {
        let mut table = Table::new([
            "",
            "vnodes",
            "load, s",
            "RTT, us",
            "more than with 1, us",
            "95 % interval",
            "TCP, Gbit/s",
            "of that with 1",
            "95 % interval",
        ]);
        for row in &self.rows {
            let (more, ratio) = (&row.rtt_more_us, &row.tcp_ratio);
            table.row([
                row.system.name().to_owned(),
                row.vnodes.to_string(),
                format!("{:.3}", row.load_s),
                format!("{:.1}", row.rtt_us.median),
                format!("{:+.1}", more.median),
                format!("{:+.1} to {:+.1}", more.low, more.high),
                format!("{:.3}", row.tcp_bits_per_sec.median / 1e9),
                format!("{:.3}", ratio.median),
                format!("{:.3} to {:.3}", ratio.low, ratio.high),
            ]);
        }
        table
    }

    fn curves(&self, chart: Chart, value: impl Fn(&VnodesRow) -> (f64, f64, f64)) -> Chart {
        let systems = [System::Emu, System::U32, System::Flower, System::None];
        systems.into_iter().fold(chart, |chart, system| {
            let rows = self.rows.iter().filter(|r| r.system == system);
            let points: Vec<Point> = rows
                .map(|row| {
                    let (y, low, high) = value(row);
                    Point::new(f64::from(row.vnodes), y).between(low, high)
                })
                .collect();
            if points.is_empty() {
                return chart;
            }
            chart.line(system.name(), points)
        })
    }
}
