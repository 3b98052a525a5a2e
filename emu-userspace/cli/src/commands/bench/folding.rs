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
use emu_bench::{
    bittorrent::{Client, piece_bytes},
    folding::{self, Distances, Observer, Run, Series, Settings, curves},
};
use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};
use serde_json::json;

use crate::commands::{FAILED, OK, Outcome, print, print_json, table};

/// Arguments of `emu bench folding`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu bench folding                              16 clients on 16 hosts and on one
  emu bench folding --full                       P2PLab's: 160 clients, 16 MB; takes hours
  emu bench folding --full --ratios 1 --out F    one of its runs; other runs, here or on
  emu bench folding --full --ratios 80 --out F   another machine, extend the same report

Needs root, the programs python3-libtorrent (or aria2c) and opentracker, and a kernel with
fq; `cargo xtask run -- bench folding` provides all three. Works in network namespaces of its
own.")]
pub(in crate::commands) struct Folding {
    /// Run a small swarm, which takes two minutes per run; the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Run P2PLab's swarm: 160 clients, one every 10 s, 16 MB, 1 to 80 clients per host.
    #[arg(long)]
    full: bool,
    /// Numbers of clients per host, one run for each.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    ratios: Option<Vec<u32>>,
    /// Number of additional runs at the first ratio, which show the differences due to
    /// chance.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    repeats: Option<u32>,
    /// Run nothing, and report on the runs in the folder.
    #[arg(long, conflicts_with = "ratios")]
    report_only: bool,
    /// Number of downloading clients.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: Option<u32>,
    /// Program of clients and seeders: libtorrent or aria2.
    #[arg(long, value_name = "NAME")]
    client: Option<Client>,
    /// Access link of each client, as in `down: 2mbit, up: 128kbit, latency: 30ms`.
    #[arg(long, value_name = "LINE")]
    line: Option<String>,
    /// Size of the file in KiB.
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    file: Option<u32>,
    /// Time between the starts of two clients, as in `2s`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
    /// Exit with code 1 if curves differ by more than this share of all data, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 3.0)]
    at_most: f64,
    /// Folder for the results.
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
        if let Some(clients) = self.clients {
            settings.clients = clients;
        }
        if let Some(client) = self.client {
            settings.client = client;
        }
        if let Some(line) = &self.line {
            settings.line.clone_from(line);
        }
        if let Some(kib) = self.file {
            settings.file_bytes = kib as usize * 1024;
            // As many pieces as P2PLab's file had.
            settings.piece_bytes = piece_bytes(settings.file_bytes, 64);
        }
        if let Some(interval) = self.interval {
            settings.interval = interval;
        }
        settings
    }

    fn series(&self) -> Series {
        let mut series = if self.full {
            Series::full()
        } else {
            Series::quick()
        };
        if let Some(ratios) = &self.ratios {
            series.ratios.clone_from(ratios);
        }
        if self.report_only {
            series.ratios.clear();
        }
        if let Some(repeats) = self.repeats {
            series.repeats = repeats;
        }
        series
    }

    pub(super) fn run(self) -> Outcome {
        let (settings, series) = (self.settings(), self.series());
        let mut watcher = Watcher::new()?;
        let out = std::path::absolute(&self.out)?;
        let outcome = folding::run(&settings, &series, &out, &mut watcher);
        watcher.clear();
        let runs = outcome?;
        let apart = folding::distances(&runs);
        let complete = !runs.is_empty() && runs.iter().all(Run::is_complete);
        let ok = complete && self.is_near(apart);
        let report = self.report(&settings, &runs, apart);
        report.write(
            &out,
            &json!({"settings": settings, "distances": apart, "runs": runs}),
        )?;
        if self.json {
            print_json(&json!({
                "ok": ok, "complete": complete, "distances": apart,
                "at_most": self.at_most / 100.0, "settings": settings, "runs": runs,
            }))?;
        } else {
            print(&rows(&runs).to_string())?;
            for run in &runs {
                for failed in &run.failed {
                    print(&format!("FAILED: {}: {failed}", run.name()))?;
                }
                for crashed in &run.crashed {
                    print(&format!("started again: {}: {crashed}", run.name()))?;
                }
            }
            for (verdict, text) in report.verdicts() {
                print(&format!("{}: {text}", verdict.text()))?;
            }
            print(&format!(
                "report: {}",
                out.join("bench-folding.html").display()
            ))?;
        }
        Ok(if ok { OK } else { FAILED })
    }
}

