//! `emu bench`: one file for each measurement.
mod accuracy;
mod fairness;
mod folding;
mod identity;
mod impairments;
mod output;
mod packet;
mod scale;
mod vnodes;

use clap::Subcommand;

use super::Outcome;

/// Measurements of `emu bench`.
#[derive(Subcommand)]
pub(super) enum Bench {
    /// Delays, rates and TCP throughput beside netem, TBF and HTB.
    Accuracy(accuracy::Accuracy),
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
    /// Nanoseconds of each program for a packet, on this machine's own kernel.
    Packet(packet::Packet),
    /// Round trip, throughput and load time against the number of vnodes, beside rules.
    Vnodes(vnodes::Vnodes),
}

impl Bench {
    pub(super) fn run(self) -> Outcome {
        match self {
            Bench::Accuracy(accuracy) => accuracy.run(),
            Bench::Fairness(fairness) => fairness.run(),
            Bench::Scale(scale) => scale.run(),
            Bench::Folding(folding) => folding.run(),
            Bench::Identity(identity) => identity.run(),
            Bench::Impairments(impairments) => impairments.run(),
            Bench::Packet(packet) => packet.run(),
            Bench::Vnodes(vnodes) => vnodes.run(),
        }
    }
}
