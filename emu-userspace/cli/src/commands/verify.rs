//! `emu verify`, and the table that `emu load` ends with.
use clap::Args;
use emu_kernel::{
    session::Loaded,
    verify::{self, Options, PairReport, Report, Tolerance},
};
use emu_model::{plan::Plan, topology::Topology};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{FAILED, OK, Outcome, print, print_json, table, watched};

/// Arguments of `emu verify`.
#[derive(Args)]
#[command(after_help = "\
The median round-trip time of each pair must be within the tolerance of the model's.
Exit code 0 only when every pair and every rate holds.

Examples:
  emu verify
  emu verify --samples 20 --tolerance-ms 0.5
  emu verify --rates --json")]
pub(super) struct Verify {
    /// Also measure TCP and UDP goodput of one pair in each group.
    #[arg(long)]
    rates: bool,
    /// Probes for each pair of groups.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    samples: Option<u32>,
    /// Constant part of the allowed error in milliseconds, in addition to 0.2 % of the
    /// expected time and five round trips of this machine's own loopback.
    #[arg(long, value_name = "MS")]
    tolerance_ms: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn run(self) -> Outcome {
        let loaded = Loaded::find()?;
        let options = options(self.samples, self.rates, self.tolerance_ms);
        measure(&loaded.topology, &loaded.plan, &options, self.json)
    }
}

/// The options, with defaults of the library.
pub(super) fn options(samples: Option<u32>, rates: bool, tolerance_ms: Option<f64>) -> Options {
    let defaults = Options::default();
    let tolerance = Tolerance::default();
    Options {
        samples: samples.map_or(defaults.samples, |n| n as usize),
        rates,
        tolerance: Tolerance {
            absolute_ms: tolerance_ms.unwrap_or(tolerance.absolute_ms),
            ..tolerance
        },
        ..defaults
    }
}

/// Measures and prints.
pub(super) fn measure(
    topology: &Topology,
    plan: &Plan,
    options: &Options,
    as_json: bool,
) -> Outcome {
    let bar = ProgressBar::new(0);
    if !watched() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("measuring {bar:30} {pos}/{len} replies") {
        bar.set_style(style);
    }
    let report = verify::run(topology, plan, options, &mut |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let report = report.map_err(|e| anyhow::anyhow!("measure: {e}"))?;
    if as_json {
        print_json(&report)?;
    } else {
        print_report(&report)?;
    }
    Ok(if report.ok { OK } else { FAILED })
}

fn row(pair: &PairReport) -> [String; 8] {
    let ms = |value: f64| format!("{value:.2}");
    let rtt = |pick: fn(&verify::RttMs) -> f64| {
        pair.rtt_ms.as_ref().map_or("-".into(), |rtt| ms(pick(rtt)))
    };
    let verdict = match (pair.ok, pair.samples) {
        (true, _) => "ok".to_owned(),
        (false, 0) => "NO REPLY".to_owned(),
        (false, n) if n < pair.sent => format!("LOST {} of {}", pair.sent - n, pair.sent),
        (false, _) => format!("OFF by more than {:.2}", pair.bound_ms),
    };
    [
        pair.from.clone(),
        match &pair.remote {
            Some(host) => format!("{} on {host}", pair.to),
            None => pair.to.clone(),
        },
        ms(pair.expected_rtt_ms),
        rtt(|r| r.min),
        rtt(|r| r.p50),
        rtt(|r| r.max),
        pair.error_ms.map_or("-".into(), |e| format!("{e:+.2}")),
        verdict,
    ]
}

fn print_report(report: &Report) -> Outcome {
    let mut pairs = table(
        &[
            "from",
            "to",
            "expected ms",
            "min",
            "median",
            "max",
            "error",
            "verdict",
        ],
        &[2, 3, 4, 5, 6],
    );
    for pair in &report.pairs {
        pairs.add_row(row(pair));
    }
    print(&pairs.to_string())?;
    if !report.rates.is_empty() {
        let mut rates = table(
            &[
                "from",
                "to",
                "",
                "expected bit/s",
                "measured",
                "ratio",
                "verdict",
            ],
            &[3, 4, 5],
        );
        for rate in &report.rates {
            rates.add_row([
                rate.src.to_string(),
                rate.dst.to_string(),
                rate.proto.to_owned(),
                rate.expected_bps.to_string(),
                rate.measured_bps.to_string(),
                format!("{:.3}", rate.measured_bps as f64 / rate.expected_bps as f64),
                if rate.ok { "ok" } else { "OFF" }.to_owned(),
            ]);
        }
        print(&rates.to_string())?;
    }
    for host in &report.hosts {
        let link = host.rtt_ms.map_or("does not answer".to_owned(), |rtt| {
            format!("{:.3} ms round trip, subtracted from its pairs", rtt.p50)
        });
        let clock = host
            .clock_offset_ms
            .map_or("not told".to_owned(), |offset| {
                format!(
                    "{:+.1} to {:+.1} ms ahead of this host",
                    offset.least, offset.most
                )
            });
        let (name, address) = (&host.host, host.address);
        print(&format!("{name} ({address}): {link}; its clock: {clock}"))?;
    }
    let (good, all) = (
        report.pairs.iter().filter(|p| p.ok).count(),
        report.pairs.len(),
    );
    let worst = report
        .pairs
        .iter()
        .filter_map(|p| p.error_ms)
        .max_by(|a, b| a.abs().total_cmp(&b.abs()))
        .map_or(String::new(), |e| format!(", worst error {e:+.2} ms"));
    let filtered = match report.filtered_pairs {
        0 => String::new(),
        n => format!("; {n} more are filtered on both sides and were not probed"),
    };
    print(&format!(
        "{good} of {all} pairs of groups as expected{worst}{filtered}"
    ))
}
