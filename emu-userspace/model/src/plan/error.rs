//! Why a host cannot carry a topology.
use emu_common::layout::{MAX_GROUPS, MAX_VNODES};

use super::TooLate;
use crate::topology;

/// A topology that this host cannot carry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// The file names hosts, and which one this is was not said.
    #[error("the topology names hosts ({}); say which one this is with --host NAME", names.join(", "))]
    WhichHost {
        /// The names to choose from.
        names: Vec<String>,
    },
    /// No host has that name.
    #[error("the topology has no host {name:?}; it names {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })]
    UnknownHost {
        /// The name asked for.
        name: String,
        /// The names to choose from.
        names: Vec<String>,
    },
    /// More vnodes than a host can carry.
    #[error(
        "{count} vnodes on this host, and a host carries {MAX_VNODES}; spread them over more hosts"
    )]
    TooManyVnodes {
        /// Vnodes on this host.
        count: usize,
    },
    /// The topology cannot have this number of hosts.
    #[error(transparent)]
    Size(#[from] topology::SizeError),
    /// It could not be found out which host this is.
    #[error(
        "which of the topology's hosts ({}) is this? Looked for {tried}; say --host NAME, or --rank R --size N", names.join(", ")
    )]
    Unknown {
        /// What was looked for.
        tried: String,
        /// The names to choose from.
        names: Vec<String>,
    },
    /// No such rank.
    #[error("rank {rank} of {size} hosts; ranks go from 0 to {}", size.saturating_sub(1))]
    Rank {
        /// What was asked for.
        rank: usize,
        /// Hosts.
        size: usize,
    },
    /// `EMU_HOST_LATENCY` is not a time.
    #[error("EMU_HOST_LATENCY: {}; expected {}", .0.message, .0.expected)]
    HostLatency(topology::UnitError),
    /// Packets would wait longer than fq holds them.
    #[error(transparent)]
    TooLate(#[from] TooLate),
    /// More groups than the tables hold.
    #[error("{count} groups, and a topology has {MAX_GROUPS} at most")]
    TooManyGroups {
        /// Groups in the file.
        count: usize,
    },
}
