//! `emu bench folding`.
use std::{
    io::{IsTerminal, Write, stderr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use emu::{
    bench::folding::{self, Observer, Run, Settings, curves},
    report::{Axis, Chart, Environment, Report, Table, Verdict},
};
use serde_json::json;

use crate::cli::{FAILED, OK, Outcome, print, print_json, table};

/// Arguments of `emu bench folding`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu bench folding                              eight clients on 8, 2 and 1 hosts
  emu bench folding --full                       P2PLab's: 160 clients, 16 MB; takes hours
  emu bench folding --full --interval 2s --ratios 1,80

Needs root, the programs aria2c and opentracker, and a kernel with fq; `cargo xtask run
-- bench folding` sees to all three. Works in network namespaces of its own.")]
pub(in crate::cli) struct Folding {
    /// A small one that takes a minute or two; the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// P2PLab's: 160 clients, started every 10 s, 16 MB, 1 to 80 on a host.
    #[arg(long)]
    full: bool,
    /// Clients on a host, one run for each.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    ratios: Option<Vec<u32>>,
    /// Clients that download.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: Option<u32>,
    /// Size of the file in KiB.
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    size: Option<u32>,
    /// Time between the starts of two clients, as in `2s`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
    /// Exit code 1 if curves are further apart than this share of all data, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
    at_most: f64,
    /// Folder of the results.
    #[arg(long, default_value = "bench-folding")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Folding {
    fn settings(&self) -> Settings {
        let mut settings = if self.full {
            Settings::full()
        } else {
            Settings::quick()
        };
        if let Some(ratios) = &self.ratios {
            settings.ratios.clone_from(ratios);
        }
        if let Some(clients) = self.clients {
            settings.clients = clients;
        }
        if let Some(kib) = self.size {
            settings.file_bytes = kib as usize * 1024;
            // As many pieces as P2PLab's file had, of a size that clients accept.
            settings.piece_bytes = (settings.file_bytes / 64)
                .next_power_of_two()
                .clamp(16 << 10, 256 << 10);
        }
        if let Some(interval) = self.interval {
            settings.interval = interval;
        }
        settings
    }

    pub(super) fn run(self) -> Outcome {
        let settings = self.settings();
        let mut watcher = Watcher::new()?;
        let out = std::path::absolute(&self.out)?;
        let outcome = folding::run(&settings, &out, &mut watcher);
        watcher.clear();
        let runs = outcome?;
        let distance = folding::largest_distance(&runs).unwrap_or(0.0);
        let complete = runs.iter().all(Run::is_complete);
        let ok = complete && distance * 100.0 <= self.at_most;
        let report = self.report(&settings, &runs, distance);
        report.write(&out, &json!({"settings": settings, "runs": runs}))?;
        if self.json {
            print_json(&json!({
                "ok": ok, "complete": complete, "largest_distance": distance,
                "at_most": self.at_most / 100.0, "settings": settings, "runs": runs,
            }))?;
        } else {
            print(&rows(&runs).to_string())?;
            for run in &runs {
                for failed in &run.failed {
                    print(&format!("FAILED: {} on a host: {failed}", run.ratio))?;
                }
            }
            for (verdict, words) in report.verdicts() {
                print(&format!("{}: {words}", verdict.word()))?;
            }
            print(&format!(
                "report: {}",
                out.join("bench-folding.html").display()
            ))?;
        }
        Ok(if ok { OK } else { FAILED })
    }
}

const COLUMNS: [&str; 12] = [
    "clients on a host",
    "hosts",
    "load, s",
    "whole file",
    "10 %, s",
    "median, s",
    "90 %, s",
    "last, s",
    "distance, %",
    "drops",
    "CPU, %",
    "busiest, %",
];

fn rows(runs: &[Run]) -> comfy_table::Table {
    let mut table = table(&COLUMNS, &(0..COLUMNS.len()).collect::<Vec<_>>());
    for run in runs {
        table.add_row(row(run, &runs[0]));
    }
    table
}

fn row(run: &Run, first: &Run) -> [String; COLUMNS.len()] {
    let quantile = |share| {
        run.done_quantile(share)
            .map_or("–".into(), |s| format!("{s:.1}"))
    };
    let distance = curves::distance(&first.received, &run.received).0;
    [
        run.ratio.to_string(),
        run.hosts.to_string(),
        format!("{:.1}", run.load_s),
        format!("{} of {}", run.equal_files, run.done_s.len()),
        quantile(0.1),
        quantile(0.5),
        quantile(0.9),
        quantile(1.0),
        format!("{:.2}", distance * 100.0),
        run.drops.to_string(),
        format!("{:.0}", run.host_health.busy * 100.0),
        format!("{:.0}", run.host_health.most_busy * 100.0),
    ]
}

impl Folding {
    fn report(&self, settings: &Settings, runs: &[Run], distance: f64) -> Report {
        let here = Environment::here();
        let mut report = Report::new("bench-folding", "The virtualization ratio", &here);
        report.text(format!(
            "{} BitTorrent clients (aria2), started every {} s, get a file of {} KiB from {} \
             seeders and each other; each has the line `{}`. Only how many of them share a \
             host differs.",
            settings.clients,
            settings.interval.as_secs_f64(),
            settings.file_bytes / 1024,
            settings.seeders,
            settings.line
        ));
        let complete = runs.iter().all(Run::is_complete);
        let words = if complete {
            "every client has the same file"
        } else {
            "not every client has the whole file"
        };
        report.verdict(verdict(complete), words);
        report.verdict(
            verdict(distance * 100.0 <= self.at_most),
            format!(
                "curves are {:.2} % of all data apart, at most {} % expected",
                distance * 100.0,
                self.at_most
            ),
        );
        for run in runs {
            for limit in &run.host_health.limits {
                let words = format!("{} on a host: the host was the limit: {limit}", run.ratio);
                report.verdict(Verdict::Undecided, words);
            }
        }
        let chart = Chart::new("Data that all clients received")
            .x(Axis::new("time since the first start, s").from_zero())
            .y(Axis::new("IP packets, MiB").from_zero());
        let chart = runs.iter().fold(chart, |chart, run| {
            let points = run.received.iter().map(|(t, b)| (*t, b / 1_048_576.0));
            chart.line(format!("{} on a host", run.ratio), points)
        });
        report.figure(
            "received",
            chart,
            "If the emulation does not notice how many share a host, the curves coincide.",
        );
        let mut table = Table::new(COLUMNS);
        for run in runs {
            table.row(row(run, &runs[0]));
        }
        report.table("runs", table);
        report
    }
}

fn verdict(holds: bool) -> Verdict {
    if holds {
        Verdict::Holds
    } else {
        Verdict::Fails
    }
}

/// One line on a terminal; Ctrl-C ends the measurement in order.
struct Watcher {
    cancelled: Arc<AtomicBool>,
    terminal: bool,
}

impl Watcher {
    fn new() -> std::io::Result<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&cancelled))?;
        }
        Ok(Self {
            cancelled,
            terminal: stderr().is_terminal(),
        })
    }

    fn clear(&self) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Observer for Watcher {
    fn progress(&mut self, words: &str) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K{words}");
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
