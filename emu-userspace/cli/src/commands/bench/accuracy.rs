//! `emu bench accuracy`.
use clap::Args;
use emu_bench::accuracy::{self, Sizes};
use emu_report::Environment;

use super::output::{Effort, Output, with_progress};
use crate::commands::Outcome;

/// Arguments of `emu bench accuracy`.
#[derive(Args)]
#[command(after_help = "\
Works in network namespaces of its own and changes nothing else. Needs root, fq and netem:
`cargo xtask run -- bench accuracy` finds a kernel that has them.

Examples:
  emu bench accuracy                          about a minute
  emu bench accuracy --full --out report      all sizes; report/accuracy.html

Exit code 1 if emu is less accurate than it must be, or if the machine was too busy to tell.")]
pub(in crate::commands) struct Accuracy {
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    output: Output,
}

impl Accuracy {
    pub(super) fn run(self) -> Outcome {
        let sizes = if self.effort.full {
            Sizes::FULL
        } else {
            Sizes::QUICK
        };
        let outcome = with_progress(|progress| accuracy::run(&sizes, progress))?;
        let environment = Environment::here();
        let report = outcome.report(&environment);
        self.output.finish(&report, &environment, &outcome)
    }
}
