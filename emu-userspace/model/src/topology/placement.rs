//! The host that carries each vnode: stated in the file, or computed in the same way on every
//! host.
use std::{cmp::Reverse, net::IpAddr};

use crate::name::NameTemplate;

use super::{
    GroupId, Host, Topology,
    ranges::{self, AddrRange},
};

/// Distribution of vnodes to the hosts that name none themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// In the order of the file, in equal blocks, one per host.
    Block,
    /// An equal block of each group to every host.
    Spread,
    /// One vnode per host in turn.
    RoundRobin,
    /// Whole groups, the largest first, each to the host with the fewest vnodes.
    ByGroup,
}

impl Placement {
    /// Names in a file.
    pub const NAMES: [(&'static str, Placement); 4] = [
        ("block", Placement::Block),
        ("spread", Placement::Spread),
        ("round-robin", Placement::RoundRobin),
        ("by-group", Placement::ByGroup),
    ];
}

/// A template of hosts, which are numbered from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostTemplate {
    /// Name with the number.
    pub name: NameTemplate,
    /// Interface towards the others.
    pub interface: String,
    /// Addresses of the first host; each following host has the next addresses.
    pub addresses: Vec<IpAddr>,
    /// Speed of each host's link.
    pub link: Option<super::Rate>,
}

impl HostTemplate {
    /// The hosts of the template.
    pub fn hosts(&self, count: usize) -> Vec<Host> {
        (0..u32::try_from(count).unwrap_or(u32::MAX))
            .map(|rank| Host {
                name: self.name.name(rank),
                interface: self.interface.clone(),
                addresses: self
                    .addresses
                    .iter()
                    .map(|first| ranges::after(*first, u128::from(rank)))
                    .collect(),
                link: self.link,
                groups: Vec::new(),
                nodes: Vec::new(),
            })
            .collect()
    }
}

/// Why a topology cannot have a number of hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The topology has no hosts.
    #[error("the topology has no `hosts` section for {wanted} hosts")]
    NoHosts {
        /// Hosts asked for.
        wanted: usize,
    },
    /// The topology has fewer hosts.
    #[error("the topology has {have} hosts, fewer than the {wanted} requested")]
    TooFew {
        /// Hosts of the file.
        have: usize,
        /// Hosts asked for.
        wanted: usize,
    },
    /// The hosts name their vnodes, so none can be left out.
    #[error(
        "the topology assigns vnodes to its {have} hosts, so they cannot be distributed over {wanted}; remove `groups` and `nodes` from the hosts and write `placement: block`"
    )]
    Explicit {
        /// Hosts of the file.
        have: usize,
        /// Hosts asked for.
        wanted: usize,
    },
}

/// The vnodes of a group on one host.
pub type Part = (GroupId, Vec<AddrRange>);

impl Topology {
    /// Ranges of a group's vnodes, in their order, without nested groups.
    pub fn group_spans(&self, group: GroupId) -> Vec<AddrRange> {
        match &self.groups[group].vnodes {
            super::Vnodes::None => Vec::new(),
            super::Vnodes::List(list) => ranges::of_list(list),
            super::Vnodes::Count(count) => {
                let inner = self.groups.iter().filter(|g| g.parent == Some(group));
                let inner = inner.map(|g| g.prefix).collect();
                ranges::usable(self.groups[group].prefix, inner, u128::from(*count))
            }
        }
    }

    /// Whether an address belongs to a vnode.
    pub fn is_vnode(&self, address: IpAddr) -> bool {
        self.group_of(address).is_some_and(|group| {
            let spans = self.group_spans(group);
            spans.iter().any(|(a, b)| *a <= address && address <= *b)
        })
    }

    /// Takes the first `size` hosts of the file, or makes `size` hosts from its template.
    pub fn resize(&mut self, size: usize) -> Result<(), SizeError> {
        if let Some(template) = &self.template {
            self.hosts = template.hosts(size);
        } else {
            let have = self.hosts.len();
            if have == 0 {
                return Err(SizeError::NoHosts { wanted: size });
            }
            if have < size {
                return Err(SizeError::TooFew { have, wanted: size });
            }
            if have > size && self.hosts.iter().any(Host::says_what) {
                return Err(SizeError::Explicit { have, wanted: size });
            }
            self.hosts.truncate(size);
        }
        self.size = Some(size);
        Ok(())
    }

