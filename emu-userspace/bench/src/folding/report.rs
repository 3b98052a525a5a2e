//! The report of `bench folding`.
use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};

use super::{Distances, Folding, Outcome, Run, curves};

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
    pub(super) fn is_near(&self, apart: Distances) -> bool {
        apart.ratios.unwrap_or(0.0) * 100.0 <= self.at_most_percent
    }

    fn distance_text(&self, apart: Distances) -> Option<String> {
        let ratios = apart.ratios? * 100.0;
        let mut text = format!(
            "ratios' curves are {ratios:.2} % of all data apart, at most {} % expected",
            self.at_most_percent
        );
        if let Some(chance) = apart.chance {
            text += &format!("; runs of the same ratio {:.2} %", chance * 100.0);
        }
        Some(text)
    }

    pub(super) fn page(&self, outcome: &Outcome, environment: &Environment) -> Report {
        let (settings, runs, apart) = (&self.settings, &outcome.runs, outcome.distances);
        let mut report = Report::new("bench-folding", "The virtualization ratio", environment);
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
