//! The contents of the maps that a plan asks for: pipes, stages and links.
use std::{net::IpAddr, time::Duration};

use emu_common::{
    layout::{NO_LIMIT_NS, PairLink, Pipe, Stage, feature, pipe_flag, stage_flag},
    model::{aqm, filter, loss, queue, random, rate},
};

use super::{Plan, nanoseconds};
use crate::topology::{Accounting, Aqm, Filtering, GroupLink, Impairments, Loss, Queue, Rate};

/// What the arrays of the data path hold at first.
pub struct Entries {
    /// Up and down of vnode 0, of vnode 1, …, then the capacities between groups.
    pub pipes: Vec<Pipe>,
    /// Impairments, referred to by number plus one.
    pub stages: Vec<Stage>,
    /// The link from each group to each group, row by row.
    pub links: Vec<PairLink>,
}

/// A line's queue and rate.
pub(super) struct Service {
    pub rate: Option<Rate>,
    pub queue: Queue,
    pub burst_bytes: u64,
}

/// The map entry of a pipe, without its place in the ring and its stage.
pub(super) fn pipe(service: &Service, latency: Duration, accounting: &Accounting) -> Pipe {
    let ns_per_byte_q20 = service.rate.map_or(0, |r| rate::ns_per_byte_q20(r.0));
    let (limit_packets, limit_ns) = match service.queue {
        // An unlimited line has no queue to fill.
        _ if service.rate.is_none() => (0, NO_LIMIT_NS),
        Queue::Packets(packets) => (packets, NO_LIMIT_NS),
        Queue::Bytes(bytes) => (0, queue::bytes_as_ns(ns_per_byte_q20, bytes)),
        Queue::Time(time) => (0, nanoseconds(time)),
    };
    Pipe {
        ns_per_byte_q20,
        latency_ns: nanoseconds(latency),
        limit_ns,
        limit_packets,
        burst_ns: queue::bytes_as_ns(ns_per_byte_q20, service.burst_bytes),
        overhead_bytes: accounting.overhead_bytes(),
        flags: if accounting.in_cells() {
            pipe_flag::CELLS
        } else {
            0
        },
        ..Pipe::default()
    }
}

/// The flags and the timeout of a vnode's filter.
pub(super) fn filtering(pipe: &mut Pipe, filtering: &Filtering) {
    pipe.flags |= filtering.class << pipe_flag::FILTER_SHIFT;
    pipe.filter_timeout_ns = nanoseconds(filtering.timeout);
}

/// The map entry of impairments, without its seed; none where there are none.
pub(super) fn stage(impairments: &Impairments) -> Option<Stage> {
    if impairments.is_empty() {
        return None;
    }
    let mut stage = Stage::default();
    let [
        jitter_rho,
        loss_rho,
        duplicate_rho,
        corrupt_rho,
        reorder_rho,
    ] = &mut stage.rho;
    if let Some(jitter) = &impairments.jitter {
        stage.jitter_ns = nanoseconds(jitter.spread);
        stage.jitter_table = jitter.distribution;
        *jitter_rho = jitter.correlation.0;
        if jitter.overtake {
            stage.flags |= stage_flag::OVERTAKE;
        }
    }
    match &impairments.loss {
        None => {}
        Some(Loss::Random(chance)) => {
            (stage.loss_kind, stage.loss[0]) = (loss::RANDOM, chance.chance.0);
            *loss_rho = chance.correlation.0;
        }
        Some(Loss::GilbertElliott {
            to_bad,
            to_good,
            in_bad,
            in_good,
        }) => {
            stage.loss_kind = loss::GILBERT_ELLIOTT;
            stage.loss = [to_bad.0, to_good.0, in_bad.0, in_good.0, 0];
        }
        Some(Loss::Markov(p)) => {
            (stage.loss_kind, stage.loss) = (loss::MARKOV4, p.map(|p| p.0));
        }
    }
    if let Some(chance) = &impairments.duplicate {
        (stage.duplicate, *duplicate_rho) = (chance.chance.0, chance.correlation.0);
    }
    if let Some(chance) = &impairments.corrupt {
        (stage.corrupt, *corrupt_rho) = (chance.chance.0, chance.correlation.0);
    }
    if let Some(reorder) = &impairments.reorder {
        stage.reorder = reorder.chance.chance.0;
        *reorder_rho = reorder.chance.correlation.0;
        stage.reorder_gap = reorder.gap;
    }
    manage(&mut stage, impairments.aqm.as_ref());
    Some(stage)
}

