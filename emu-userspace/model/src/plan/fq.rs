//! Sizes of the fq qdiscs with which they never drop or reorder packets.
//!
//! The defaults of fq (100 packets per flow, 10,000 in all, a horizon of 10 s) are made for
//! pacing; in emu it holds the queue of an emulated pipe *and* the packets in flight.
use std::time::Duration;

use emu_common::{
    layout::{ImpairmentState, NO_LIMIT_NS, Pipe},
    model::{jitter, rate},
};
use serde::{Deserialize, Serialize};

use super::{
    Current, Plan, PlanGroup, Service,
    diff::stage_at,
    entries::{PlanLink, serve},
    nanoseconds, tables,
};
use crate::topology::{EventAction, FqSettings, LinkWay, Target, Topology};

/// Smallest packet that the sizes assume: an IPv4 header and a TCP header.
const SMALLEST_PACKET_BYTES: u64 = 40;
/// Allowance for bursts in pipes without a rate.
const UNLIMITED_FLOW_PACKETS: u64 = 1_000_000;
const DEFAULT_LIMIT: u64 = 10_000;
const LARGEST_LIMIT: u64 = 20_000_000;
const DEFAULT_HORIZON_US: u64 = 10_000_000;

/// Settings of the fq qdiscs, as `tc qdisc show` prints them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FqPlan {
    /// Packets in the qdisc.
    pub limit_packets: u32,
    /// Packets in one flow.
    pub flow_limit_packets: u32,
    /// Hash buckets, a power of two.
    pub buckets: u32,
    /// Bits of the flow identifier that are used.
    pub orphan_mask: u32,
    /// Farthest delivery time ahead, in microseconds.
    pub horizon_us: u32,
}

/// Longest time that a packet can wait in a pipe's queue, in nanoseconds.
fn queue_ns(pipe: &Pipe, mtu_bytes: u32) -> u64 {
    if pipe.limit_packets > 0 {
        let bytes = rate::charged_bytes(mtu_bytes, pipe.overhead_bytes);
        rate::serialisation_ns(pipe.ns_per_byte_q20, bytes)
            .saturating_mul(u64::from(pipe.limit_packets))
    } else if pipe.limit_ns == NO_LIMIT_NS {
        0
    } else {
        pipe.limit_ns
    }
}

/// Largest number of packets of a pipe that fq can hold at once: its queue and the packets in
/// flight.
fn held_packets(pipe: &Pipe, mtu_bytes: u32, pair_ns: u64) -> u64 {
    if pipe.ns_per_byte_q20 == 0 {
        return UNLIMITED_FLOW_PACKETS;
    }
    let smallest_ns =
        rate::serialisation_ns(pipe.ns_per_byte_q20, SMALLEST_PACKET_BYTES as u32).max(1);
    let waiting = if pipe.limit_packets > 0 {
        u64::from(pipe.limit_packets)
    } else {
        queue_ns(pipe, mtu_bytes) / smallest_ns
    };
    waiting + pipe.latency_ns.saturating_add(pair_ns) / smallest_ns + 100
}

/// Largest number of standard deviations in a jitter table.
const FARTHEST: u64 = tables::FARTHEST as u64;

/// Largest displacement of a packet by a stage's jitter: the spread of the uniform
/// distribution, `deviations` times that of the others.
pub(super) fn jitter_reach_ns(stage: &ImpairmentState, deviations: u64) -> u64 {
    if stage.jitter_table == jitter::UNIFORM {
        stage.jitter_ns
    } else {
        stage.jitter_ns.saturating_mul(deviations)
    }
}

/// Longest times that packets are held for links between groups.
#[derive(Clone, Copy, Default)]
struct LinkHold {
    /// Latency and jitter.
    delay_ns: u64,
    /// Wait for the capacity, which counts while the packet waits in its pipe.
    wait_ns: u64,
}

impl LinkHold {
    fn of(link: &PlanLink, mtu_bytes: u32) -> Self {
        let jitter_ns = link.stage.map_or(0, |s| jitter_reach_ns(&s, FARTHEST));
        Self {
            delay_ns: link.latency_ns.saturating_add(jitter_ns),
            wait_ns: link.pipe.map_or(0, |p| queue_ns(&p, mtu_bytes)),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            delay_ns: self.delay_ns.max(other.delay_ns),
            wait_ns: self.wait_ns.max(other.wait_ns),
        }
    }
}

