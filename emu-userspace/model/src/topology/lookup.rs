//! Queries on a checked topology.
use std::{cmp::Reverse, collections::BTreeSet, net::IpAddr};

use super::{GroupId, Topology, Vnodes, ranges};

/// One direction of a link between groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkWay {
    /// Index in [`Topology::links`].
    pub link: usize,
    /// From `b` to `a` of the link.
    pub is_back: bool,
}

impl LinkWay {
    /// A number for each direction of each link.
    pub const fn number(self) -> usize {
        self.link * 2 + self.is_back as usize
    }
}

/// Why a capacity between groups cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CapacityFault {
    /// The link has no capacity.
    Missing,
    /// The capacity also belongs to other groups.
    Shared,
}

impl Topology {
    /// The group with a name.
    pub fn group_named(&self, name: &str) -> Option<GroupId> {
        self.groups.iter().position(|g| g.name == name)
    }

    /// The most specific group whose prefix contains an address.
    pub fn group_of(&self, address: IpAddr) -> Option<GroupId> {
        (0..self.groups.len())
            .filter(|g| self.groups[*g].prefix.contains(&address))
            .min_by_key(|g| (Reverse(self.groups[*g].prefix.prefix_len()), *g))
    }

    /// Number of vnodes of a group, without nested groups.
    pub fn vnode_count(&self, group: GroupId) -> usize {
        match &self.groups[group].vnodes {
            Vnodes::None => 0,
            Vnodes::Count(count) => *count as usize,
            Vnodes::List(list) => list.len(),
        }
    }

    /// Vnodes of all groups.
    pub fn vnode_total(&self) -> usize {
        (0..self.groups.len()).map(|g| self.vnode_count(g)).sum()
    }

    /// Addresses of a group's vnodes, in order.
    pub fn vnode_addresses(&self, group: GroupId) -> Box<dyn Iterator<Item = IpAddr> + Send + '_> {
        let spans = self.group_spans(group).into_iter();
        Box::new(spans.flat_map(ranges::addresses))
    }

    /// The vnode with a name: its address, or its group's name, a slash and its
    /// index in the group from 0.
    pub fn vnode_named(&self, name: &str) -> Option<IpAddr> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return self.is_vnode(address).then_some(address);
        }
        let (group, index) = name.rsplit_once('/')?;
        let spans = self.group_spans(self.group_named(group)?);
        let index = index.parse::<u64>().ok()?.into();
        let found = ranges::part(&spans, index, index + 1);
        found.first().map(|(address, _)| *address)
    }

    /// A group and all groups nested in it.
    pub fn tree(&self, group: GroupId) -> Vec<GroupId> {
        (0..self.groups.len())
            .filter(|g| self.chain(*g).contains(&group))
            .collect()
    }

    /// A group and the groups that contain it, from the inside out.
    pub(super) fn chain(&self, group: GroupId) -> Vec<GroupId> {
        std::iter::successors(Some(group), |g| self.groups[*g].parent).collect()
    }

    /// For every pair of groups, row by row of the source, the link that applies.
    ///
    /// The most specific link applies: first that of both groups themselves, then one level
    /// outwards at a time; of two links at the same total distance, the one with the more
    /// specific source. Inside a leaf group, only a link of the group with itself applies.
    pub fn pair_links(&self) -> Vec<Option<LinkWay>> {
        let groups = self.groups.len();
        let mut direct = std::collections::HashMap::new();
        for (index, link) in self.links.iter().enumerate() {
            let way = |is_back| LinkWay {
                link: index,
                is_back,
            };
            direct.entry((link.a, link.b)).or_insert(way(false));
            if !link.one_way {
                direct.entry((link.b, link.a)).or_insert(way(true));
            }
        }
        let chains: Vec<Vec<GroupId>> = (0..groups).map(|g| self.chain(g)).collect();
        let find = |src: GroupId, dst: GroupId| {
            let (from, to) = (&chains[src], &chains[dst]);
            let last = if src == dst {
                1
            } else {
                from.len() + to.len() - 1
            };
            (0..last).find_map(|steps| {
                (0..=steps).find_map(|outward| {
                    let (a, b) = (from.get(outward)?, to.get(steps - outward)?);
                    direct.get(&(*a, *b)).copied()
                })
            })
        };
        (0..groups * groups)
            .map(|i| find(i / groups, i % groups))
            .collect()
    }

    /// The pairs of groups between two groups, including nested ones, as indexes into
    /// [`Topology::pair_links`].
    pub fn pairs_between(&self, a: GroupId, b: GroupId, one_way: bool) -> BTreeSet<usize> {
        let (mut from, mut to) = (self.tree(a), self.tree(b));
        if a != b {
            // If one group is inside the other, the rest of the outer group is the far side.
            let (inner, outer) = (to.clone(), from.clone());
            from.retain(|g| !inner.contains(g));
            if from.is_empty() {
                from = outer;
                to.retain(|g| !from.contains(g));
            }
        }
        let groups = self.groups.len();
        let mut pairs = BTreeSet::new();
        for x in &from {
            for y in &to {
                pairs.insert(x * groups + y);
                if !one_way {
                    pairs.insert(y * groups + x);
                }
            }
        }
        pairs
    }

    /// Why rate and queue between two groups cannot be changed, if they cannot; `ways` is the
    /// result of [`Topology::pair_links`].
    pub fn capacity_fault(
        &self,
        ways: &[Option<LinkWay>],
        (a, b): (GroupId, GroupId),
        one_way: bool,
    ) -> Option<CapacityFault> {
        let pairs = self.pairs_between(a, b, one_way);
        let capacity = |pair: usize| {
            ways[pair]
                .filter(|way| self.links[way.link].rate.is_some())
                .map(LinkWay::number)
        };
        let inside: BTreeSet<usize> = pairs.iter().filter_map(|p| capacity(*p)).collect();
        if inside.is_empty() {
            return Some(CapacityFault::Missing);
        }
        (0..ways.len())
            .filter(|pair| !pairs.contains(pair))
            .filter_map(capacity)
            .any(|way| inside.contains(&way))
            .then_some(CapacityFault::Shared)
    }

    /// Addresses of the vnodes of a host, in the order of the groups.
    pub fn host_vnodes(&self, host: &str) -> Vec<IpAddr> {
        let host = self.hosts.iter().position(|h| h.name == host);
        let parts = host.map(|host| self.slices().swap_remove(host));
        let spans = parts.into_iter().flatten().flat_map(|(_, spans)| spans);
        spans.flat_map(ranges::addresses).collect()
    }
}
