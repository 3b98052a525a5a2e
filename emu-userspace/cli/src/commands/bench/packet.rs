//! `emu bench packet`.
use clap::Args;
use emu_bench::packet::{self, Sizes};
use emu_report::Environment;

use super::output::{Effort, Output, with_progress};
use crate::commands::Outcome;

/// Arguments of `emu bench packet`.
#[derive(Args)]
#[command(after_help = "\
Loads the BPF programs into this machine's kernel without attaching them. Needs only root.

Examples:
  emu bench packet                          half a minute
  emu bench packet --full --out report      all sizes; report/packet.html

Exit code 1 if a packet costs more than the bounds allow, or if the machine was too busy to
tell.")]
pub(in crate::commands) struct Packet {
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    output: Output,
}

impl Packet {
    pub(super) fn run(self) -> Outcome {
        let sizes = if self.effort.full {
            Sizes::FULL
        } else {
            Sizes::QUICK
        };
        let outcome = with_progress(|progress| packet::run(&sizes, progress))?;
        let environment = Environment::here();
        let report = outcome.report(&environment);
        self.output.finish(&report, &environment, &outcome)
    }
}
