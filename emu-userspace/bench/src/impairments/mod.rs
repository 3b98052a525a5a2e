//! Impairments: emu compared with netem under the same settings, in one run.
mod markdown;
mod report;

use std::time::Duration;

use emu_report::{Environment, Report};
use serde::Serialize;

use super::{
    BenchError, Measurement, Observer, Preset,
    model::{Events, Offsets, Promise},
    probe::{self, Arrival, Ends, Pace},
    queues::{self, QueueRow},
    scene::Scene,
    settings::{LATENCY_MS, Measure, SETTINGS, SPREAD_MS, Setting},
    stats::{self, Test},
};

pub use markdown::markdown;

/// Significance level: a correct model gives a smaller p once in a thousand tests.
pub const LEAST_P: f64 = 1e-3;
/// Difference, in standard errors, that two correct measurements may have.
const NOISE_ERRORS: f64 = 3.3;
/// The same allowance for two Kolmogorov-Smirnov distances, times the root of n.
const NOISE_DISTANCE: f64 = 1.95;
/// Only every 8th of correlated delays is tested, because delays so far apart are
/// independent.
const APART: usize = 8;

/// Longest stall of the machine that is accepted while delays are measured: a third of the
/// spread.
const MAX_STALL: Duration = Duration::from_millis(17);
/// Maximum number of attempts at a round without a longer stall.
const ATTEMPTS: u32 = 4;

/// The number of samples of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Datagrams per setting with jitter or overtaking, and system.
    pub delays: u32,
    /// Datagrams per other setting and system.
    pub events: u32,
    /// Number of rounds; each round measures both systems.
    pub turns: u32,
    /// Datagrams per AQM queue and system.
    pub queues: u32,
}

impl Preset for Sizes {
    const QUICK: Self = Self {
        delays: 1_000,
        events: 6_000,
        turns: 2,
        queues: 2_500,
    };
    const FULL: Self = Self {
        delays: 2_400,
        events: 24_000,
        turns: 4,
        queues: 4_000,
    };
    const HELP: &'static str = "\
Works in network namespaces of its own and changes nothing else. Needs root, and fq and netem
in the kernel: `cargo xtask run -- bench impairments` finds a kernel that has them.

Examples:
  emu bench impairments                                  a minute or two
  emu bench impairments --full --out report             several minutes; report/impairments.html
  emu bench impairments --full --markdown accuracy.md    a page with tables";
}

impl Measurement for Sizes {
    type Outcome = Outcome;

    fn run(&self, observer: &mut dyn Observer) -> Result<Option<Outcome>, BenchError> {
        measure(self, observer).map(Some)
    }

    fn report(&self, outcome: &Outcome, environment: &Environment) -> Report {
        report::page(outcome, environment)
    }
}

/// Measurements of one system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// Number of datagrams sent.
    pub sent: u32,
    /// Number of datagrams that arrived, including copies.
    pub arrived: u32,
    /// Mean delay in milliseconds.
    pub mean_ms: f64,
    /// Standard deviation of the delay in milliseconds.
    pub deviation_ms: f64,
    /// Correlation of a delay with that of the datagram before.
    pub serial_correlation: f64,
    /// Share of datagrams that did not arrive.
    pub lost: f64,
    /// Share of datagrams that arrived more than once.
    pub duplicated: f64,
    /// Share of arrivals behind a datagram that was sent later.
    pub reordered: f64,
    /// Share of datagrams that the impairment affected; `None` for jitter.
    pub share: Option<f64>,
    /// Mean length of the runs of affected datagrams; `None` for jitter.
    pub mean_run: Option<f64>,
    /// Test against the model: a binomial z-test of the share, corrected for the model's
    /// bursts, or a Kolmogorov-Smirnov test of the delays.
    pub test: Test,
    /// Chi-squared test of the run lengths against the model.
    pub runs: Option<Test>,
    /// Whether no test rejects the model.
    pub as_model: bool,
    /// Distance from the model: of the share, or the Kolmogorov-Smirnov distance.
    pub distance: f64,
}

/// One setting, measured with both systems.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImpairmentRow {
    /// Name of the setting in the report.
    pub name: &'static str,
    /// The setting as YAML keys of a topology.
    pub emu_setting: &'static str,
    /// The setting as arguments of netem.
    pub netem_setting: &'static str,
    /// Share of affected datagrams by the model; `None` for jitter.
    pub model_share: Option<f64>,
    /// Mean run length by the model; `None` for jitter.
    pub model_run: Option<f64>,
    /// Standard deviation of the delay by the model, in milliseconds; `None` for events.
    pub model_deviation_ms: Option<f64>,
    /// Measurements of emu.
    pub emu: Side,
    /// Measurements of netem.
    pub netem: Side,
    /// Whether emu is as close to the model as netem, within the noise of samples of these
    /// sizes.
    pub no_further: bool,
}