fn manage(stage: &mut Stage, management: Option<&Aqm>) {
    let ecn = match management {
        None => return,
        Some(Aqm::Codel {
            target,
            interval,
            ecn,
        }) => {
            stage.aqm_kind = aqm::CODEL;
            (stage.aqm_low_ns, stage.aqm_high_ns) = (nanoseconds(*target), nanoseconds(*interval));
            ecn
        }
        Some(Aqm::Red {
            min,
            max,
            probability,
            weight_bits,
            ecn,
        }) => {
            stage.aqm_kind = aqm::RED;
            (stage.aqm_low_ns, stage.aqm_high_ns) = (nanoseconds(*min), nanoseconds(*max));
            (stage.red_probability, stage.red_weight_bits) = (probability.0, *weight_bits);
            ecn
        }
    };
    if *ecn {
        stage.flags |= stage_flag::ECN;
    }
}

/// Both directions of a link between groups, as far as the maps know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlanLink {
    /// Pipe and stage are numbered when the maps are filled.
    pub latency_ns: u64,
    /// The capacity, for each direction the same.
    pub pipe: Option<Pipe>,
    pub stage: Option<Stage>,
    /// Tells its random decisions from those of other links.
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
            stage: stage(&link.impairments),
            salt: name
                .bytes()
                .fold(1, |hash, byte| random::mix(hash ^ u64::from(byte))),
        }
    }
}

/// Tells the random decisions of a vnode from those of others.
fn salt(address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    };
    random::mix(random::mix((bits >> 64) as u64) ^ bits as u64)
}

/// Numbers pipes' ring slots and stages in the order of the maps.
struct Numbering {
    seed: u64,
    ring_base: u32,
    stages: Vec<Stage>,
}

impl Numbering {
    /// Number plus one of a new stage, 0 for none.
    fn stage(&mut self, stage: Option<Stage>, salt: u64) -> u32 {
        let Some(stage) = stage else { return 0 };
        let seed = random::mix(self.seed ^ salt);
        self.stages.push(Stage {
            seed,
            // A correlation has a number to begin with.
            last: [1, 2, 3, 4, 5].map(|what| random::mix(seed ^ what) as u32),
            ..stage
        });
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
    /// The maps of a plan.
    pub fn of(plan: &Plan) -> Self {
        let mut numbering = Numbering {
            seed: plan.seed,
            ring_base: 0,
            stages: Vec::new(),
        };
        let mut pipes = Vec::with_capacity(plan.pipe_count() as usize);
        for vnode in &plan.vnodes {
            let group = &plan.groups[vnode.group];
            let salt = salt(vnode.address);
            for (direction, (pipe, stage)) in [
                (1, (&group.up, &group.up_stage)),
                (2, (&group.down, &group.down_stage)),
            ] {
                let stage = numbering.stage(*stage, salt.wrapping_add(direction));
                pipes.push(numbering.pipe(*pipe, stage));
            }
        }
        // Both directions of each link, in the order of `LinkWay::number`.
        let mut ways = Vec::with_capacity(plan.links.len() * 2);
        for link in &plan.links {
            for direction in [1, 2] {
                let stage = numbering.stage(link.stage, link.salt.wrapping_add(direction));
                let pipe = link.pipe.map_or(0, |pipe| {
                    pipes.push(numbering.pipe(pipe, stage));
                    pipes.len() as u32 - 1
                });
                ways.push(PairLink {
                    latency_ns: link.latency_ns,
                    stage,
                    pipe,
                });
            }
        }
        let links = plan
            .pair_ways
            .iter()
            .map(|way| way.map_or_else(PairLink::default, |way| ways[way.number()]))
            .collect();
        Self {
            pipes,
            stages: numbering.stages,
            links,
        }
    }
}

/// All stages that may pass packets on this host.
fn stages(plan: &Plan) -> impl Iterator<Item = Stage> {
    let vnodes = plan.groups.iter().filter(|g| g.local_vnodes > 0);
    vnodes
        .flat_map(|g| [g.up_stage, g.down_stage])
        .chain(plan.links.iter().map(|l| l.stage))
        .flatten()
}

/// Whether some packets have jitter and may not overtake each other.
pub(super) fn keeps_order(plan: &Plan) -> bool {
    stages(plan).any(|s| s.jitter_ns != 0 && s.flags & stage_flag::OVERTAKE == 0)
}

/// The features that a plan needs, [`feature`] bits.
pub(super) fn features(plan: &Plan) -> u32 {
    let stages = || stages(plan);
    let filters = plan
        .groups
        .iter()
        .any(|g| g.up.flags >> pipe_flag::FILTER_SHIFT & pipe_flag::FILTER_MASK != filter::OPEN);
    [
        (feature::STAGES, stages().next().is_some()),
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
    ]
    .into_iter()
    .filter_map(|(bit, used)| used.then_some(bit))
    .sum()
}