/// A packet could be due later than fq can hold it. The farthest due time of fq, its horizon, is
/// 32 bits of microseconds (net/sched/sch_fq.c), and what is due later it sends then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a packet of {of} could wait {}, with its queue, latency and jitter and those of links between \
     groups; fq holds packets for {} at most: give the queue a smaller limit, or raise the rate",
    humantime::format_duration(Duration::from_secs(longest.as_secs())),
    humantime::format_duration(Duration::from_secs(FARTHEST_HORIZON.as_secs()))
)]
pub struct TooLate {
    /// The group, or the event that makes it so.
    pub of: String,
    /// How long.
    pub longest: Duration,
}

/// fq's longest horizon less the second that a plan adds.
const FARTHEST_HORIZON: Duration = Duration::from_micros(u32::MAX as u64 - 1_000_000);

impl FqPlan {
    /// The maximum of two plans in every size.
    #[must_use]
    pub fn grown(&self, need: &Self) -> Self {
        Self {
            limit_packets: self.limit_packets.max(need.limit_packets),
            flow_limit_packets: self.flow_limit_packets.max(need.flow_limit_packets),
            buckets: self.buckets.max(need.buckets),
            orphan_mask: self.orphan_mask,
            horizon_us: self.horizon_us.max(need.horizon_us),
        }
    }

    /// Sizes for the vnodes of these groups; settings of the user take precedence.
    ///
    /// # Errors
    /// [`TooLate`].
    pub(super) fn for_groups(
        settings: &FqSettings,
        groups: &[PlanGroup],
        (links, ways): (&[PlanLink], &[Option<LinkWay>]),
        mtu_bytes: u32,
    ) -> Result<Self, TooLate> {
        let mut need = FqNeed::new(mtu_bytes);
        for (id, group) in groups
            .iter()
            .enumerate()
            .filter(|(_, g)| g.local_vnodes > 0)
        {
            let row = &ways[id * groups.len()..(id + 1) * groups.len()];
            let hold = row
                .iter()
                .flatten()
                .map(|way| LinkHold::of(&links[way.link], mtu_bytes))
                .fold(LinkHold::default(), LinkHold::max);
            need.vnodes += group.local_vnodes;
            need.add(&group.up, group.up_stage, hold, group.local_vnodes);
            need.add(
                &group.down,
                group.down_stage,
                LinkHold::default(),
                group.local_vnodes,
            );
            need.check(|| format!("the group {}", group.name))?;
        }
        Ok(need.plan(settings))
    }