const COLUMNS: [&str; 13] = [
    "clients on a host",
    "run",
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
        table.add_row(row(run, runs));
    }
    table
}

fn row(run: &Run, runs: &[Run]) -> [String; COLUMNS.len()] {
    let quantile = |share| {
        run.done_quantile(share)
            .map_or("–".into(), |s| format!("{s:.1}"))
    };
    // A ratio is compared with the smallest one, a repeated run with the first of its
    // ratio.
    let first = match run.again {
        0 => runs.first(),
        _ => runs.iter().find(|first| first.ratio == run.ratio),
    };
    let distance = first.map_or(0.0, |first| {
        curves::distance(&first.received, &run.received).0
    });
    [
        run.ratio.to_string(),
        (run.again + 1).to_string(),
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
    /// Whether all distances are within the bound; true if there is one ratio only.
    fn is_near(&self, apart: Distances) -> bool {
        apart.ratios.unwrap_or(0.0) * 100.0 <= self.at_most
    }

    fn distance_text(&self, apart: Distances) -> Option<String> {
        let ratios = apart.ratios? * 100.0;
        let mut text = format!(
            "ratios' curves are {ratios:.2} % of all data apart, at most {} % expected",
            self.at_most
        );
        if let Some(chance) = apart.chance {
            text += &format!("; runs of the same ratio {:.2} %", chance * 100.0);
        }
        Some(text)
    }

    fn report(&self, settings: &Settings, runs: &[Run], apart: Distances) -> Report {
        let here = Environment::here();
        let mut report = Report::new("bench-folding", "The virtualization ratio", &here);
        report.text(format!(
            "{} BitTorrent clients ({}), started every {} s, get a file of {} KiB from {} \
             seeders and each other; each has the line `{}`. Only how many of them share a \
             host differs.",
            settings.clients,
            settings.client,
            settings.interval.as_secs_f64(),
            settings.file_bytes / 1024,
            settings.seeders,
            settings.line
        ));
        let complete = runs.iter().all(Run::is_complete);
        let text = if complete {
            "every client has the same file"
        } else {
            "not every client has the whole file"
        };
        report.verdict(verdict(complete), text);
        if let Some(text) = self.distance_text(apart) {
            let limited = runs.iter().any(|run| !run.host_health.limits.is_empty());
            let verdict = match (self.is_near(apart), limited) {
                (true, _) => Verdict::Holds,
                (false, true) => Verdict::Undecided,
                (false, false) => Verdict::Fails,
            };
            report.verdict(verdict, text);
        }
        for run in runs {
            for limit in &run.host_health.limits {
                let text = format!("{}: the host was the limit: {limit}", run.name());
                report.verdict(Verdict::Undecided, text);
            }
        }
        let chart = Chart::new("Data that all clients received")
            .x(Axis::new("time since the first start, s").from_zero())
            .y(Axis::new("IP packets, MiB").from_zero());
        let chart = runs.iter().fold(chart, |chart, run| {
            let points = run.received.iter().map(|(t, b)| (*t, b / 1_048_576.0));
            chart.line(run.name(), points)
        });
        report.figure(
            "received",
            chart,
            "If the emulation does not notice how many share a host, the curves coincide.",
        );
        let mut table = Table::new(COLUMNS);
        for run in runs {
            table.row(row(run, runs));
        }
        report.table("runs", table);
        for run in runs.iter().filter(|run| !run.crashed.is_empty()) {
            report.text(format!(
                "{}: crashed and started again: {}.",
                run.name(),
                run.crashed.join("; ")
            ));
        }
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

/// Progress on one line of the terminal; Ctrl-C ends the measurement in order.
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
    fn progress(&mut self, text: &str) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K{text}");
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