/// Results of all settings on one machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Kernel release and architecture.
    pub kernel: String,
    /// Number and name of the CPUs.
    pub machine: String,
    /// Delay of a datagram beyond the latency without any impairment, in milliseconds:
    /// medians of emu and of netem. It is subtracted from the delays with jitter.
    pub path_ms: [f64; 2],
    /// One row per setting.
    pub rows: Vec<ImpairmentRow>,
    /// One row per AQM queue.
    pub queues: Vec<QueueRow>,
    /// Whether emu follows the model and is as close to it as netem in all settings.
    pub ok: bool,
}

fn measure(sizes: &Sizes, observer: &mut dyn Observer) -> Result<Outcome, BenchError> {
    let scene = Scene::new()?;
    let path_ms = path(&scene)?;
    let mut rows = Vec::new();
    for (done, setting) in SETTINGS.iter().enumerate() {
        observer.step(done, SETTINGS.len(), setting.name);
        rows.push(row(&scene, setting, sizes, path_ms)?);
    }
    observer.step(SETTINGS.len(), SETTINGS.len(), "queues");
    let queues = queues::run(&scene, sizes.queues)?;
    let here = Environment::here();
    Ok(Outcome {
        kernel: here.kernel,
        machine: here.machine,
        path_ms,
        ok: rows.iter().all(|r| r.emu.as_model && r.no_further)
            && queues.iter().all(|q| q.as_model),
        rows,
        queues,
    })
}

/// Delay that the machine itself adds to a latency without jitter: emu, netem.
fn path(scene: &Scene) -> Result<[f64; 2], BenchError> {
    let lines = [scene.emu("latency: 300ms")?, scene.netem("delay 300ms")?];
    let mut extra = [0.0; 2];
    for (extra, ends) in extra.iter_mut().zip(&lines) {
        let pace = Pace {
            count: 200,
            group: 1,
            gap: None,
            quiet: Duration::from_millis(800),
        };
        let mut delays: Vec<f64> = probe::stream(ends, &pace)?
            .iter()
            .map(|a| a.delay_ms)
            .collect();
        delays.sort_unstable_by(f64::total_cmp);
        *extra = delays.get(delays.len() / 2).map_or(0.0, |m| m - LATENCY_MS);
    }
    Ok(extra)
}

fn row(
    scene: &Scene,
    setting: &Setting,
    sizes: &Sizes,
    path_ms: [f64; 2],
) -> Result<ImpairmentRow, BenchError> {
    let (all, group, quiet_ms) = match setting.measure {
        Measure::Delays(..) => (sizes.delays, 1, 1_200),
        Measure::Early(_) => (sizes.delays, 2, 600),
        Measure::Missing(_) | Measure::Twice(_) => (sizes.events, 20, 600),
    };
    // Loss and duplication of a datagram do not depend on time.
    let max_stall = match setting.measure {
        Measure::Delays(..) | Measure::Early(_) => MAX_STALL,
        Measure::Missing(_) | Measure::Twice(_) => Duration::MAX,
    };
    let pace = Pace {
        count: all / sizes.turns,
        group,
        gap: None,
        quiet: Duration::from_millis(quiet_ms),
    };
    let lines: [Ends; 2] = [scene.emu(setting.emu)?, scene.netem(setting.netem)?];
    let mut turns: [Vec<Vec<Arrival>>; 2] = [Vec::new(), Vec::new()];
    // The systems are interleaved, so that background load affects both alike.
    for _ in 0..sizes.turns {
        for (line, turns) in lines.iter().zip(&mut turns) {
            turns.push(probe::retry_on_stall(
                max_stall,
                ATTEMPTS,
                || Ok(()),
                |()| probe::stream(line, &pace),
            )?);
        }
    }
    let events = match setting.measure {
        Measure::Missing(e) | Measure::Twice(e) | Measure::Early(e) => Some(e),
        Measure::Delays(..) => None,
    };
    let promise = events.as_ref().map(Events::promise);
    let side = |i: usize| side(&turns[i], &pace, setting, promise.as_ref(), path_ms[i]);
    let (emu, netem) = (side(0), side(1));
    let n = f64::from(pace.count * sizes.turns);
    let noise = match (&promise, setting.measure) {
        (Some(promise), _) => {
            let variance = promise.share * (1.0 - promise.share) * promise.spread / n;
            NOISE_ERRORS * (2.0 * variance).sqrt()
        }
        (None, Measure::Delays(_, correlation)) if correlation > 0.0 => {
            NOISE_DISTANCE * (2.0 * APART as f64 / n).sqrt()
        }
        (None, _) => NOISE_DISTANCE * (2.0 / n).sqrt(),
    };
    Ok(ImpairmentRow {
        name: setting.name,
        emu_setting: setting.emu,
        netem_setting: setting.netem,
        model_share: promise.as_ref().map(|p| p.share),
        model_run: promise.as_ref().map(Promise::mean_run),
        model_deviation_ms: match setting.measure {
            Measure::Delays(offsets, _) => Some(offsets.deviation() * SPREAD_MS),
            _ => None,
        },
        no_further: emu.distance <= netem.distance + noise,
        emu,
        netem,
    })
}

