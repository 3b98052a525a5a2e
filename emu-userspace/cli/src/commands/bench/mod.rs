//! `emu bench`. A measurement with standard options is one line here; the others have a file
//! with their options.
mod fairness;
mod folding;
mod identity;
mod impairments;
mod output;
mod scale;

use clap::Subcommand;
use emu_bench::{Preset, accuracy, packet, vnodes};

use super::Outcome;
use output::Standard;

/// Measurements of `emu bench`.
#[derive(Subcommand)]
pub(super) enum Bench {
    /// Delays, rates and TCP throughput compared with netem, TBF and HTB.
    #[command(after_help = accuracy::Sizes::HELP)]
    Accuracy(Standard<accuracy::Sizes>),
    /// Shares of the CPUs among computing programs that start one after another.
    Fairness(fairness::Fairness),
    /// Many real peers on one machine, and the accuracy of the network meanwhile.
    Scale(scale::Scale),
    /// The same BitTorrent clients on many hosts and on few: the virtualization ratio.
    Folding(folding::Folding),
    /// Cost of the hooks of `emu exec` for a connect, as a ratio.
    Identity(identity::Identity),
    /// Each impairment compared with its formula and with netem under the same setting.
    Impairments(impairments::Impairments),
    /// Nanoseconds of each BPF program per packet, on this machine's own kernel.
    #[command(after_help = packet::Sizes::HELP)]
    Packet(Standard<packet::Sizes>),
    /// Round trip, throughput and load time against the number of vnodes, compared with
    /// rules.
    #[command(after_help = vnodes::Sizes::HELP)]
    Vnodes(Standard<vnodes::Sizes>),
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