    /// The vnodes that the file assigns to a host.
    pub(super) fn said(&self, host: &Host) -> Vec<Part> {
        if !host.says_what() {
            return Vec::new();
        }
        let nodes = ranges::merge_adjacent(host.nodes.clone());
        self.parts(|group, all| {
            if self.chain(group).iter().any(|g| host.groups.contains(g)) {
                return all.to_vec();
            }
            let named = all
                .iter()
                .flat_map(|span| nodes.iter().filter_map(|run| ranges::common(span, run)));
            named.collect()
        })
    }

    fn parts(&self, mut pick: impl FnMut(GroupId, &[AddrRange]) -> Vec<AddrRange>) -> Vec<Part> {
        (0..self.groups.len())
            .filter_map(|group| {
                let picked = pick(group, &self.group_spans(group));
                (!picked.is_empty()).then_some((group, picked))
            })
            .collect()
    }

    /// The vnodes that the file assigns to no host.
    pub(super) fn rest(&self) -> Vec<Part> {
        let said = self.hosts.iter().flat_map(|host| self.said(host));
        let said = ranges::merge_adjacent(said.flat_map(|(_, spans)| spans).collect());
        self.parts(|_, all| {
            let left = all.iter().flat_map(|span| ranges::without(*span, &said));
            left.collect()
        })
    }

    /// The vnodes of each host, in the order of [`Topology::hosts`]: parts of groups in the
    /// order of the file, as ranges.
    pub fn slices(&self) -> Vec<Vec<Part>> {
        let mut slices: Vec<Vec<Part>> = self.hosts.iter().map(|h| self.said(h)).collect();
        let open: Vec<usize> = (0..self.hosts.len())
            .filter(|i| !self.hosts[*i].says_what())
            .collect();
        let Some(placement) = self.placement.filter(|_| !open.is_empty()) else {
            return slices;
        };
        let dealt = deal(placement, &self.rest(), open.len());
        for (host, parts) in open.into_iter().zip(dealt) {
            slices[host] = parts;
        }
        slices
    }

    /// Index of the host that carries a vnode.
    pub fn host_of(&self, address: IpAddr) -> Option<usize> {
        self.slices().iter().position(|parts| {
            let mut spans = parts.iter().flat_map(|(_, spans)| spans);
            spans.any(|(first, last)| *first <= address && address <= *last)
        })
    }
}

