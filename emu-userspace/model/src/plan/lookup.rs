//! Queries on a plan: the maps that it needs, and what a packet passes.
use std::{collections::BTreeSet, net::IpAddr};

use emu_common::{
    layout::{Direction, ImpairmentState, Pipe, pipe_flag},
    model::{delay, filter, loss, rate},
};
use ipnet::IpNet;

use super::{Kind, LatePair, Plan, PlanVnode, entries, fq};
use crate::topology::GroupId;

impl Plan {
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

    /// The local vnodes that are machines, with their indices.
    pub fn machines(&self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        let indexed = (0u32..).zip(&self.vnodes);
        let machines = indexed.filter(|(_, v)| self.groups[v.group].kind == Kind::Machine);
        machines.map(|(index, v)| (index, v.address))
    }

    /// What a vnode is.
    pub fn kind(&self, vnode: &PlanVnode) -> Kind {
        self.groups[vnode.group].kind
    }

    /// The local vnodes, each with its place among those of its group on this host.
    pub fn placed_vnodes(&self) -> impl Iterator<Item = (&PlanVnode, usize)> + '_ {
        let mut counts = vec![0usize; self.groups.len()];
        self.vnodes.iter().map(move |vnode| {
            let count = &mut counts[vnode.group];
            let place = *count;
            *count += 1;
            (vnode, place)
        })
    }

    /// Host name of a vnode: its group's name, a hyphen, and its place
    /// ([`Plan::placed_vnodes`]).
    pub fn host_name(&self, vnode: &PlanVnode, place: usize) -> String {
        format!("{}-{place}", self.groups[vnode.group].name)
    }

    /// Addresses of the local vnodes that are no machines.
    pub fn process_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let processes = |v: &&PlanVnode| self.groups[v.group].kind == Kind::Process;
        self.vnodes.iter().filter(processes).map(|v| v.address)
    }

    /// The interface to the other hosts, if there are any.
    pub fn uplink(&self) -> Option<&str> {
        self.interfaces
            .iter()
            .map(String::as_str)
            .find(|name| *name != "lo")
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
    fn stages(&self, from: GroupId, to: GroupId) -> impl Iterator<Item = ImpairmentState> {
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
        let flags = self.groups[group].up.flags;
        flags >> pipe_flag::FILTER_SHIFT & pipe_flag::FILTER_MASK != filter::OPEN
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

    /// The pair of groups, one of this host and one of those `remote`, that has the shortest
    /// latency before the receiver's line, if that is less than the network between the hosts
    /// takes.
    pub(super) fn late_pair_to(&self, remote: &BTreeSet<GroupId>) -> Option<LatePair> {
        // No latency is less than none, and there may be a million pairs.
        if self.host_latency_ns == 0 {
            return None;
        }
        let local = (0..self.groups.len()).filter(|group| self.groups[*group].local_vnodes > 0);
        let pairs = local.flat_map(|from| remote.iter().map(move |to| (from, *to)));
        let late: Vec<(u64, GroupId, GroupId)> = pairs
            .map(|(from, to)| {
                let up_ns = self.pipe(from, Direction::Up).latency_ns;
                (up_ns + self.pair_ns(from, to), from, to)
            })
            .filter(|(latency_ns, _, _)| *latency_ns < self.host_latency_ns)
            .collect();
        let (latency_ns, from, to) = *late.iter().min()?;
        Some(LatePair {
            from: self.groups[from].name.clone(),
            to: self.groups[to].name.clone(),
            latency_ns,
            count: late.len(),
        })
    }

    /// Round-trip time of an echo of `ip_bytes` through idle lines, in nanoseconds.
    pub fn idle_rtt_ns(&self, from: GroupId, to: GroupId, ip_bytes: u32) -> u64 {
        self.idle_one_way_ns(from, to, ip_bytes) + self.idle_one_way_ns(to, from, ip_bytes)
    }
}
