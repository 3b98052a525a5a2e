//! `emu bench identity`.
use clap::Args;
use emu_bench::identity::{self, Case, Options};
use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};
use serde_json::json;

use super::output::{Effort, Output};
use crate::commands::Outcome;

/// Arguments of `emu bench identity`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu bench identity
  emu bench identity --at-most 1.03      exit code 1 if the hooks cost more than 3 %

Works in a scratch network namespace and cgroup. Needs root, but no topology.")]
pub(in crate::commands) struct Identity {
    /// Number of pairs of blocks, one block with the hooks and one without.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: Option<u32>,
    /// Operations per block.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    operations: Option<u32>,
    /// Exit with code 1 if the median ratio of a TCP connect-and-close cycle is higher.
    #[arg(long, value_name = "RATIO")]
    at_most: Option<f64>,
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    output: Output,
}

impl Identity {
    pub(super) fn run(self) -> Outcome {
        let full = if self.effort.full { 4 } else { 1 };
        let usual = Options::default();
        let options = Options {
            pairs: self.pairs.unwrap_or(usual.pairs * full),
            operations: self.operations.unwrap_or(usual.operations),
        };
        let cases = identity::run(options)?;
        let limit = self.at_most.unwrap_or(f64::INFINITY);
        let ok = cases
            .iter()
            .filter(|case| case.name.ends_with("cycle"))
            .all(|case| case.ratio.median <= limit);
        let environment = Environment::here();
        let mut report = Report::new("identity", "What the hooks of emu exec cost", &environment);
        let verdict = if ok { Verdict::Holds } else { Verdict::Fails };
        if let Some(limit) = self.at_most {
            report.verdict(
                verdict,
                format!("a TCP cycle costs at most {limit} times as much"),
            );
        }
        report.text(
            "One process in a cgroup of a scratch namespace, with the hooks attached and without \
             them in turns; medians, and the ratio of neighbouring blocks.",
        );
        report.table("cases", cells(&cases));
        let chart = Chart::new("With the hooks and without")
            .x(Axis::new("").categories(cases.iter().map(|c| c.name)))
            .y(Axis::new("us").from_zero())
            .bars("without", cases.iter().map(|c| c.without_ns.median / 1e3))
            .bars("with", cases.iter().map(|c| c.with_ns.median / 1e3));
        report.figure("cases", chart, "Time of one operation.");
        let data = json!({
            "ok": ok, "at_most": self.at_most, "pairs": options.pairs,
            "operations": options.operations, "cases": cases,
        });
        self.output.finish(&report, &environment, &data)
    }
}

fn cells(cases: &[Case]) -> Table {
    let mut table = Table::new(["", "with, us", "without, us", "ratio", "95 % interval"]);
    for case in cases {
        let ratio = &case.ratio;
        table.row([
            case.name.to_owned(),
            format!("{:.2}", case.with_ns.median / 1e3),
            format!("{:.2}", case.without_ns.median / 1e3),
            format!("{:.3}", ratio.median),
            format!("{:.3} to {:.3}", ratio.low, ratio.high),
        ]);
    }
    table
}
