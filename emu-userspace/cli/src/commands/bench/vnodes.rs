//! `emu bench vnodes`.
use clap::Args;
use emu_bench::vnodes::{self, Sizes};
use emu_report::Environment;

use super::output::{Effort, Output, with_progress};
use crate::commands::Outcome;

/// Arguments of `emu bench vnodes`.
#[derive(Args)]
#[command(after_help = "\
Works in network namespaces of its own and changes nothing else. Needs root, fq and netem:
`cargo xtask run -- bench vnodes` finds a kernel that has them.

Examples:
  emu bench vnodes                          about a minute
  emu bench vnodes --full --out report      all sizes; report/vnodes.html

Exit code 1 if emu is not flat, or if the machine was too noisy to tell.")]
pub(in crate::commands) struct Vnodes {
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    output: Output,
}

impl Vnodes {
    pub(super) fn run(self) -> Outcome {
        let sizes = if self.effort.full {
            Sizes::FULL
        } else {
            Sizes::QUICK
        };
        let outcome = with_progress(|progress| vnodes::run(&sizes, progress))?;
        let environment = Environment::here();
        let report = outcome.report(&environment);
        self.output.finish(&report, &environment, &outcome)
    }
}
