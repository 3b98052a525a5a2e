//! Measurements that compare emu with an unemulated network, with netem and with formulas,
//! in one run on one kernel. They work in scratch network namespaces and never touch the
//! machine's interfaces; the one exception is `bench scale` over several hosts.
//!
//! A measurement returns its results, and its report as plain charts and tables. It parses
//! no command line and prints nothing.
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
mod measurement;
mod median_ci;
pub mod model;
pub mod namespace;
pub mod packet;
pub mod probe;
pub mod queues;
pub mod scale;
pub mod scene;
pub mod settings;
pub mod stats;
pub mod traffic;
pub mod vnodes;

use std::{fs, io, path::Path};

use emu_kernel::{
    bpf::BpfError, cgroup::CgroupError, identity::IdentityError, netlink::NetlinkError,
    session::SessionError,
};
use emu_runner::rendezvous::RendezvousError;

pub use measurement::{Measurement, Observer, Preset};
pub use median_ci::MedianCi;

/// Reasons why a measurement could not be completed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A system call on a namespace, a socket or a file failed.
    #[error("{what}: {source}")]
    System {
        /// The operation and its object.
        what: String,
        /// The error that the kernel returned.
        source: io::Error,
    },
    /// A program exited with an error.
    #[error("`{line}`: {message}")]
    Program {
        /// The program's command line.
        line: String,
        /// The program's error output.
        message: String,
    },
    /// The kernel does not have a qdisc.
    #[error(
        "this kernel or user cannot make the qdisc `{qdisc}`, which the comparison needs; \
         `cargo xtask run -- bench …` runs it in a VM that can ({message})"
    )]
    Missing {
        /// Name of the qdisc.
        qdisc: &'static str,
        /// The error output of `tc`.
        message: String,
    },
    /// A topology could not be loaded or unloaded.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The results folder holds runs that were made with different swarm settings.
    #[error("{}: a run with other settings; remove it, or take another folder", .folder.display())]
    OtherSettings {
        /// Folder of the run with other settings.
        folder: std::path::PathBuf,
    },
    /// The hosts of a measurement could not work together.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// The user cancelled the measurement.
    #[error("broken off")]
    Interrupted,
    /// A netlink request failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The BPF object could not be loaded.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The cgroup tree could not be read or changed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The hooks of `emu exec` could not be attached or detached.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The thread of a namespace has panicked.
    #[error("a thread of the measurement broke off")]
    Thread,
}

/// Creates a folder, and those above it that are missing.
fn make_folder(folder: &Path) -> Result<(), BenchError> {
    let error = |source| BenchError::System {
        what: format!("make the folder {}", folder.display()),
        source,
    };
    fs::create_dir_all(folder).map_err(error)
}

impl BenchError {
    /// Converts the error of a system call; `what` names the operation.
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| BenchError::System { what, source }
    }
}
