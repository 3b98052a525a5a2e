//! Why an operation on a session failed.
use std::{io, net::IpAddr, path::PathBuf};

use emu_model::{ErrorKind, plan::PlanError, topology::TopologyErrors};

use crate::{
    bpf::BpfError, drift::DriftError, error::ApplyError, identity::IdentityError,
    netns::NetnsError, state::StateError, undo::UndoError,
};

/// Why an operation on a session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Topology(#[from] Box<TopologyErrors>),
    /// The topology does not fit this host.
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Apply(#[from] Box<ApplyError>),
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    State(#[from] StateError),
    /// Comparing the kernel with what was loaded.
    #[error(transparent)]
    Drift(#[from] DriftError),
    #[error(transparent)]
    Bpf(#[from] Box<BpfError>),
    /// Making a process a vnode's.
    #[error(transparent)]
    Identity(#[from] Box<IdentityError>),
    #[error("no vnode {name:?}; name one by its address, or as group/index, the first being {}", example.as_deref().unwrap_or("GROUP/0"))]
    UnknownVnode {
        /// What was asked for.
        name: String,
        /// A good name.
        example: Option<String>,
    },
    /// The vnode is on another host.
    #[error("{vnode} is not a vnode of this host{}", host.as_ref().map(|h| format!(" but of {h}")).unwrap_or_default())]
    Elsewhere {
        vnode: IpAddr,
        /// The host that carries it, if any.
        host: Option<String>,
    },
    /// Only the line of a machine can lead elsewhere.
    #[error(
        "{vnode} is a vnode of processes; a container needs a vnode that is a machine (`kind: machine` \
         in the topology)"
    )]
    NotMachine { vnode: IpAddr },
    /// The network namespace of a container, or of a process.
    #[error("open the network namespace {}: {source}", path.display())]
    Namespace { path: PathBuf, source: io::Error },
    #[error("read the kernel's tables of sockets: {0}")]
    Sockets(#[source] io::Error),
    /// Nothing is loaded in this network namespace.
    #[error("nothing is loaded in this network namespace (emu load FILE)")]
    NotLoaded,
    /// A load was interrupted.
    #[error(
        "a load was interrupted; `emu unload` undoes its changes, `emu load` does a full reload"
    )]
    Interrupted,
}

impl SessionError {
    /// Whether the user's files or the operation failed.
    pub fn kind(&self) -> ErrorKind {
        match self {
            SessionError::Topology(_) | SessionError::Plan(_) => ErrorKind::Usage,
            SessionError::Apply(_)
            | SessionError::Undo(_)
            | SessionError::Netns(_)
            | SessionError::State(_)
            | SessionError::Drift(_)
            | SessionError::Bpf(_)
            | SessionError::Identity(_)
            | SessionError::UnknownVnode { .. }
            | SessionError::Elsewhere { .. }
            | SessionError::NotMachine { .. }
            | SessionError::Namespace { .. }
            | SessionError::Sockets(_)
            | SessionError::NotLoaded
            | SessionError::Interrupted => ErrorKind::Operation,
        }
    }
}
