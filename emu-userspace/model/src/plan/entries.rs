//! The contents of the maps for a plan: pipes, stages and links.
use std::{net::IpAddr, time::Duration};

use emu_common::{
    layout::{Direction, ImpairmentState, NO_LIMIT_NS, PairLink, Pipe, feature, pipe_flag},
    model::{aqm, filter, queue, random, rate},
};

use super::{Plan, impair, nanoseconds};
use crate::topology::{Accounting, Filtering, GroupLink, LinkWay, Queue, Rate};

/// Bit of [`Pipe::flags`] that only user space reads: the queue limit was given in bytes, and
/// follows the rate when it changes.
pub const LIMIT_IN_BYTES: u32 = 1 << 31;

/// Initial contents of the arrays of the data path.
pub struct Entries {
    /// Up and down pipe of vnode 0, of vnode 1, …, then the capacities between groups.
    pub pipes: Vec<Pipe>,
    /// Impairments; other entries refer to them by index plus one.
    pub stages: Vec<ImpairmentState>,
    /// The link from each group to each group, row by row.
    pub links: Vec<PairLink>,
}

/// Rate, queue and burst of a pipe.
pub struct Service {
    /// Rate; `None` if unlimited.
    pub rate: Option<Rate>,
    /// Limit of the queue.
    pub queue: Queue,
    /// Bytes that may leave at once after an idle time.
    pub burst_bytes: u64,
}

/// The map entry of a pipe, without its part of the departure log and its stage.
pub(super) fn pipe(service: &Service, latency: Duration, accounting: &Accounting) -> Pipe {
    let mut pipe = Pipe {
        latency_ns: nanoseconds(latency),
        overhead_bytes: accounting.overhead_bytes(),
        flags: if accounting.in_cells() {
            pipe_flag::CELLS
        } else {
            0
        },
        ..Pipe::default()
    };
    serve(&mut pipe, service);
    pipe
}

/// Sets rate, queue and burst of a pipe.
pub fn serve(pipe: &mut Pipe, service: &Service) {
    let ns_per_byte_q20 = service.rate.map_or(0, |r| rate::ns_per_byte_q20(r.0));
    pipe.flags &= !LIMIT_IN_BYTES;
    let (limit_packets, limit_ns) = match service.queue {
        // An unlimited pipe has no queue.
        _ if service.rate.is_none() => (0, NO_LIMIT_NS),
        Queue::Packets(packets) => (packets, NO_LIMIT_NS),
        Queue::Bytes(bytes) => {
            pipe.flags |= LIMIT_IN_BYTES;
            (0, queue::bytes_as_ns(ns_per_byte_q20, bytes))
        }
        Queue::Time(time) => (0, nanoseconds(time)),
    };
    pipe.ns_per_byte_q20 = ns_per_byte_q20;
    pipe.limit_packets = limit_packets;
    pipe.limit_ns = limit_ns;
    pipe.burst_ns = queue::bytes_as_ns(ns_per_byte_q20, service.burst_bytes);
}

/// Sets the flags and the timeout of a vnode's filter.
pub(super) fn filtering(pipe: &mut Pipe, filtering: &Filtering) {
    pipe.flags |= filtering.class << pipe_flag::FILTER_SHIFT;
    pipe.filter_timeout_ns = nanoseconds(filtering.timeout);
}

/// The map entries of a link between groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlanLink {
    /// Indexes of pipe and stage are assigned when the maps are filled.
    pub latency_ns: u64,
    /// The capacity, equal in both directions.
    pub pipe: Option<Pipe>,
    pub stage: Option<ImpairmentState>,
    /// Makes the random decisions differ from those of other links.
    pub salt: u64,
}

impl PlanLink {
    pub fn new(link: &GroupLink, ends: [&str; 2], accounting: &Accounting) -> Self {
        let service = |rate| Service {
            rate: Some(rate),
            queue: link.queue,
            burst_bytes: 0,
        };
        let name = ends.join(" ");
        Self {
            latency_ns: nanoseconds(link.latency),
            pipe: link
                .rate
                .map(|rate| pipe(&service(rate), Duration::ZERO, accounting)),
            stage: impair::stage(&link.impairments),
            salt: name
                .bytes()
                .fold(1, |hash, byte| random::mix(hash ^ u64::from(byte))),
        }
    }
}

/// Makes the random decisions of a vnode differ from those of others.
fn salt(address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    };
    random::mix(random::mix((bits >> 64) as u64) ^ bits as u64)
}

/// One direction of a link between groups, without its indexes in the maps.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// One-way latency in nanoseconds.
    pub latency_ns: u64,
    /// Capacity.
    pub pipe: Option<Pipe>,
    /// Impairments.
    pub stage: Option<ImpairmentState>,
}

