//! What one host must do for a topology: pure data, made without touching the
//! kernel, printable with `--dry-run`.
mod delta;
mod entries;
mod fq;
mod impair;
mod room;
mod runs;
mod tables;

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use emu_common::{
    layout::{Direction, MAX_GROUPS, MAX_VNODES, Pipe, Stage, pipe_flag},
    model::{delay, filter, loss, random, rate},
    names::IFB,
};
use ipnet::IpNet;
use serde::Serialize;

pub use delta::{Anew, Current, Delta, Loaded, Store};
pub(crate) use delta::{next_generation, stage_at, stage_settings};
pub use entries::{Entries, Way};
pub(crate) use entries::{LIMIT_IN_BYTES, Service, serve};
pub use fq::FqPlan;
pub(crate) use impair::put as put_impairments;
pub(crate) use room::Places;
use room::Reserve;
pub use room::Room;
pub use runs::{addresses, covering_prefixes, runs};
pub use tables::{TableError, jitter_tables, read_distribution};

use self::entries::PlanLink;
use crate::topology::{Accounting, Addressing, GroupId, LinkWay, Topology};

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
    #[serde(skip)]
    up_stage: Option<Stage>,
    #[serde(skip)]
    down_stage: Option<Stage>,
}

impl PlanGroup {
    fn new(group: &crate::topology::Group, accounting: &Accounting) -> Self {
        let pipe = |pipe: &crate::topology::Pipe| {
            let service = Service {
                rate: pipe.rate,
                queue: pipe.queue,
                burst_bytes: pipe.burst_bytes,
            };
            let mut entry = entries::pipe(&service, pipe.latency, accounting);
            entries::filtering(&mut entry, &group.filtering);
            entry
        };
        Self {
            name: group.name.clone(),
            local_vnodes: 0,
            up: pipe(&group.up),
            down: pipe(&group.down),
            up_stage: impair::stage(&group.up.impairments),
            down_stage: impair::stage(&group.down.impairments),
        }
    }
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
    /// Seed of all random decisions.
    pub seed: u64,
    /// Whether the topology says which; else a change in place keeps the one before.
    pub has_seed: bool,
    /// Files of the topology's own jitter distributions.
    pub distributions: Vec<PathBuf>,
    #[serde(skip)]
    links: Vec<PlanLink>,
    /// The link from each group to each group, row by row.
    #[serde(skip)]
    pair_ways: Vec<Option<LinkWay>>,
    /// Local vnodes.
    #[serde(skip)]
    pub vnodes: Vec<PlanVnode>,
    /// What the events need beside.
    #[serde(skip)]
    reserve: Reserve,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
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
        let accounting = &topology.accounting;
        let mut groups: Vec<PlanGroup> = topology
            .groups
            .iter()
            .map(|group| PlanGroup::new(group, accounting))
            .collect();
        for vnode in &vnodes {
            groups[vnode.group].local_vnodes += 1;
        }
        let links: Vec<PlanLink> = topology
            .links
            .iter()
            .map(|link| {
                let ends = [link.a, link.b].map(|g| topology.groups[g].name.as_str());
                PlanLink::new(link, ends, accounting)
            })
            .collect();
        let pair_ways = topology.pair_links();
        let (interfaces, routes) = reach(topology, host.as_deref());
        let fq = FqPlan::for_groups(
            &topology.fq,
            &groups,
            (&links, &pair_ways),
            topology.mtu_bytes,
        );
        let reserve = Reserve::of(topology, &vnodes);
        Ok(Self {
            reserve,
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
            seed: topology.seed.unwrap_or_else(fresh_seed),
            has_seed: topology.seed.is_some(),
            distributions: topology.distributions.clone(),
            links,
            pair_ways,
            vnodes,
        })
    }

    /// The features of the data path that the plan needs,
    /// [`emu_common::layout::feature`] bits.
    pub fn features(&self) -> u32 {
        entries::features(self) | self.reserve.features
    }

    /// Pipes in the maps: two for each vnode, and the capacities between groups.
    pub fn pipe_count(&self) -> u32 {
        let capacities = self.links.iter().filter(|l| l.pipe.is_some()).count();
        (self.vnodes.len() * 2 + capacities * 2) as u32
    }

    /// Whether some vnode or link corrupts packets.
    pub fn corrupts(&self) -> bool {
        let stages = self.groups.iter().flat_map(|g| [g.up_stage, g.down_stage]);
        let links = self.links.iter().map(|l| l.stage);
        self.reserve.corrupts || stages.chain(links).flatten().any(|s| s.corrupt != 0)
    }

    /// Slots that the departure ring needs: the packet limits of all pipes.
    pub fn ring_slots(&self) -> u32 {
        let capacities = self.links.iter().filter_map(|l| l.pipe);
        let shared = capacities.fold(0u32, |sum, pipe| {
            sum.saturating_add(pipe.limit_packets.saturating_mul(2))
        });
        self.groups.iter().fold(shared, |sum, group| {
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
        self.pair_ways[from * self.groups.len() + to]
            .map_or(0, |way| self.links[way.link].latency_ns)
    }

    /// Stages that a packet passes from one group to another.
    fn stages(&self, from: GroupId, to: GroupId) -> impl Iterator<Item = Stage> {
        let between = self.pair_ways[from * self.groups.len() + to]
            .and_then(|way| self.links[way.link].stage);
        let ends = [self.groups[from].up_stage, self.groups[to].down_stage];
        ends.into_iter().chain([between]).flatten()
    }

    /// Whether packets from one group to another may be lost on idle lines, or
    /// arrive damaged.
    pub fn loses(&self, from: GroupId, to: GroupId) -> bool {
        self.stages(from, to)
            .any(|stage| stage.loss_kind != loss::NONE || stage.corrupt != 0)
    }

    /// Largest random offset of a packet's one-way latency between two groups, in
    /// nanoseconds; four standard deviations where there is no largest one.
    pub fn jitter_ns(&self, from: GroupId, to: GroupId) -> u64 {
        self.stages(from, to)
            .map(|stage| {
                let skipped = if stage.reorder != 0 {
                    self.pair_ns(from, to)
                } else {
                    0
                };
                fq::jitter_reach_ns(&stage, 4).saturating_add(skipped)
            })
            .sum()
    }

    /// Whether the vnodes of a group let in nothing unsolicited.
    pub fn filters(&self, group: GroupId) -> bool {
        self.groups[group].up.flags >> pipe_flag::FILTER_SHIFT != filter::OPEN
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

/// Another seed with each load.
pub(crate) fn fresh_seed() -> u64 {
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    // Kept to what a file can say, so that it can be repeated.
    random::mix(time ^ u64::from(std::process::id())) >> 1
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
