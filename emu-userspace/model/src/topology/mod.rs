//! A checked topology: groups of vnodes with their access links, the latencies between the
//! groups, and the hosts that carry the vnodes.
//!
//! Nothing here touches the kernel. The model is that of P2PLab (Nussbaum and Richard, 2006):
//! one-way delay = wait and serialisation in the source's up pipe + source latency + latency
//! between the groups + wait and serialisation in the destination's down pipe + destination
//! latency.
mod change;
mod error;
mod event_text;
mod events;
mod hosts;
mod impair;
mod links;
mod lookup;
mod parse;
mod placement;
mod ranges;
pub(crate) mod reader;
mod schema;
mod sections;
mod traces;
mod units;
mod validate;

use crate::name::Name;
use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::Serialize;

pub use change::{AccessLinkChange, PipeChange, Target};
pub use error::{Position, Problem, TopologyErrors};
pub use events::{Event, EventAction, EventTarget};
pub use impair::{Aqm, Chance, Filtering, Impairments, Jitter, Loss, Probability, Reorder};
pub use lookup::{CapacityFault, LinkWay};
pub use parse::{MOST_BYTES, Source, load, parse, read_text};
pub use placement::{HostTemplate, Part, Placement, SizeError};
pub(crate) use ranges::total as range_total;
pub use ranges::{AddrRange, addresses, merge_adjacent};
pub(crate) use schema::Name as NameSchema;
pub use schema::json_schema;
pub use traces::{Side, Trace};
pub use units::{Queue, Rate, UnitError, probability, rate, size, span, time};

/// Index of a group in [`Topology::groups`].
pub type GroupId = usize;

/// A checked topology file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Name, for users.
    pub name: Name,
    /// How vnodes get their addresses.
    pub addressing: Option<Addressing>,
    /// Loopback of the programs of vnodes.
    pub loopback: Loopback,
    /// Which bytes of a packet a pipe charges.
    pub accounting: Accounting,
    /// Largest IP packet in bytes on the interfaces that carry vnodes.
    pub mtu_bytes: u32,
    /// Seed of all random decisions; `None`: a new one for each load.
    pub seed: Option<u64>,
    /// Files of the topology's own jitter distributions, in the order of their
    /// numbers.
    pub distributions: Vec<PathBuf>,
    /// Settings of `fq` that override the computed ones.
    pub fq: FqSettings,
    /// Groups in the order of the file, parents before children.
    pub groups: Vec<Group>,
    /// Latencies between groups.
    pub links: Vec<GroupLink>,
    /// Hosts; if empty, this host carries all vnodes.
    pub hosts: Vec<Host>,
    /// Distribution of the vnodes that no host names; `None`: every vnode is named.
    pub placement: Option<Placement>,
    /// Template of the hosts, if the file has their number instead of a list.
    pub template: Option<HostTemplate>,
    /// Number of hosts, if it differs from that of the file.
    pub size: Option<usize>,
    /// One-way latency of the network between the hosts, which is deducted from the latency
    /// between vnodes of different hosts.
    pub host_latency: Option<Duration>,
    /// Events after `emu start`, in the order of time.
    pub events: Vec<Event>,
    /// Recordings that access links and links follow after `emu start`.
    pub traces: Vec<Trace>,
}

/// How vnodes get their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// One alias on `lo` for each vnode.
    Alias,
    /// One local route per range of vnodes (AnyIP): faster to load, but the addresses do not
    /// appear in `ip addr`.
    AnyIp,
}

/// Which loopback the programs of a vnode have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loopback {
    /// 127.0.0.1 and `::1` are the vnode's.
    #[default]
    Own,
    /// They are the machine's.
    Shared,
}

/// Which bytes of a packet a pipe charges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accounting {
    /// The IP packet.
    #[default]
    Ip,
    /// The IP packet and the overhead of Ethernet: header, checksum, preamble and gap, 38
    /// bytes.
    Ethernet,
    /// The IP packet and this number of bytes, which may be negative.
    Overhead(i32),
    /// The IP packet and this number of bytes, in whole ATM cells.
    Cells(i32),
}

