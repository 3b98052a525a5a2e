//! `emu bench`: one file for each measurement.
mod impairments;

use clap::Subcommand;

use super::Outcome;

/// Measurements of the emulator itself.
#[derive(Subcommand)]
pub(super) enum Bench {
    /// Each impairment beside its formula and beside netem with the same setting.
    Impairments(impairments::Impairments),
}

impl Bench {
    pub(super) fn run(self) -> Outcome {
        match self {
            Bench::Impairments(impairments) => impairments.run(),
        }
    }
}
