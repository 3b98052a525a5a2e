//! `emu bench`: one file for each measurement.
mod fairness;
mod folding;
mod identity;
mod impairments;
mod scale;

use clap::Subcommand;

use super::Outcome;

/// Measurements of `emu bench`.
#[derive(Subcommand)]
pub(super) enum Bench {
    /// Programs that only compute, started one after another: who gets what share.
    Fairness(fairness::Fairness),
    /// Many real peers on one machine.
    Scale(scale::Scale),
    /// The same BitTorrent clients on many hosts and on few: the virtualization ratio.
    Folding(folding::Folding),
    /// What the hooks of `emu exec` cost a connect, as a ratio.
    Identity(identity::Identity),
    /// Each impairment beside its formula and beside netem with the same setting.
    Impairments(impairments::Impairments),
}

impl Bench {
    pub(super) fn run(self) -> Outcome {
        match self {
            Bench::Fairness(fairness) => fairness.run(),
            Bench::Scale(scale) => scale.run(),
            Bench::Folding(folding) => folding.run(),
            Bench::Identity(identity) => identity.run(),
            Bench::Impairments(impairments) => impairments.run(),
        }
    }
}
