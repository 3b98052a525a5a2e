//! `emu bench identity`.
use clap::Args;
use emu::bench::{
    Spread,
    identity::{self, Options},
};
use serde_json::json;

use crate::cli::{FAILED, OK, Outcome, print, print_json, table};

/// Arguments of `emu bench identity`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu bench identity
  emu bench identity --at-most 1.03      exit code 1 if a connect costs more

Works in a scratch network namespace and cgroup; needs root, and no topology.")]
pub(in crate::cli) struct Identity {
    /// Pairs of blocks with the hooks and without.
    #[arg(long, default_value_t = Options::default().pairs, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,
    /// Operations in a block.
    #[arg(long, default_value_t = Options::default().operations, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    operations: u32,
    /// Fail if the median ratio of a TCP cycle is higher.
    #[arg(long, value_name = "RATIO")]
    at_most: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Identity {
    pub(super) fn run(self) -> Outcome {
        let cases = identity::run(Options {
            pairs: self.pairs,
            operations: self.operations,
        })?;
        let limit = self.at_most.unwrap_or(f64::INFINITY);
        let ok = cases
            .iter()
            .filter(|case| case.name.ends_with("cycle"))
            .all(|case| case.ratio.median <= limit);
        if self.json {
            print_json(&json!({
                "ok": ok, "at_most": self.at_most, "pairs": self.pairs,
                "operations": self.operations, "cases": cases,
            }))?;
        } else {
            let mut table = table(
                &["", "with, us", "without, us", "ratio", "95 % interval"],
                &[1, 2, 3, 4],
            );
            let us = |spread: &Spread| format!("{:.2}", spread.median / 1e3);
            for case in &cases {
                let ratio = &case.ratio;
                table.add_row([
                    case.name.to_owned(),
                    us(&case.with_ns),
                    us(&case.without_ns),
                    format!("{:.3}", ratio.median),
                    format!("{:.3} to {:.3}", ratio.low, ratio.high),
                ]);
            }
            print(&table.to_string())?;
        }
        Ok(if ok { OK } else { FAILED })
    }
}