impl Plan {
    /// One direction of a vnode's access link and its impairments, without their indexes in
    /// the maps.
    pub fn line(&self, vnode: usize, direction: Direction) -> (Pipe, Option<ImpairmentState>) {
        let group = &self.groups[self.vnodes[vnode].group];
        let (pipe, stage) = match direction {
            Direction::Up => (&group.up, &group.up_stage),
            Direction::Down => (&group.down, &group.down_stage),
        };
        let seed = self.line_seed(self.vnodes[vnode].address, direction);
        let mut pipe = *pipe;
        pipe.flags |= (self.vnodes[vnode].group as u32) << pipe_flag::GROUP_SHIFT;
        (pipe, stage.map(|stage| ImpairmentState { seed, ..stage }))
    }

    /// Seed of the stage of a vnode's pipe.
    pub fn line_seed(&self, address: IpAddr, direction: Direction) -> u64 {
        random::mix(self.seed ^ salt(address).wrapping_add(1 + direction as u64))
    }

    /// One direction of a link, by the number that [`crate::topology::LinkWay`] gives it.
    pub fn way(&self, number: usize) -> Way {
        let link = &self.links[number / 2];
        let seed = random::mix(self.seed ^ link.salt.wrapping_add(1 + number as u64 % 2));
        Way {
            latency_ns: link.latency_ns,
            pipe: link.pipe,
            stage: link.stage.map(|stage| ImpairmentState { seed, ..stage }),
        }
    }

    /// Number of directions of all links.
    pub fn ways(&self) -> usize {
        self.links.len() * 2
    }

    /// For each pair of groups, row by row, the number of the link direction that applies.
    pub fn pair_ways(&self) -> impl Iterator<Item = Option<usize>> {
        self.pair_ways.iter().map(|way| way.map(LinkWay::number))
    }
}

/// Assigns departure log slots and stages in the order of the maps.
#[derive(Default)]
struct Numbering {
    ring_base: u32,
    stages: Vec<ImpairmentState>,
}

impl Numbering {
    /// Index plus one of a new stage, 0 for none.
    fn stage(&mut self, stage: Option<ImpairmentState>) -> u32 {
        let Some(stage) = stage else { return 0 };
        self.stages.push(stage);
        self.stages.len() as u32
    }

    fn pipe(&mut self, mut pipe: Pipe, stage: u32) -> Pipe {
        pipe.stage = stage;
        pipe.ring_base = self.ring_base;
        self.ring_base = self.ring_base.saturating_add(pipe.limit_packets);
        pipe
    }
}

impl Entries {
    /// The map contents of a plan.
    pub fn of(plan: &Plan) -> Self {
        let mut numbering = Numbering::default();
        let mut pipes = Vec::with_capacity(plan.pipe_count() as usize);
        for vnode in 0..plan.vnodes.len() {
            for direction in [Direction::Up, Direction::Down] {
                let (pipe, stage) = plan.line(vnode, direction);
                let stage = numbering.stage(stage);
                pipes.push(numbering.pipe(pipe, stage));
            }
        }
        let mut ways = Vec::with_capacity(plan.ways());
        for number in 0..plan.ways() {
            let way = plan.way(number);
            let stage = numbering.stage(way.stage);
            let pipe = way.pipe.map_or(0, |pipe| {
                pipes.push(numbering.pipe(pipe, stage));
                pipes.len() as u32 - 1
            });
            ways.push(PairLink {
                latency_ns: way.latency_ns,
                stage,
                pipe,
            });
        }
        let links = plan
            .pair_ways()
            .map(|way| way.map_or_else(PairLink::default, |way| ways[way]))
            .collect();
        Self {
            pipes,
            stages: numbering.stages,
            links,
        }
    }
}

/// All stages that packets on this host may pass.
fn stages(plan: &Plan) -> impl Iterator<Item = ImpairmentState> {
    let vnodes = plan.groups.iter().filter(|g| g.local_vnodes > 0);
    vnodes
        .flat_map(|g| [g.up_stage, g.down_stage])
        .chain(plan.links.iter().map(|l| l.stage))
        .flatten()
}

/// The features that a plan needs, [`feature`] bits.
pub(super) fn features(plan: &Plan) -> u32 {
    let stages = || stages(plan);
    let filters = plan
        .groups
        .iter()
        .any(|g| g.up.flags >> pipe_flag::FILTER_SHIFT & pipe_flag::FILTER_MASK != filter::OPEN);
    [
        (feature::IMPAIRMENTS, stages().next().is_some()),
        (feature::AQM, stages().any(|s| s.aqm_kind != aqm::NONE)),
        (
            feature::COPIES,
            stages().any(|s| s.duplicate | s.corrupt != 0),
        ),
        (
            feature::CAPACITY,
            plan.links.iter().any(|l| l.pipe.is_some()),
        ),
        (feature::FILTERS, filters),
        (feature::MACHINES, plan.machines().next().is_some()),
    ]
    .into_iter()
    .filter_map(|(bit, used)| used.then_some(bit))
    .sum()
}
