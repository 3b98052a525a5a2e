//! Measurements that compare us with doing without, with netem, and with the
//! formulas, in one run on one kernel. They work in scratch network namespaces,
//! never on the machine's interfaces; `bench scale` over several hosts is the one
//! exception.
//!
//! A measurement returns its figures, and its report as plain charts and tables. It has
//! no arguments of a command line and prints nothing.
#![forbid(unsafe_code)]

pub mod accuracy;
pub mod bittorrent;
pub mod fairness;
pub mod filling;
pub mod fleet;
pub mod folding;
pub mod identity;
pub mod impairments;
pub mod lines;
pub mod model;
pub mod namespace;
pub mod packet;
pub mod probe;
pub mod queues;
pub mod scale;
pub mod scene;
pub mod settings;
mod spread;
pub mod stats;
pub mod traffic;
pub mod vnodes;

use std::io;

use emu_kernel::{
    bpf::BpfError, cgroup::CgroupError, identity::IdentityError, netlink::NetlinkError,
    session::SessionError,
};

pub use spread::Spread;

/// What kept a measurement from its work.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A namespace or a socket.
    #[error("{what}: {source}")]
    System {
        /// Operation and object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program refused its work.
    #[error("`{line}`: {words}")]
    Program {
        /// The command line.
        line: String,
        /// What it said.
        words: String,
    },
    /// The kernel lacks a queueing discipline.
    #[error(
        "this kernel or user cannot make the qdisc `{qdisc}`, which the comparison needs; \
         `cargo xtask run -- bench …` runs it in a VM that can ({words})"
    )]
    Missing {
        /// Its name.
        qdisc: &'static str,
        /// What `tc` said.
        words: String,
    },
    /// Loading a topology.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Results that are there are not of the swarm that is to run.
    #[error("{}: a run with other settings; remove it, or take another folder", .folder.display())]
    OtherSettings {
        /// The run's folder.
        folder: std::path::PathBuf,
    },
    /// Results of several hosts that are there already.
    #[error("{}: results of an earlier run; remove them, or take another folder", .folder.display())]
    Earlier {
        /// Their folder.
        folder: std::path::PathBuf,
    },
    /// A host that did not come, or did not go on.
    #[error(
        "host {rank} has not said `{what}` within {} s; do all hosts share {}?",
        .within.as_secs(), .folder.display()
    )]
    Silent {
        /// Its number.
        rank: usize,
        /// What it should have said.
        what: &'static str,
        /// How long it had.
        within: std::time::Duration,
        /// Where it should be seen.
        folder: std::path::PathBuf,
    },
    /// Somebody asked for an end.
    #[error("broken off")]
    Interrupted,
    /// A network table.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The BPF object.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The cgroup tree.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The hooks of processes.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A namespace's thread is gone.
    #[error("a thread of the measurement broke off")]
    Thread,
}

impl BenchError {
    /// An error of the kernel during an operation.
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| BenchError::System { what, source }
    }
}
