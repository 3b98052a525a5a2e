//! A checked topology: groups of vnodes with their access lines, the latencies
//! between the groups, and the hosts that carry them.
//!
//! Nothing here touches the kernel. The model is that of P2PLab (Nussbaum and
//! Richard, 2006): one-way delay = wait and serialisation in the source's up
//! pipe + source latency + latency between the groups + wait and serialisation
//! in the destination's down pipe + destination latency.
mod change;
mod error;
mod events;
mod hosts;
mod impair;
mod links;
mod lookup;
pub(crate) mod node;
mod parse;
mod placement;
pub(crate) mod reader;
mod schema;
mod sections;
mod spans;
mod traces;
mod units;
mod validate;
mod words;

use crate::name::Name;
use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

pub use change::{LineChange, PipeChange, Target};
pub use error::{Position, Problem, TopologyErrors};
pub use events::{Event, Happening, Place};
pub use impair::{Aqm, Chance, Filtering, Impairments, Jitter, Loss, Probability, Reorder};
pub use lookup::{CapacityFault, LinkWay};
pub use parse::{MOST_BYTES, load, parse, read_text};
pub use placement::{HostTemplate, Part, Placement, SizeError};
pub(crate) use schema::Name as NameSchema;
pub use schema::json_schema;
pub(crate) use spans::total as span_total;
pub use spans::{Span, addresses, joined};
pub use traces::{Side, Trace};
pub use units::{Queue, Rate, UnitError, probability, rate, size, span, time};

/// Index of a group in [`Topology::groups`].
pub type GroupId = usize;

/// A checked topology file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Name, for people.
    pub name: Name,
    /// How vnodes get their addresses.
    pub addressing: Option<Addressing>,
    /// Which bytes of a packet a pipe charges.
    pub accounting: Accounting,
    /// Largest IP packet in bytes on the interfaces that carry vnodes.
    pub mtu_bytes: u32,
    /// Seed of all random decisions; none: another one with each load.
    pub seed: Option<u64>,
    /// Files of the topology's own jitter distributions, in the order of their
    /// numbers.
    pub distributions: Vec<PathBuf>,
    /// Settings of `fq` that the user wants different from the computed ones.
    pub fq: FqSettings,
    /// Groups in the order of the file, parents before children.
    pub groups: Vec<Group>,
    /// Latencies between groups.
    pub links: Vec<GroupLink>,
    /// Hosts; none means that this host carries all vnodes.
    pub hosts: Vec<Host>,
    /// How vnodes that no host names are dealt out; none: every one is named.
    pub placement: Option<Placement>,
    /// What the hosts are made of, if the file says how many rather than which.
    pub template: Option<HostTemplate>,
    /// Number of hosts where it is another than the file's.
    pub size: Option<usize>,
    /// What happens after `emu start`, in the order of time.
    pub events: Vec<Event>,
    /// Recordings that lines and links follow after `emu start`.
    pub traces: Vec<Trace>,
}

/// How vnodes get their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// One alias on `lo` for each vnode.
    Alias,
    /// One local route for each run of vnodes (AnyIP): faster to load, but the
    /// addresses do not appear in `ip addr`.
    AnyIp,
}

/// Which bytes of a packet a pipe charges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accounting {
    /// The IP packet.
    #[default]
    Ip,
    /// The IP packet and what Ethernet adds on the wire: header, checksum,
    /// preamble and gap, 38 bytes.
    Ethernet,
    /// The IP packet and so many bytes; may be negative.
    Overhead(i32),
    /// The IP packet and so many bytes, in whole ATM cells.
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

/// Settings of `fq`; what is left out is computed from the pipes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FqSettings {
    /// Packets in the qdisc.
    pub limit_packets: Option<u32>,
    /// Packets in one flow.
    pub flow_limit_packets: Option<u32>,
    /// Farthest delivery time ahead.
    pub horizon: Option<Duration>,
    /// Hash buckets, a power of two.
    pub buckets: Option<u32>,
    /// Bits of the flow identifier that are used.
    pub orphan_mask: Option<u32>,
}

/// A prefix with its vnodes and their access lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name, unique in the file.
    pub name: Name,
    /// The group around it.
    pub parent: Option<GroupId>,
    /// Addresses that belong to the group.
    pub prefix: IpNet,
    /// Its vnodes.
    pub vnodes: Vnodes,
    /// From a vnode into the network.
    pub up: Pipe,
    /// From the network to a vnode.
    pub down: Pipe,
    /// What its vnodes' filters let in.
    pub filtering: Filtering,
}

/// The vnodes of a group, those of nested groups not included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vnodes {
    /// None: the group only holds others.
    None,
    /// The first usable addresses of the prefix: without its network and
    /// broadcast address, and without those of nested groups.
    Count(u32),
    /// These addresses.
    List(Vec<IpAddr>),
}

/// One direction of an access line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pipe {
    /// Rate; none for an unlimited line.
    pub rate: Option<Rate>,
    /// Propagation delay, one way.
    pub latency: Duration,
    /// Limit of the queue in front of the line.
    pub queue: Queue,
    /// Bytes that may pass at once after the line was idle.
    pub burst_bytes: u64,
    /// Losses, jitter and their like.
    pub impairments: Impairments,
}

impl Default for Pipe {
    /// An unlimited line; the queue holds 50 packets once a rate is set, as
    /// Dummynet's does.
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
    /// Whether it holds from `a` to `b` only.
    pub one_way: bool,
    /// One-way latency.
    pub latency: Duration,
    /// Losses, jitter and their like, for each direction on its own.
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
    /// Its addresses there, at most one of each family, which the other hosts
    /// route its vnodes of that family to.
    pub addresses: Vec<IpAddr>,
    /// Speed of its link to the others, for what a placement needs of it.
    pub link: Option<Rate>,
    /// Groups of which it carries all vnodes, those of nested groups included.
    pub groups: Vec<GroupId>,
    /// Runs of vnodes that it carries: first and last address.
    pub nodes: Vec<Span>,
}

impl Host {
    /// Whether the file says what it carries.
    pub fn says_what(&self) -> bool {
        !self.groups.is_empty() || !self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests;
