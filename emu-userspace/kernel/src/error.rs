//! Why a load failed, with a remedy.
use std::{io, path::PathBuf};

use super::{bpf::BpfError, netlink::NetlinkError, state::StateError, undo::UndoError};

/// Why a load failed. Its changes are undone.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel does not have a qdisc or device type.
    #[error(
        "{source}; this kernel does not have {module} (try `modprobe {module}`, or `emu doctor`)"
    )]
    Module {
        /// The module that provides it.
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
    /// The interface does not have Ethernet frames.
    #[error("{name} is not an Ethernet interface")]
    NotEthernet { name: String },
    /// The root qdisc could not be restored later.
    #[error(
        "{interface} has the root qdisc {kind}, which emu could not restore; delete it first (tc qdisc del dev {interface} root)"
    )]
    Qdisc { interface: String, kind: String },
    /// The machine's own address is in a prefix of the topology.
    #[error(
        "the address {address} of this machine's {interface} and the group {group} ({prefix}) overlap; choose other prefixes"
    )]
    AddressInUse {
        address: String,
        interface: String,
        group: String,
        prefix: String,
    },
    /// Another device has the name of emu's ifb device.
    #[error(
        "the interface {name} exists, but this namespace's emu did not create it; delete it (ip link del {name})"
    )]
    NameTaken { name: String },
    /// A container has such an interface.
    #[error(
        "there is an interface {name} already; start the container without a network (`--network none`), or \
         choose another name (`--interface`)"
    )]
    Occupied { name: String },
    /// A system call outside netlink.
    #[error(transparent)]
    System(#[from] io::Error),
    /// A machine's namespace could not be made.
    #[error("{operation}: {source}")]
    Machine {
        operation: String,
        source: io::Error,
    },
    #[error(transparent)]
    Undo(#[from] UndoError),
}

/// Adds the name of the module to an "unknown qdisc" or "unknown device type".
pub(super) fn needs(module: &'static str) -> impl Fn(NetlinkError) -> ApplyError {
    move |source| match source.errno() {
        Some(libc::ENOENT | libc::EOPNOTSUPP) => ApplyError::Module { module, source },
        _ => ApplyError::Netlink(source),
    }
}