    /// Checks that the settings of events, each with the rest of the file, leave no packet
    /// waiting too long.
    pub(super) fn check_events(topology: &Topology, groups: &[PlanGroup]) -> Result<(), TooLate> {
        for event in &topology.events {
            let EventAction::AccessLink { target, change, .. } = &event.what else {
                continue;
            };
            let group = match target {
                Target::Group(group) => Some(*group),
                Target::Vnode(address) => topology.group_of(*address),
                Target::Pair(..) => None,
            };
            for group in group.map(|g| topology.tree(g)).unwrap_or_default() {
                let file = &topology.groups[group];
                let planned = [groups[group].up, groups[group].down];
                let sides = [(&file.up, &change.up), (&file.down, &change.down)];
                for ((file, change), mut pipe) in sides.into_iter().zip(planned) {
                    let service = Service {
                        rate: change.rate.unwrap_or(file.rate),
                        queue: change.queue.unwrap_or(file.queue),
                        burst_bytes: file.burst_bytes,
                    };
                    serve(&mut pipe, &service);
                    pipe.latency_ns = change.latency.map_or(pipe.latency_ns, nanoseconds);
                    let mut need = FqNeed::new(topology.mtu_bytes);
                    need.add(&pipe, None, LinkHold::default(), 1);
                    need.check(|| {
                        let at = humantime::format_duration(event.at);
                        format!("{} after its event at {at}", groups[group].name)
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Sizes for the pipes as they are in the maps.
    ///
    /// # Errors
    /// [`TooLate`].
    pub fn for_current(
        topology: &Topology,
        plan: &Plan,
        slots: &[u32],
        current: &Current,
    ) -> Result<Self, TooLate> {
        let groups = plan.groups.len();
        let mtu_bytes = plan.mtu_bytes;
        let farthest: Vec<LinkHold> = (0..groups)
            .map(|group| {
                let row = &current.links[group * groups..(group + 1) * groups];
                row.iter()
                    .map(|link| {
                        let pipe = current.pipes.get(link.pipe as usize);
                        let link = PlanLink {
                            latency_ns: link.latency_ns,
                            pipe: pipe.filter(|_| link.pipe != 0).copied(),
                            stage: Some(stage_at(&current.stages, link.stage)),
                            salt: 0,
                        };
                        LinkHold::of(&link, mtu_bytes)
                    })
                    .fold(LinkHold::default(), LinkHold::max)
            })
            .collect();
        let mut need = FqNeed::new(mtu_bytes);
        need.vnodes = plan.vnodes.len();
        for (vnode, slot) in plan.vnodes.iter().zip(slots) {
            let none = LinkHold::default();
            for (index, hold) in [(slot * 2, farthest[vnode.group]), (slot * 2 + 1, none)] {
                if let Some(pipe) = current.pipes.get(index as usize) {
                    let stage = stage_at(&current.stages, pipe.stage);
                    need.add(pipe, Some(stage), hold, 1);
                    need.check(|| vnode.address.to_string())?;
                }
            }
        }
        Ok(need.plan(&topology.fq))
    }
}

/// What fq must hold, summed over pipes.
struct FqNeed {
    mtu_bytes: u32,
    limit: u64,
    flow_limit: u64,
    horizon_ns: u64,
    vnodes: usize,
}

impl FqNeed {
    fn new(mtu_bytes: u32) -> Self {
        Self {
            mtu_bytes,
            limit: 0,
            flow_limit: 0,
            horizon_ns: 0,
            vnodes: 0,
        }
    }

    /// Adds `count` equal pipes, whose packets are also held for links.
    fn add(&mut self, pipe: &Pipe, stage: Option<ImpairmentState>, hold: LinkHold, count: usize) {
        let jitter_ns = stage.map_or(0, |s| jitter_reach_ns(&s, FARTHEST));
        let delay_ns = hold.delay_ns.saturating_add(jitter_ns);
        let pair_ns = delay_ns.saturating_add(hold.wait_ns);
        let held = held_packets(pipe, self.mtu_bytes, pair_ns);
        self.flow_limit = self.flow_limit.max(held);
        self.limit = self.limit.saturating_add(held.saturating_mul(count as u64));
        let farthest = queue_ns(pipe, self.mtu_bytes)
            .max(hold.wait_ns)
            .saturating_add(pipe.latency_ns)
            .saturating_add(delay_ns);
        self.horizon_ns = self.horizon_ns.max(farthest);
    }

    /// Whether fq can hold the packets as long as they wait; `of` names the last pipe.
    fn check(&self, of: impl FnOnce() -> String) -> Result<(), TooLate> {
        let longest = Duration::from_nanos(self.horizon_ns);
        if longest <= FARTHEST_HORIZON {
            return Ok(());
        }
        Err(TooLate { of: of(), longest })
    }

    fn plan(&self, settings: &FqSettings) -> FqPlan {
        let clamp = |packets: u64| packets.clamp(DEFAULT_LIMIT, LARGEST_LIMIT) as u32;
        // One second more than the largest delay, since the clock advances during the
        // enqueue.
        let horizon_us = (self.horizon_ns / 1_000).saturating_add(1_000_000);
        let horizon_us = settings
            .horizon
            .map_or(horizon_us.max(DEFAULT_HORIZON_US), |h| h.as_micros() as u64);
        let buckets = (self.vnodes * 4).next_power_of_two();
        let buckets = buckets.clamp(1 << 10, 1 << 18) as u32;
        FqPlan {
            limit_packets: settings.limit_packets.unwrap_or(clamp(self.limit)),
            flow_limit_packets: settings
                .flow_limit_packets
                .unwrap_or(clamp(self.flow_limit)),
            buckets: settings.buckets.unwrap_or(buckets),
            orphan_mask: settings.orphan_mask.unwrap_or(u32::MAX),
            horizon_us: horizon_us.min(u64::from(u32::MAX)) as u32,
        }
    }
}
