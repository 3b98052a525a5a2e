//! What one host must do for a topology: pure data, made without touching the
//! kernel, printable with `--dry-run`.
mod capacity;
mod courses;
mod diff;
mod entries;
mod error;
mod fq;
mod impair;
mod lookup;
mod ranges;
mod schedules;
mod tables;
mod text;

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, time::Duration};

use emu_common::{
    layout::{ImpairmentState, MAX_GROUPS, MAX_VNODES, Pipe},
    model::random,
};
use ipnet::IpNet;
use serde::Serialize;

use capacity::Headroom;
pub use capacity::MapCapacity;
pub use capacity::SlotAllocator;
pub use courses::{Course, Followers};
pub use diff::{Current, Loaded, MapWrite, PlanDiff, ReloadReason};
pub use diff::{next_generation, stage_at, stage_settings};
pub use entries::{Entries, Way};
pub use entries::{LIMIT_IN_BYTES, Service, serve};
pub use error::PlanError;
pub use fq::{FqPlan, TooLate};
pub use impair::put as put_impairments;
pub use ranges::{address_ranges, covering_prefixes};
pub use schedules::Recordings;
pub use tables::{TableError, jitter_tables, read_distribution};

use self::entries::PlanLink;
use crate::topology::{self, Accounting, GroupId, LinkWay, Part, Topology, Trace};
pub use crate::topology::{Addressing, Kind, Loopback, addresses};

/// Most vnodes of a host that get aliases where the file does not say how: for each new one
/// the kernel walks the list of those that are there.
const MOST_ALIASES: usize = 4_096;

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
    /// What its vnodes are.
    pub kind: Kind,
    /// Vnodes on this host.
    pub local_vnodes: usize,
    #[serde(skip)]
    up: Pipe,
    #[serde(skip)]
    down: Pipe,
    #[serde(skip)]
    up_stage: Option<ImpairmentState>,
    #[serde(skip)]
    down_stage: Option<ImpairmentState>,
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
            name: group.name.to_string(),
            kind: group.kind,
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

/// The pair of groups with the shortest latency of those that have less than the network
/// between the hosts: packets from one to the other arrive late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatePair {
    /// Name of the sender's group, on this host.
    pub from: String,
    /// Name of the receiver's group, on another host.
    pub to: String,
    /// Latency of the sender's line and between the groups, in nanoseconds.
    pub latency_ns: u64,
    /// Number of pairs with less latency than the network.
    pub count: usize,
}

/// All that the kernel must be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Name of the topology.
    pub name: String,
    /// This host's name in the topology.
    pub host: Option<String>,
    /// Number of hosts where it is another than the file's.
    pub size: Option<usize>,
    /// Interfaces that carry vnode traffic.
    pub interfaces: Vec<String>,
    /// MTU of these interfaces in bytes.
    pub mtu_bytes: u32,
    /// How vnodes get their addresses.
    #[serde(skip)]
    pub addressing: Addressing,
    /// Loopback of the programs of vnodes.
    #[serde(skip)]
    pub loopback: Loopback,
    /// First and last address of each run of local vnodes that are no machines.
    #[serde(rename = "address_runs")]
    pub address_ranges: Vec<(IpAddr, IpAddr)>,
    /// Routes to vnodes on other hosts.
    pub routes: Vec<PlanRoutes>,
    /// One-way latency of the network between the hosts, in nanoseconds.
    pub host_latency_ns: u64,
    /// The worst pair of groups, this host's and another's, whose latency is less than that.
    #[serde(skip)]
    pub late_pair: Option<LatePair>,
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
    /// Traces, whose rows the kernel programs follow.
    #[serde(skip)]
    pub traces: Vec<Trace>,
    /// Rates of events, which they follow too.
    #[serde(skip)]
    pub courses: Vec<Course>,
    #[serde(skip)]
    links: Vec<PlanLink>,
    /// The link from each group to each group, row by row.
    #[serde(skip)]
    pair_ways: Vec<Option<LinkWay>>,
    /// Local vnodes.
    #[serde(skip)]
    pub vnodes: Vec<PlanVnode>,
    /// Additional resources for events.
    #[serde(skip)]
    reserve: Headroom,
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
        let (parts, away) = slice(topology, host.as_deref());
        let count: u128 = parts.iter().map(|(_, s)| topology::range_total(s)).sum();
        if count > u128::from(MAX_VNODES) {
            return Err(PlanError::TooManyVnodes {
                count: count as usize,
            });
        }
        let vnodes: Vec<PlanVnode> = local_vnodes(&parts).collect();
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
        let remote: BTreeSet<GroupId> = away
            .iter()
            .flat_map(|(_, parts)| parts.iter().map(|(group, _)| *group))
            .collect();
        let (interfaces, routes) = reach(topology, host.as_deref(), away);
        let fq = FqPlan::for_groups(
            &topology.fq,
            &groups,
            (&links, &pair_ways),
            topology.mtu_bytes,
        )?;
        FqPlan::check_events(topology, &groups)?;
        let reserve = Headroom::of(topology, &vnodes);
        let processes = parts
            .into_iter()
            .filter(|(group, _)| topology.groups[*group].kind == Kind::Process);
        let mut plan = Self {
            reserve,
            name: topology.name.to_string(),
            host,
            size: topology.size,
            interfaces,
            mtu_bytes: topology.mtu_bytes,
            addressing: topology.addressing.unwrap_or(match vnodes.len() {
                ..=MOST_ALIASES => Addressing::Alias,
                _ => Addressing::AnyIp,
            }),
            loopback: topology.loopback,
            address_ranges: topology::merge_adjacent(
                processes.flat_map(|(_, spans)| spans).collect(),
            ),
            routes,
            host_latency_ns: topology.host_latency.map_or(0, nanoseconds),
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
            traces: topology.traces.clone(),
            courses: Course::all(topology, &vnodes),
            late_pair: None,
            links,
            pair_ways,
            vnodes,
        };
        plan.late_pair = plan.late_pair_to(&remote);
        Ok(plan)
    }
}

