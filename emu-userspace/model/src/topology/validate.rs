//! Checks that need the whole topology: prefixes, counts, hosts.
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use emu_common::layout::MAX_GROUPS;
use ipnet::IpNet;

use super::{
    Queue, Topology, Vnodes,
    hosts::ReadHost,
    ranges::{self, AddrRange, Owners},
    reader::Field,
    sections::{Groups, most_ring_slots},
};

pub(super) fn check(
    root: &Field<'_>,
    topology: &Topology,
    groups: &Groups<'_>,
    hosts: &[ReadHost<'_>],
) {
    if groups.list.len() > MAX_GROUPS as usize {
        root.report(
            root.problem(format!("there are {} groups", groups.list.len()))
                .expected(format!("at most {MAX_GROUPS}")),
        );
        return;
    }
    prefixes(topology, groups);
    vnodes(topology, groups);
    queues(root, topology);
    // A group with errors would look like vnodes without a host.
    if groups.complete {
        host_names(hosts);
        placement(topology, hosts);
    }
}

/// Nested prefixes are inside their parents' prefixes; all others are disjoint.
fn prefixes(topology: &Topology, groups: &Groups<'_>) {
    for read in &groups.list {
        let Some(parent) = read.group.parent.map(|p| &topology.groups[p]) else {
            continue;
        };
        let prefix = read.group.prefix;
        if !parent.prefix.contains(&prefix) || parent.prefix == prefix {
            let problem = read.prefix.problem(format!(
                "{prefix} of `{}` is not inside {} of the group that contains it, `{}`",
                read.group.name, parent.prefix, parent.name
            ));
            read.prefix
                .report(problem.expected(format!("a longer prefix inside {}", parent.prefix)));
        }
    }
    // Sorted by address and length, a prefix comes after the prefixes that contain it.
    let mut order: Vec<usize> = (0..groups.list.len()).collect();
    order.sort_by_key(|g| {
        let prefix = topology.groups[*g].prefix;
        (prefix.network(), prefix.prefix_len())
    });
    let mut open: Vec<usize> = Vec::new();
    for group in order {
        let prefix = topology.groups[group].prefix;
        open.retain(|o| topology.groups[*o].prefix.contains(&prefix));
        // One overlap of a group is enough: it has to move.
        let apart = |around: &usize| {
            !is_inside(topology, group, *around) && !is_inside(topology, *around, group)
        };
        if let Some(around) = open.iter().copied().find(apart) {
            overlap(topology, groups, group.min(around), group.max(around));
        }
        // Of equal prefixes one stays open for all.
        open.retain(|o| topology.groups[*o].prefix != prefix || is_inside(topology, group, *o));
        open.push(group);
    }
}

fn overlap(topology: &Topology, groups: &Groups<'_>, first: usize, second: usize) {
    let (a, b) = (&topology.groups[first], &groups.list[second]);
    b.prefix.report(
        b.prefix
            .problem(format!(
                "{} of `{}` overlaps {} of `{}`",
                b.group.prefix, b.group.name, a.prefix, a.name
            ))
            .hint("nest the smaller group in the larger one's `groups`, or move it"),
    );
}

/// Whether a group is nested in another, at any depth.
fn is_inside(topology: &Topology, group: usize, around: usize) -> bool {
    std::iter::successors(topology.groups[group].parent, |g| {
        topology.groups[*g].parent
    })
    .any(|g| g == around)
}

/// Addresses of a prefix that no vnode has: network and broadcast, or the subnet's routers;
/// empty for a prefix of one or two addresses.
fn reserved(prefix: IpNet) -> Vec<IpAddr> {
    let bits = prefix.max_prefix_len() - prefix.prefix_len();
    match (bits > 1, prefix.addr().is_ipv4()) {
        (true, true) => vec![prefix.network(), prefix.broadcast()],
        (true, false) => vec![prefix.network()],
        (false, _) => Vec::new(),
    }
}

/// Usable addresses of a prefix, without those of the nested groups, `inner`.
fn room(topology: &Topology, group: usize, inner: &[usize]) -> u128 {
    let prefix = topology.groups[group].prefix;
    let bits = prefix.max_prefix_len() - prefix.prefix_len();
    let all = 1u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX);
    let reserved = reserved(prefix);
    let usable = |net: &IpNet| {
        let bits = net.max_prefix_len() - net.prefix_len();
        1u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX)
    };
    let nested: u128 = inner
        .iter()
        .map(|id| &topology.groups[*id])
        .filter(|g| prefix.contains(&g.prefix))
        .map(|g| {
            let shared = reserved.iter().filter(|a| g.prefix.contains(*a)).count();
            usable(&g.prefix) - shared as u128
        })
        .sum();
    all.saturating_sub(reserved.len() as u128)
        .saturating_sub(nested)
}