/// Merges the rounds of one system and tests them against the model.
fn side(
    turns: &[Vec<Arrival>],
    pace: &Pace,
    setting: &Setting,
    promise: Option<&Promise>,
    path_ms: f64,
) -> Side {
    let (mut times, mut first_ms, mut reordered) = (Vec::new(), Vec::new(), 0u32);
    for turn in turns {
        let mut of = vec![(0u32, f64::NAN); pace.count as usize];
        let mut newest = 0;
        for arrival in turn {
            newest = newest.max(arrival.number);
            reordered += u32::from(arrival.number < newest);
            if let Some(slot) = of.get_mut(arrival.number as usize) {
                *slot = (slot.0 + 1, slot.1.min(arrival.delay_ms));
            }
        }
        times.extend(of.iter().map(|(times, _)| *times));
        first_ms.extend(of.iter().map(|(_, ms)| *ms));
    }
    let delays: Vec<f64> = first_ms.iter().copied().filter(|ms| !ms.is_nan()).collect();
    let (sent, arrived) = (times.len() as f64, times.iter().sum::<u32>());
    let share = |events: &[bool]| events.iter().filter(|e| **e).count() as f64 / sent;
    let missing: Vec<bool> = times.iter().map(|n| *n == 0).collect();
    let twice: Vec<bool> = times.iter().map(|n| *n > 1).collect();
    let events = match setting.measure {
        Measure::Missing(_) => Some(missing.clone()),
        Measure::Twice(_) => Some(twice.clone()),
        Measure::Early(_) => Some(first_ms.iter().map(|ms| *ms < 50.0).collect()),
        Measure::Delays(..) => None,
    };
    let lengths = events.as_deref().map(stats::run_lengths);
    let (test, runs, distance) = match (setting.measure, promise, &events) {
        (Measure::Delays(offsets, correlation), ..) => {
            let test = delay_test(&delays, offsets, correlation, path_ms);
            (test, None, test.statistic)
        }
        (_, Some(promise), Some(events)) => {
            let got = share(events);
            let test = stats::share_z(got, promise.share, sent, promise.spread);
            let runs = lengths
                .as_deref()
                .and_then(|l| stats::chi_squared(l, &promise.runs));
            (test, runs, (got - promise.share).abs())
        }
        _ => (Test::default(), None, 0.0),
    };
    Side {
        sent: times.len() as u32,
        arrived,
        mean_ms: stats::mean(&delays),
        deviation_ms: stats::deviation(&delays),
        serial_correlation: stats::serial_correlation(&delays),
        lost: share(&missing),
        duplicated: share(&twice),
        reordered: f64::from(reordered) / f64::from(arrived.max(1)),
        share: events.as_deref().map(share),
        mean_run: lengths.as_deref().map(stats::mean_run),
        as_model: test.p >= LEAST_P && runs.is_none_or(|t| t.p >= LEAST_P),
        test,
        runs,
        distance,
    }
}

fn delay_test(delays: &[f64], offsets: Offsets, correlation: f64, path_ms: f64) -> Test {
    let apart = if correlation > 0.0 { APART } else { 1 };
    let samples: Vec<f64> = delays
        .iter()
        .step_by(apart)
        .map(|ms| (ms - LATENCY_MS - path_ms) / SPREAD_MS)
        .collect();
    stats::kolmogorov_smirnov(&samples, |x| offsets.cdf(x))
}
