//! `emu bench fairness`.
use std::{path::PathBuf, time::Duration};

use clap::Args;
use emu_bench::fairness::{self, Settings};
use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};
use serde_json::json;

use crate::commands::{FAILED, OK, Outcome, print, print_json, table};

/// Arguments of `emu bench fairness`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu bench fairness                   ten programs of 1 s, one every 250 ms
  emu bench fairness --full            P2PLab's: programs of 12 s, one every second

Needs root, and a kernel with fq: `cargo xtask run -- bench fairness`. Works in a network
namespace of its own.")]
pub(in crate::commands) struct Fairness {
    /// Run a small experiment; the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Run P2PLab's experiment: programs of 12 s, one every second.
    #[arg(long)]
    full: bool,
    /// Number of programs.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    programs: Option<u32>,
    /// Running time of one program on an idle machine, as in `2s`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    alone: Option<Duration>,
    /// Exit with code 1 if Jain's index is lower.
    #[arg(long, value_name = "INDEX", default_value_t = 0.95)]
    at_least: f64,
    /// Folder for the results.
    #[arg(long, default_value = "bench-fairness")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Fairness {
    pub(super) fn run(self) -> Outcome {
        let scale = if self.full { 1.0 } else { 1.0 / 12.0 };
        let alone = self.alone.unwrap_or(Duration::from_secs(12).mul_f64(scale));
        let settings = Settings {
            programs: self.programs.unwrap_or(if self.full { 30 } else { 10 }),
            // P2PLab started one program every second, a twelfth of a program's running
            // time. A small run starts them a little less often, because a start takes time
            // too.
            interval: Duration::from_secs(1).mul_f64(scale.max(0.25)),
            alone,
        };
        let out = std::path::absolute(&self.out)?;
        let outcome = fairness::run(&settings, &out)?;
        let ok = outcome.jain_index >= self.at_least;
        report(&outcome, ok, self.at_least).write(&out, &outcome)?;
        if self.json {
            print_json(&json!({"ok": ok, "at_least": self.at_least, "outcome": outcome}))?;
        } else {
            let mut rows = table(
                &["", "start, s", "took, s", "CPU, s", "fair, s", "took/fair"],
                &[0, 1, 2, 3, 4, 5],
            );
            for (number, p) in outcome.programs.iter().enumerate() {
                let numbers = [p.start_s, p.took_s, p.cpu_s, p.fair_s, p.took_s / p.fair_s];
                let cells = numbers.iter().map(|n| format!("{n:.2}"));
                rows.add_row(std::iter::once(number.to_string()).chain(cells));
            }
            print(&rows.to_string())?;
            print(&format!(
                "Jain's index {:.4} (at least {}); report: {}",
                outcome.jain_index,
                self.at_least,
                out.join("bench-fairness.html").display()
            ))?;
        }
        Ok(if ok { OK } else { FAILED })
    }
}

fn report(outcome: &fairness::Outcome, ok: bool, at_least: f64) -> Report {
    let here = Environment::here();
    let mut report = Report::new("bench-fairness", "Fairness of the processors", &here);
    let verdict = if ok { Verdict::Holds } else { Verdict::Fails };
    report.verdict(
        verdict,
        format!(
            "Jain's index of fair time to time taken is {:.4}, at least {at_least} expected",
            outcome.jain_index
        ),
    );
    let points = |value: fn(&fairness::Program) -> f64| {
        let programs = outcome.programs.iter().enumerate();
        programs
            .map(|(i, p)| (i as f64, value(p)))
            .collect::<Vec<_>>()
    };
    let chart = Chart::new("Time that each program needs to complete")
        .x(Axis::new("program, in the order of their starts"))
        .y(Axis::new("time, s").from_zero())
        .points("measured", points(|p| p.took_s))
        .line("equal shares at all times", points(|p| p.fair_s));
    report.figure(
        "time",
        chart,
        "Programs that only compute, started one after another. The line is what each would \
         take if the processors were shared equally, for the processor time that it used.",
    );
    let mut rows = Table::new(["program", "start, s", "took, s", "CPU, s", "fair, s"]);
    for (number, p) in outcome.programs.iter().enumerate() {
        let numbers = [p.start_s, p.took_s, p.cpu_s, p.fair_s].map(|n| format!("{n:.3}"));
        rows.row(std::iter::once(number.to_string()).chain(numbers));
    }
    report.table("programs", rows);
    report
}