fn vnodes(topology: &Topology, groups: &Groups<'_>) {
    let mut owner: HashMap<IpAddr, usize> = HashMap::new();
    let mut inner: Vec<Vec<usize>> = vec![Vec::new(); topology.groups.len()];
    for (id, group) in topology.groups.iter().enumerate() {
        if let Some(parent) = group.parent {
            inner[parent].push(id);
        }
    }
    for (id, read) in groups.list.iter().enumerate() {
        match &read.group.vnodes {
            Vnodes::None => {}
            Vnodes::Count(count) => {
                let room = room(topology, id, &inner[id]);
                if u128::from(*count) > room
                    && let Some(nodes) = &read.nodes
                {
                    nodes.report(
                        nodes
                            .problem(format!(
                                "{count} nodes do not fit {}, which has {room} usable addresses",
                                read.group.prefix
                            ))
                            .hint("use a shorter prefix, or fewer nodes"),
                    );
                }
            }
            Vnodes::List(_) => {
                for field in &read.addresses {
                    listed(topology, id, field, &mut owner);
                }
            }
        }
    }
}

/// One address of an `addresses` list.
fn listed(topology: &Topology, id: usize, field: &Field<'_>, owner: &mut HashMap<IpAddr, usize>) {
    let Some(address) = field.text().and_then(|t| t.parse::<IpAddr>().ok()) else {
        return;
    };
    let group = &topology.groups[id];
    if !group.prefix.contains(&address) {
        field.report(
            field
                .problem(format!(
                    "{address} is outside {} of `{}`",
                    group.prefix, group.name
                ))
                .expected(format!("addresses inside {}", group.prefix)),
        );
    } else if reserved(group.prefix).contains(&address) {
        field.report(field.problem(format!(
            "{address} is the first or last address of {}, which no node can have",
            group.prefix
        )));
    } else if let Some(inner) = topology.group_of(address).filter(|g| *g != id) {
        field.report(field.problem(format!(
            "{address} belongs to the nested group `{}`",
            topology.groups[inner].name
        )));
    }
    if owner.insert(address, id).is_some() {
        field.report(field.problem(format!("{address} is listed twice")));
    }
}

/// The packet queues of all vnodes share one departure log.
fn queues(root: &Field<'_>, topology: &Topology) {
    let packets = |queue: Queue| match queue {
        Queue::Packets(n) => u64::from(n),
        Queue::Bytes(_) | Queue::Time(_) => 0,
    };
    let slots: u64 = (0..topology.groups.len())
        .map(|id| {
            let group = &topology.groups[id];
            (packets(group.up.queue) + packets(group.down.queue))
                .saturating_mul(topology.vnode_count(id) as u64)
        })
        .fold(0, u64::saturating_add);
    if slots > most_ring_slots() {
        root.report(
            root.problem(format!("the queues of all vnodes hold {slots} packets"))
                .expected(format!("at most {}", most_ring_slots()))
                .hint("give large queues in bytes or time: they do not count"),
        );
    }
}

fn host_names(hosts: &[ReadHost<'_>]) {
    let mut names = HashSet::new();
    for read in hosts {
        let name = &read.host.name;
        if !names.insert(name) {
            read.field
                .report(read.field.problem(format!("there are two hosts `{name}`")));
        }
    }
}

/// Checks that every vnode is on exactly one host.
fn placement(topology: &Topology, hosts: &[ReadHost<'_>]) {
    if hosts.is_empty() || hosts.len() != topology.hosts.len() {
        return;
    }
    let mut owners = Owners::default();
    for (id, read) in hosts.iter().enumerate() {
        let mine = topology.said(&read.host);
        if mine.is_empty() && (read.host.says_what() || topology.placement.is_none()) {
            read.field.report(
                read.field
                    .problem(format!("the host `{}` carries no vnodes", read.host.name))
                    .expected(
                        "`groups: [...]` or `nodes: [...]` that have vnodes, or `placement: block` \
                         at the top",
                    ),
            );
        }
        let clashes: Vec<(AddrRange, usize)> = mine
            .into_iter()
            .flat_map(|(_, spans)| spans)
            .flat_map(|span| owners.take(span, id))
            .collect();
        // One message for all vnodes, since a whole group would fill the screen.
        if let Some(((address, _), other)) = clashes.first() {
            let more = match clashes.iter().map(|(span, _)| ranges::length(span)).sum() {
                1u128 => String::new(),
                n => format!(", and {} more", n - 1),
            };
            read.field.report(read.field.problem(format!(
                "the vnode {address} is on two hosts, `{}` and `{}`{more}",
                hosts[*other].host.name, read.host.name
            )));
        }
    }
    for read in hosts {
        let mut ends = read.host.nodes.iter().flat_map(|(a, b)| [a, b]);
        if let Some(address) = ends.find(|a| !topology.is_vnode(**a)) {
            read.field.report(read.field.problem(format!(
                "`nodes` of the host `{}` names {address}, which is not a vnode",
                read.host.name
            )));
        }
    }
    let open = hosts.iter().any(|read| !read.host.says_what());
    if let (Some(_), true) = (topology.placement, open) {
        return;
    }
    let owned = owners.spans();
    let missing = (0..topology.groups.len())
        .flat_map(|g| topology.group_spans(g))
        .find_map(|span| ranges::without(span, &owned).first().map(|(a, _)| *a));
    if let (Some(address), Some(read)) = (missing, hosts.first()) {
        let count = (topology.vnode_total() as u128).saturating_sub(ranges::total(&owned));
        read.field.report(
            read.field
                .problem(format!(
                    "{count} vnodes are on no host, beginning with {address}"
                ))
                .hint("name their groups under some host's `groups`"),
        );
    }
}
