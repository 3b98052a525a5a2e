//! `emu bench`: one file for each measurement.
mod identity;
mod impairments;

use clap::Subcommand;

use super::Outcome;

/// Measurements of `emu bench`.
#[derive(Subcommand)]
pub(super) enum Bench {
    /// What the hooks of `emu exec` cost a connect, as a ratio.
    Identity(identity::Identity),
    /// Each impairment beside its formula and beside netem with the same setting.
    Impairments(impairments::Impairments),
}

impl Bench {
    pub(super) fn run(self) -> Outcome {
        match self {
            Bench::Identity(identity) => identity.run(),
            Bench::Impairments(impairments) => impairments.run(),
        }
    }
}
