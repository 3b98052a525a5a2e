//! Why a load did not come about, in words that name what to do.
use std::{io, path::PathBuf};

use super::{bpf::BpfError, netlink::NetlinkError, state::StateError, undo::UndoError};

/// A load that did not come about. What it had changed is undone.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A qdisc or device that this kernel does not have.
    #[error("{source}; this kernel lacks {module} (try `modprobe {module}`, or `emu doctor`)")]
    Module {
        /// The module that would supply it.
        module: &'static str,
        source: NetlinkError,
    },
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// Offloads of an interface.
    #[error("turn off the segmentation offloads of {interface}: {source}")]
    Offload {
        interface: String,
        source: io::Error,
    },
    #[error("set {}: {source}", path.display())]
    Sysctl { path: PathBuf, source: io::Error },
    /// An interface of the topology does not exist.
    #[error("no interface {name}; there are {}", have.join(", "))]
    NoInterface {
        name: String,
        /// Interfaces of the namespace.
        have: Vec<String>,
    },
    /// Frames without an Ethernet header are not understood.
    #[error("{name} is no Ethernet interface")]
    NotEthernet { name: String },
    /// A root qdisc that could not be put back.
    #[error(
        "{interface} has the root qdisc {kind}, which cannot be put back as it was; delete it first (tc qdisc del dev {interface} root)"
    )]
    Qdisc { interface: String, kind: String },
    /// The machine itself lives in a prefix of the topology.
    #[error(
        "the address {address} of this machine's {interface} and the group {group} ({prefix}) overlap; choose other prefixes"
    )]
    AddressInUse {
        address: String,
        interface: String,
        group: String,
        prefix: String,
    },
    /// Some other device has our name.
    #[error(
        "there is already an interface {name} that this namespace's emu did not make; delete it (ip link del {name})"
    )]
    NameTaken { name: String },
    /// Taking back a former load failed.
    #[error(transparent)]
    Undo(#[from] UndoError),
}

/// Names the module behind an "unknown qdisc" or "unknown device type".
pub(super) fn needs(module: &'static str) -> impl Fn(NetlinkError) -> ApplyError {
    move |source| match source.errno() {
        Some(libc::ENOENT | libc::EOPNOTSUPP) => ApplyError::Module { module, source },
        _ => ApplyError::Netlink(source),
    }
}