impl Accounting {
    /// Bytes added to the IP length of each packet.
    pub const fn overhead_bytes(&self) -> i32 {
        match self {
            Accounting::Ip => 0,
            Accounting::Ethernet => 38,
            Accounting::Overhead(bytes) | Accounting::Cells(bytes) => *bytes,
        }
    }

    /// Whether packets travel in ATM cells.
    pub const fn in_cells(&self) -> bool {
        matches!(self, Accounting::Cells(_))
    }
}

/// Settings of `fq`; those that are `None` are computed from the pipes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FqSettings {
    /// Packets in the qdisc.
    pub limit_packets: Option<u32>,
    /// Packets in one flow.
    pub flow_limit_packets: Option<u32>,
    /// Largest delay until the delivery time.
    pub horizon: Option<Duration>,
    /// Hash buckets, a power of two.
    pub buckets: Option<u32>,
    /// Bits of the flow identifier that are used.
    pub orphan_mask: Option<u32>,
}

/// What a vnode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An address that processes of one network namespace have.
    #[default]
    Process,
    /// A network namespace of its own, with `lo`, `eth0` and a default route.
    Machine,
}

/// A prefix with its vnodes and their access links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name, unique in the file.
    pub name: Name,
    /// The group that contains it.
    pub parent: Option<GroupId>,
    /// Addresses of the group.
    pub prefix: IpNet,
    /// What its vnodes are.
    pub kind: Kind,
    /// Its vnodes.
    pub vnodes: Vnodes,
    /// From a vnode into the network.
    pub up: Pipe,
    /// From the network to a vnode.
    pub down: Pipe,
    /// The filter of its vnodes.
    pub filtering: Filtering,
}

/// The vnodes of a group, without nested groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vnodes {
    /// None: the group only contains other groups.
    None,
    /// The first usable addresses of the prefix: without its network and broadcast address,
    /// and without addresses of nested groups.
    Count(u32),
    /// These addresses.
    List(Vec<IpAddr>),
}

/// One direction of an access link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pipe {
    /// Rate; `None` if unlimited.
    pub rate: Option<Rate>,
    /// Propagation delay, one way.
    pub latency: Duration,
    /// Limit of the queue in front of the pipe.
    pub queue: Queue,
    /// Bytes that may pass at once after the pipe was idle.
    pub burst_bytes: u64,
    /// Jitter, loss and other impairments.
    pub impairments: Impairments,
}

impl Default for Pipe {
    /// An unlimited pipe; once it has a rate, the queue holds 50 packets, as in Dummynet.
    fn default() -> Self {
        Self {
            rate: None,
            latency: Duration::ZERO,
            queue: Queue::Packets(50),
            burst_bytes: 0,
            impairments: Impairments::default(),
        }
    }
}

/// The link between two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLink {
    /// One side; the source of a one-way link.
    pub a: GroupId,
    /// The other side; the destination of a one-way link.
    pub b: GroupId,
    /// Whether only the direction from `a` to `b` exists.
    pub one_way: bool,
    /// One-way latency.
    pub latency: Duration,
    /// Jitter, loss and other impairments, separately for each direction.
    pub impairments: Impairments,
    /// Capacity of each direction, which all vnodes of a host share.
    pub rate: Option<Rate>,
    /// Limit of the queue in front of it.
    pub queue: Queue,
}

/// A machine that carries vnodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name, unique in the file.
    pub name: Name,
    /// Its interface towards the other hosts.
    pub interface: String,
    /// Its addresses on that interface, at most one of each family; the other hosts use them
    /// as gateways to its vnodes.
    pub addresses: Vec<IpAddr>,
    /// Speed of its link to the others, for the placement report.
    pub link: Option<Rate>,
    /// Groups of which it carries all vnodes, including nested groups.
    pub groups: Vec<GroupId>,
    /// Ranges of vnodes that it carries.
    pub nodes: Vec<AddrRange>,
}

impl Host {
    /// Whether the file names the vnodes that it carries.
    pub fn says_what(&self) -> bool {
        !self.groups.is_empty() || !self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests;