/// Distributes parts of groups to hosts.
fn deal(placement: Placement, rest: &[Part], hosts: usize) -> Vec<Vec<Part>> {
    let count = |part: &Part| ranges::total(&part.1);
    let all: u128 = rest.iter().map(count).sum();
    let share = |of: u128, rank: usize| of * rank as u128 / hosts as u128;
    let mut dealt: Vec<Vec<Part>> = vec![Vec::new(); hosts];
    let mut give = |host: usize, group: GroupId, spans: Vec<AddrRange>| {
        if !spans.is_empty() {
            dealt[host].push((group, spans));
        }
    };
    let mut passed = 0u128;
    match placement {
        Placement::Block => {
            for part in rest {
                let end = passed + count(part);
                for host in 0..hosts {
                    let from = share(all, host).max(passed);
                    let to = share(all, host + 1).min(end);
                    if from < to {
                        give(
                            host,
                            part.0,
                            ranges::part(&part.1, from - passed, to - passed),
                        );
                    }
                }
                passed = end;
            }
        }
        Placement::Spread => {
            for (order, part) in rest.iter().enumerate() {
                let of = count(part);
                for block in 0..hosts {
                    let spans = ranges::part(&part.1, share(of, block), share(of, block + 1));
                    // The remainder of each group goes to another host.
                    give((block + order) % hosts, part.0, spans);
                }
            }
        }
        Placement::RoundRobin => {
            for (group, spans) in rest {
                let mut turns: Vec<Vec<AddrRange>> = vec![Vec::new(); hosts];
                for address in spans.iter().flat_map(|span| ranges::addresses(*span)) {
                    turns[(passed % hosts as u128) as usize].push((address, address));
                    passed += 1;
                }
                for (host, spans) in turns.into_iter().enumerate() {
                    give(host, *group, spans);
                }
            }
        }
        Placement::ByGroup => {
            let mut order: Vec<&Part> = rest.iter().collect();
            order.sort_by_key(|part| (Reverse(count(part)), part.0));
            let mut load = vec![0u128; hosts];
            for part in order {
                let host = (0..hosts).min_by_key(|h| (load[*h], *h)).unwrap_or(0);
                load[host] += count(part);
                give(host, part.0, part.1.clone());
            }
        }
    }
    for parts in &mut dealt {
        parts.sort_by_key(|(group, _)| *group);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topology::parse;

    fn text(hosts: &str, counts: &[u32]) -> String {
        let groups: String = counts
            .iter()
            .enumerate()
            .map(|(i, n)| format!("  g{i}: {{prefix: 10.{i}.0.0/16, nodes: {n}}}\n"))
            .collect();
        format!("version: 1\ngroups:\n{groups}{hosts}\n")
    }

    fn sizes(topology: &Topology) -> Vec<u128> {
        let slices = topology.slices();
        let of = |parts: &Vec<Part>| parts.iter().map(|(_, s)| ranges::total(s)).sum();
        slices.iter().map(of).collect()
    }

    proptest! {
        /// Every vnode is on exactly one host, for every placement.
        #[test]
        fn every_vnode_is_on_one_host(
            hosts in 1usize..9,
            counts in prop::collection::vec(1u32..400, 1..7),
            mode in 0usize..4,
        ) {
            let (name, mode) = Placement::NAMES[mode];
            let section = format!("placement: {name}\nhosts: {{count: {hosts}, interface: eth0}}");
            let topology = parse(&text(&section, &counts), "t").unwrap();
            let mut found: Vec<IpAddr> = topology
                .slices()
                .into_iter()
                .flatten()
                .flat_map(|(_, spans)| spans)
                .flat_map(ranges::addresses)
                .collect();
            found.sort_unstable();
            let mut all: Vec<IpAddr> =
                (0..counts.len()).flat_map(|g| topology.vnode_addresses(g)).collect();
            all.sort_unstable();
            prop_assert_eq!(found, all);
            let sizes = sizes(&topology);
            let spread = sizes.iter().max().unwrap() - sizes.iter().min().unwrap();
            let bound = match mode {
                Placement::Block | Placement::RoundRobin => 1,
                Placement::Spread => counts.len() as u128,
                Placement::ByGroup => u128::from(*counts.iter().max().unwrap()),
            };
            prop_assert!(spread <= bound, "{sizes:?}");
        }
    }

    #[test]
    fn hosts_that_say_what_they_carry_keep_it() {
        let hosts = "placement: block\nhosts:
  - {name: a, interface: eth0, nodes: [10.0.0.5-10.0.0.6]}
  - {name: b, interface: eth0}
  - {name: c, interface: eth0}";
        let topology = parse(&text(hosts, &[10]), "t").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(sizes(&topology), [2, 4, 4]);
        let of = |address: &str| topology.host_of(address.parse().unwrap());
        assert_eq!(of("10.0.0.4"), Some(1));
        assert_eq!(of("10.0.0.5"), Some(0));
        assert_eq!(of("10.0.0.7"), Some(2));
        assert_eq!(of("10.0.0.11"), None);
    }

    #[test]
    fn a_template_has_as_many_hosts_as_asked_for() {
        let hosts = "placement: spread\nhosts: {count: 2, name: 'emu-{rank}', interface: eth0, address: 192.0.2.9}";
        let mut topology = parse(&text(hosts, &[10]), "t").unwrap_or_else(|e| panic!("{e}"));
        topology.resize(3).unwrap();
        let last = &topology.hosts[2];
        assert_eq!(last.name, "emu-2");
        assert_eq!(last.addresses[0].to_string(), "192.0.2.11");
        assert_eq!(sizes(&topology).iter().sum::<u128>(), 10);
    }
}