/// Another seed with each load.
pub fn fresh_seed() -> u64 {
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    // Kept to what a file can say, so that it can be repeated.
    random::mix(time ^ u64::from(std::process::id())) >> 1
}

fn pick_host(topology: &Topology, host: Option<&str>) -> Result<Option<String>, PlanError> {
    let names: Vec<String> = topology.hosts.iter().map(|h| h.name.to_string()).collect();
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

/// What a host carries, and what each other one does, by its index.
fn slice(topology: &Topology, host: Option<&str>) -> (Vec<Part>, Vec<(usize, Vec<Part>)>) {
    let own = host.and_then(|name| topology.hosts.iter().position(|h| h.name == name));
    let Some(own) = own else {
        let all = (0..topology.groups.len()).map(|g| (g, topology.group_spans(g)));
        return (all.collect(), Vec::new());
    };
    let mut away: Vec<(usize, Vec<Part>)> = topology.slices().into_iter().enumerate().collect();
    (away.remove(own).1, away)
}

fn local_vnodes(parts: &[Part]) -> impl Iterator<Item = PlanVnode> + '_ {
    parts.iter().flat_map(|(group, spans)| {
        let addresses = spans.iter().flat_map(|span| addresses(*span));
        addresses.map(|address| PlanVnode {
            address,
            group: *group,
        })
    })
}

/// Interfaces of a host and its routes to the vnodes of the others.
fn reach(
    topology: &Topology,
    host: Option<&str>,
    away: Vec<(usize, Vec<Part>)>,
) -> (Vec<String>, Vec<PlanRoutes>) {
    let mut interfaces = vec!["lo".to_owned()];
    let Some(own) = host.and_then(|name| topology.hosts.iter().find(|h| h.name == name)) else {
        return (interfaces, Vec::new());
    };
    if !interfaces.contains(&own.interface) {
        interfaces.push(own.interface.clone());
    }
    let routes = away.into_iter().flat_map(|(other, parts)| {
        let runs = topology::merge_adjacent(parts.into_iter().flat_map(|(_, s)| s).collect());
        let prefixes = covering_prefixes(&runs);
        let gateways = topology.hosts[other].addresses.iter();
        gateways.map(move |gateway| PlanRoutes {
            interface: own.interface.clone(),
            gateway: *gateway,
            prefixes: prefixes
                .iter()
                .filter(|p| p.addr().is_ipv4() == gateway.is_ipv4())
                .copied()
                .collect(),
        })
    });
    let routes = routes
        .filter(|routes| !routes.prefixes.is_empty())
        .collect();
    (interfaces, routes)
}

#[cfg(test)]
mod tests;
