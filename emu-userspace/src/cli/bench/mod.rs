//! `emu bench`.
mod identity;

use clap::Subcommand;

use super::Outcome;

/// Measurements of `emu bench`.
#[derive(Subcommand)]
pub(super) enum Bench {
    /// What the hooks of `emu exec` cost a connect, as a ratio.
    Identity(identity::Identity),
}

impl Bench {
    pub(super) fn run(self) -> Outcome {
        match self {
            Bench::Identity(identity) => identity.run(),
        }
    }
}
