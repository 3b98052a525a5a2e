//! What one host must do for a topology: pure data, made without touching the
//! kernel, printable with `--dry-run`.
mod fq;
mod runs;

use std::{fmt, net::IpAddr, time::Duration};

use emu_common::{
    layout::{Direction, MAX_GROUPS, MAX_VNODES, NO_LIMIT_NS, Pipe},
    model::{delay, queue, rate},
    names::IFB,
};
use ipnet::IpNet;
use serde::Serialize;

pub use fq::FqPlan;
pub use runs::{addresses, covering_prefixes, runs};

use crate::topology::{Addressing, GroupId, Queue, Topology};

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
    /// More groups than the tables hold.
    #[error("{count} groups, and a topology has {MAX_GROUPS} at most")]
    TooManyGroups {
        /// Groups in the file.
        count: usize,
    },
}

/// A local vnode. Its index in [`Plan::vnodes`] is its index in the maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PlanVnode {
    /// Address.
    pub address: IpAddr,
    /// Index of its leaf group.
    pub group: GroupId,
}

/// A group: its name and the pipes of its vnodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanGroup {
    /// Name.
    pub name: String,
    /// Vnodes on this host.
    pub local_vnodes: usize,
    #[serde(skip)]
    up: Pipe,
    #[serde(skip)]
    down: Pipe,
}

/// Routes to the vnodes of another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanRoutes {
    /// Our interface towards it.
    pub interface: String,
    /// Its address.
    pub gateway: IpAddr,
    /// Its vnodes.
    pub prefixes: Vec<IpNet>,
}

/// All that the kernel must be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Name of the topology.
    pub name: String,
    /// This host's name in the topology.
    pub host: Option<String>,
    /// Interfaces that carry vnode traffic.
    pub interfaces: Vec<String>,
    /// MTU of these interfaces in bytes.
    pub mtu_bytes: u32,
    /// How vnodes get their addresses.
    #[serde(skip)]
    pub addressing: Addressing,
    /// First and last address of each run of local vnodes.
    pub address_runs: Vec<(IpAddr, IpAddr)>,
    /// Routes to vnodes on other hosts.
    pub routes: Vec<PlanRoutes>,
    /// Settings of fq.
    pub fq: FqPlan,
    /// Groups, indexed as in the topology.
    pub groups: Vec<PlanGroup>,
    /// Prefix of every group, for the longest-prefix match.
    pub group_prefixes: Vec<(IpNet, GroupId)>,
    /// One-way latency from each group to each group in nanoseconds, row by row.
    #[serde(skip)]
    pub pair_latency_ns: Vec<u64>,
    /// Local vnodes.
    #[serde(skip)]
    pub vnodes: Vec<PlanVnode>,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The map entry of a pipe, without its place in the ring.
fn pipe_entry(pipe: &crate::topology::Pipe, overhead_bytes: i32) -> Pipe {
    let ns_per_byte_q20 = pipe.rate.map_or(0, |r| rate::ns_per_byte_q20(r.0));
    let (limit_packets, limit_ns) = match pipe.queue {
        // An unlimited line has no queue to fill.
        _ if pipe.rate.is_none() => (0, NO_LIMIT_NS),
        Queue::Packets(packets) => (packets, NO_LIMIT_NS),
        Queue::Bytes(bytes) => (0, queue::bytes_as_ns(ns_per_byte_q20, bytes)),
        Queue::Time(time) => (0, nanoseconds(time)),
    };
    Pipe {
        ns_per_byte_q20,
        latency_ns: nanoseconds(pipe.latency),
        limit_ns,
        limit_packets,
        burst_ns: queue::bytes_as_ns(ns_per_byte_q20, pipe.burst_bytes),
        overhead_bytes,
        ..Pipe::default()
    }
}

