//! `emu bench identity`.
use clap::Args;
use emu_bench::identity::{self, Options};

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
        self.output.measure(&identity::Identity {
            options,
            at_most: self.at_most,
        })
    }
}