impl Plan {
    /// Plans what `host` must do; without a name, the only host or all vnodes.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(topology: &Topology, host: Option<&str>) -> Result<Self, PlanError> {
        let host = pick_host(topology, host)?;
        if topology.groups.len() > MAX_GROUPS as usize {
            return Err(PlanError::TooManyGroups {
                count: topology.groups.len(),
            });
        }
        let vnodes = local_vnodes(topology, host.as_deref());
        if vnodes.len() > MAX_VNODES as usize {
            return Err(PlanError::TooManyVnodes {
                count: vnodes.len(),
            });
        }
        let overhead_bytes = topology.accounting.overhead_bytes();
        let mut groups: Vec<PlanGroup> = topology
            .groups
            .iter()
            .map(|group| PlanGroup {
                name: group.name.clone(),
                local_vnodes: 0,
                up: pipe_entry(&group.up, overhead_bytes),
                down: pipe_entry(&group.down, overhead_bytes),
            })
            .collect();
        for vnode in &vnodes {
            groups[vnode.group].local_vnodes += 1;
        }
        let pair_latency_ns = topology
            .pair_latencies()
            .into_iter()
            .map(nanoseconds)
            .collect::<Vec<u64>>();
        let (interfaces, routes) = reach(topology, host.as_deref());
        let fq = FqPlan::for_groups(&topology.fq, &groups, &pair_latency_ns, topology.mtu_bytes);
        Ok(Self {
            name: topology.name.clone(),
            host,
            interfaces,
            mtu_bytes: topology.mtu_bytes,
            addressing: topology.addressing,
            address_runs: runs(vnodes.iter().map(|v| v.address)),
            routes,
            fq,
            groups,
            group_prefixes: topology
                .groups
                .iter()
                .enumerate()
                .map(|(id, group)| (group.prefix, id))
                .collect(),
            pair_latency_ns,
            vnodes,
        })
    }

    /// Pipe entries in map order: up and down of vnode 0, of vnode 1, …
    pub fn pipes(&self) -> impl Iterator<Item = Pipe> + '_ {
        let mut ring_base = 0;
        self.vnodes.iter().flat_map(move |vnode| {
            let group = &self.groups[vnode.group];
            [group.up, group.down].map(|mut pipe| {
                pipe.ring_base = ring_base;
                ring_base += pipe.limit_packets;
                pipe
            })
        })
    }

    /// Slots that the departure ring needs: the packet limits of all pipes.
    pub fn ring_slots(&self) -> u32 {
        self.groups.iter().fold(0u32, |sum, group| {
            let each = group
                .up
                .limit_packets
                .saturating_add(group.down.limit_packets);
            sum.saturating_add(each.saturating_mul(group.local_vnodes as u32))
        })
    }

    /// Whether a group has IPv4 addresses.
    pub fn is_ipv4(&self, group: GroupId) -> bool {
        let of_group = |(_, id): &&(IpNet, GroupId)| *id == group;
        self.group_prefixes
            .iter()
            .find(of_group)
            .is_some_and(|(prefix, _)| prefix.addr().is_ipv4())
    }

    /// Pipe of a group's vnodes in one direction.
    pub fn pipe(&self, group: GroupId, direction: Direction) -> &Pipe {
        match direction {
            Direction::Up => &self.groups[group].up,
            Direction::Down => &self.groups[group].down,
        }
    }

    /// Latency between two groups, one way, in nanoseconds.
    pub fn pair_ns(&self, from: GroupId, to: GroupId) -> u64 {
        self.pair_latency_ns[from * self.groups.len() + to]
    }

    /// One-way time of a packet of `ip_bytes` through idle lines, in nanoseconds.
    pub fn idle_one_way_ns(&self, from: GroupId, to: GroupId, ip_bytes: u32) -> u64 {
        let (up, down) = (
            self.pipe(from, Direction::Up),
            self.pipe(to, Direction::Down),
        );
        let serialisation = |pipe: &Pipe| {
            rate::serialisation_ns(
                pipe.ns_per_byte_q20,
                rate::charged_bytes(ip_bytes, pipe.overhead_bytes),
            )
        };
        delay::idle_one_way_ns(
            serialisation(up),
            up.latency_ns,
            self.pair_ns(from, to),
            serialisation(down),
            down.latency_ns,
        )
    }

    /// Round-trip time of an echo of `ip_bytes` through idle lines, in nanoseconds.
    pub fn idle_rtt_ns(&self, from: GroupId, to: GroupId, ip_bytes: u32) -> u64 {
        self.idle_one_way_ns(from, to, ip_bytes) + self.idle_one_way_ns(to, from, ip_bytes)
    }
}

impl fmt::Display for Plan {
    /// What a load would do, as steps that a user of `ip` and `tc` knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or("this host");
        writeln!(f, "{} on {host}: {} vnodes", self.name, self.vnodes.len())?;
        for group in self.groups.iter().filter(|g| g.local_vnodes > 0) {
            writeln!(f, "  group {}: {} vnodes", group.name, group.local_vnodes)?;
        }
        let fq = &self.fq;
        writeln!(
            f,
            "  device {IFB}, mtu {}; on it and on {}: fq limit {} flow_limit {} buckets {} \
             orphan_mask {} horizon {}us",
            self.mtu_bytes,
            self.interfaces.join(", "),
            fq.limit_packets,
            fq.flow_limit_packets,
            fq.buckets,
            fq.orphan_mask,
            fq.horizon_us
        )?;
        for interface in &self.interfaces {
            writeln!(
                f,
                "  {interface}: mtu {}, gso_max_segs 1, segmentation offloads off, clsact, filters emu_egress and \
                 emu_ingress",
                self.mtu_bytes
            )?;
        }
        let how = match self.addressing {
            Addressing::Alias => "aliases on lo",
            Addressing::AnyIp => "local routes for",
        };
        for (first, last) in &self.address_runs {
            writeln!(f, "  {how} {first} to {last}")?;
        }
        for routes in &self.routes {
            for prefix in &routes.prefixes {
                let (gateway, interface) = (routes.gateway, &routes.interface);
                writeln!(f, "  route {prefix} via {gateway} dev {interface}")?;
            }
        }
        Ok(())
    }
}

fn pick_host(topology: &Topology, host: Option<&str>) -> Result<Option<String>, PlanError> {
    let names: Vec<String> = topology.hosts.iter().map(|h| h.name.clone()).collect();
    match host {
        Some(name) if names.iter().any(|n| n == name) => Ok(Some(name.to_owned())),
        Some(name) => Err(PlanError::UnknownHost {
            name: name.to_owned(),
            names,
        }),
        None if names.len() > 1 => Err(PlanError::WhichHost { names }),
        None => Ok(names.into_iter().next()),
    }
}

fn local_vnodes(topology: &Topology, host: Option<&str>) -> Vec<PlanVnode> {
    match host {
        Some(host) => topology
            .host_vnodes(host)
            .into_iter()
            .filter_map(|address| {
                let group = topology.group_of(address)?;
                Some(PlanVnode { address, group })
            })
            .collect(),
        None => (0..topology.groups.len())
            .flat_map(|group| {
                topology
                    .vnode_addresses(group)
                    .map(move |address| PlanVnode { address, group })
            })
            .collect(),
    }
}

/// Interfaces of a host and its routes to the vnodes of the others.
fn reach(topology: &Topology, host: Option<&str>) -> (Vec<String>, Vec<PlanRoutes>) {
    let mut interfaces = vec!["lo".to_owned()];
    let Some(own) = host.and_then(|name| topology.hosts.iter().find(|h| h.name == name)) else {
        return (interfaces, Vec::new());
    };
    if !interfaces.contains(&own.interface) {
        interfaces.push(own.interface.clone());
    }
    let routes = topology
        .hosts
        .iter()
        .filter(|other| other.name != own.name)
        .flat_map(|other| {
            let vnodes = topology.host_vnodes(&other.name);
            let prefixes = covering_prefixes(&runs(vnodes.into_iter()));
            other.addresses.iter().map(move |gateway| PlanRoutes {
                interface: own.interface.clone(),
                gateway: *gateway,
                prefixes: prefixes
                    .iter()
                    .filter(|p| p.addr().is_ipv4() == gateway.is_ipv4())
                    .copied()
                    .collect(),
            })
        })
        .filter(|routes| !routes.prefixes.is_empty())
        .collect();
    (interfaces, routes)
}

#[cfg(test)]
mod tests;
