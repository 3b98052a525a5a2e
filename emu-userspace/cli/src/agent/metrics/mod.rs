//! Metrics in the OpenMetrics text form, read from the maps at each scrape.
mod agent;
mod writer;

use std::{fmt, sync::Arc};

use emu_common::{
    layout::{Direction, Pipe, QueueDelayHistogram},
    reason::Reason,
};
use emu_kernel::{
    bpf::{BpfError, Maps},
    counters::{self, Counters},
    fq_stats::{FqStats, fq_stats},
    netlink::{Netlink, NetlinkError},
    session::{Loaded, SessionError},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use writer::{Labels, Writer};

use super::{
    server::Refusals,
    shared::{Facts, Shared},
};

/// Media type of [`text`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why a scrape failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Format(#[from] fmt::Error),
}

/// The current metrics.
pub(super) fn text(shared: &Shared, per_vnode: bool) -> Result<String, ScrapeError> {
    let facts = shared.facts();
    let figures = match &facts.loaded {
        Some(loaded) => Some(Figures::read(loaded, per_vnode)?),
        None => None,
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        facts,
        refusals: Arc::clone(&shared.refusals),
        figures,
    }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// A vnode's counters.
#[derive(Debug)]
struct VnodeFigures {
    group: String,
    vnode: String,
    counters: [Counters; 2],
}

/// The kernel's counters.
#[derive(Debug)]
struct Figures {
    topology: String,
    host: String,
    groups: Vec<(String, usize, [Counters; 2])>,
    /// Largest current delay in a group's pipes, in seconds.
    waits: Vec<[f64; 2]>,
    delays: Vec<[QueueDelayHistogram; 2]>,
    vnodes: Vec<VnodeFigures>,
    reasons: Vec<(Reason, u64)>,
    fq: Vec<FqStats>,
}

impl Figures {
    fn read(loaded: &Arc<Loaded>, per_vnode: bool) -> Result<Self, ScrapeError> {
        let maps = loaded.maps()?;
        let plan = &loaded.plan;
        let totals = counters::by_group(loaded, &maps);
        let groups = plan.groups.iter().zip(totals);
        let groups = groups.map(|(g, counters)| (g.name.clone(), g.local_vnodes, counters));
        let vnodes = if per_vnode {
            vnodes(loaded, &maps)
        } else {
            Vec::new()
        };
        Ok(Self {
            topology: plan.name.clone(),
            host: plan.host.clone().unwrap_or_default(),
            groups: groups.collect(),
            waits: waits(loaded, &maps),
            delays: counters::waits_by_group(loaded, &maps)?,
            vnodes,
            reasons: maps.reasons()?,
            fq: fq_stats(&mut Netlink::open()?)?,
        })
    }
}

const DIRECTIONS: [(Direction, &str); 2] = [(Direction::Up, "up"), (Direction::Down, "down")];

fn vnodes(loaded: &Loaded, maps: &Maps) -> Vec<VnodeFigures> {
    let vnodes = loaded.plan.vnodes.iter().enumerate();
    vnodes
        .map(|(index, vnode)| {
            let mut both = [Counters::default(); 2];
            for (direction, _) in DIRECTIONS {
                both[direction as usize].add(&counters::pipe(loaded, maps, index, direction));
            }
            VnodeFigures {
                group: loaded.plan.groups[vnode.group].name.clone(),
                vnode: vnode.address.to_string(),
                counters: both,
            }
        })
        .collect()
}

/// Largest current delay in each group's pipes: the time until the last packet of the queue
/// has left.
fn waits(loaded: &Loaded, maps: &Maps) -> Vec<[f64; 2]> {
    let now_ns = monotonic_ns();
    let mut waits = vec![[0.0f64; 2]; loaded.plan.groups.len()];
    for (index, vnode) in loaded.plan.vnodes.iter().enumerate() {
        for (direction, _) in DIRECTIONS {
            let (pipe, _): (Pipe, _) = counters::pipe(loaded, maps, index, direction);
            let wait = pipe.next_free_ns.saturating_sub(now_ns) as f64 / 1e9;
            let longest = &mut waits[vnode.group][direction as usize];
            *longest = longest.max(wait);
        }
    }
    waits
}

/// The clock of the BPF programs, `CLOCK_MONOTONIC`.
fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |t| {
        t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
    })
}

/// One scrape.
#[derive(Debug)]
struct Scrape {
    facts: Facts,
    refusals: Arc<Refusals>,
    figures: Option<Figures>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = Writer(&mut encoder);
        self.agent(&mut writer)?;
        self.http(&mut writer)?;
        let Some(figures) = &self.figures else {
            return Ok(());
        };
        figures.groups(&mut writer)?;
        figures.vnodes(&mut writer)?;
        figures.fq(&mut writer)
    }
}

/// Packets dropped or lost in a pipe, by reason.
fn drops(counters: &Counters) -> [(&'static str, u64); 5] {
    [
        ("queue_packets", counters.drops_packets),
        ("queue_bytes", counters.drops_bytes),
        ("aqm", counters.drops_aqm),
        ("closed", counters.drops_closed),
        ("loss", counters.losses),
    ]
}

fn side(labels: &Labels, direction: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push(("direction", direction.to_owned()));
    labels
}

/// A metric of both directions.
fn both(
    labels: &Labels,
    counters: &[Counters; 2],
    pick: impl Fn(&Counters) -> u64,
) -> Vec<(Labels, u64)> {
    let sides = DIRECTIONS.iter().zip(counters);
    sides
        .map(|((_, name), counters)| (side(labels, name), pick(counters)))
        .collect()
}

/// Dropped or lost packets of both directions, by reason.
fn both_drops(labels: &Labels, counters: &[Counters; 2]) -> Vec<(Labels, u64)> {
    let sides = DIRECTIONS.iter().zip(counters);
    sides
        .flat_map(|((_, name), counters)| {
            drops(counters).map(|(reason, count)| {
                let mut labels = side(labels, name);
                labels.push(("reason", reason.to_owned()));
                (labels, count)
            })
        })
        .collect()
}

type Pick = fn(&Counters) -> u64;

/// Counters of each group.
const OF_GROUPS: [(&str, &str, Pick); 7] = [
    (
        "emu_packets",
        "Packets that the pipes of a group accepted",
        |c| c.packets,
    ),
    ("emu_bytes", "Bytes charged for accepted packets", |c| {
        c.bytes
    }),
    ("emu_dropped_bytes", "Bytes of dropped packets", |c| {
        c.dropped_bytes
    }),
    (
        "emu_marks",
        "Packets marked instead of dropped (ECN)",
        |c| c.marks,
    ),
    ("emu_duplicates", "Packets sent twice", |c| c.duplicates),
    ("emu_corruptions", "Packets with a bit changed", |c| {
        c.corruptions
    }),
    ("emu_overtakes", "Packets that skipped the latency", |c| {
        c.overtakes
    }),
];

impl Figures {
    fn local(&self) -> impl Iterator<Item = (Labels, &(String, usize, [Counters; 2]))> {
        let local = self.groups.iter().filter(|(_, vnodes, _)| *vnodes > 0);
        local.map(|group| (vec![("group", group.0.clone())], group))
    }

    fn local_delays(&self) -> impl Iterator<Item = (Labels, QueueDelayHistogram)> {
        let groups = self.groups.iter().zip(&self.delays);
        let local = groups.filter(|((_, vnodes, _), _)| *vnodes > 0);
        local.flat_map(|((name, _, _), sides)| {
            let labels = vec![("group", name.clone())];
            let sides = DIRECTIONS.iter().zip(sides);
            sides
                .map(|((_, direction), waits)| (side(&labels, direction), *waits))
                .collect::<Vec<_>>()
        })
    }

    fn groups(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        let labels = vec![
            ("topology", self.topology.clone()),
            ("host", self.host.clone()),
        ];
        to.gauge(
            "emu_topology_info",
            "The loaded topology and the name of this host",
            [(labels, 1.0)],
        )?;
        to.gauge(
            "emu_vnodes",
            "Vnodes of a group on this host",
            self.local().map(|(labels, group)| (labels, group.1 as f64)),
        )?;
        for (name, help, pick) in OF_GROUPS {
            to.counter(
                name,
                help,
                self.local()
                    .flat_map(|(labels, group)| both(&labels, &group.2, pick)),
            )?;
        }
        to.counter(
            "emu_drops",
            "Packets dropped or lost by the emulated network, by reason",
            self.local()
                .flat_map(|(labels, group)| both_drops(&labels, &group.2)),
        )?;
        let waits = self.groups.iter().zip(&self.waits);
        let waits = waits.filter(|((_, vnodes, _), _)| *vnodes > 0);
        to.gauge(
            "emu_longest_queue_seconds",
            "Queueing delay of a packet that arrives now at the fullest pipe of a group",
            waits.flat_map(|((name, _, _), sides)| {
                let labels = vec![("group", name.clone())];
                let sides = DIRECTIONS.iter().zip(sides);
                sides
                    .map(|((_, direction), wait)| (side(&labels, direction), *wait))
                    .collect::<Vec<_>>()
            }),
        )?;
        to.histogram(
            "emu_queue_delay_seconds",
            "Time of a group's packets in a pipe, including serialisation",
            self.local_delays(),
        )?;
        to.counter(
            "emu_verdicts",
            "Actions of the BPF programs on packets, by reason",
            self.reasons
                .iter()
                .map(|(reason, count)| (vec![("reason", reason.name().to_owned())], *count)),
        )
    }

    fn vnodes(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        if self.vnodes.is_empty() {
            return Ok(());
        }
        let labels =
            |v: &VnodeFigures| vec![("group", v.group.clone()), ("vnode", v.vnode.clone())];
        to.counter(
            "emu_vnode_packets",
            "Packets that a vnode's pipe accepted",
            self.vnodes
                .iter()
                .flat_map(|v| both(&labels(v), &v.counters, |c| c.packets)),
        )?;
        to.counter(
            "emu_vnode_bytes",
            "Bytes charged for a vnode's accepted packets",
            self.vnodes
                .iter()
                .flat_map(|v| both(&labels(v), &v.counters, |c| c.bytes)),
        )?;
        to.counter(
            "emu_vnode_drops",
            "Packets dropped or lost in a vnode's pipe, by reason",
            self.vnodes
                .iter()
                .flat_map(|v| both_drops(&labels(v), &v.counters)),
        )
    }

    fn fq(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        let each = |pick: fn(&FqStats) -> f64| {
            let samples = self
                .fq
                .iter()
                .map(move |fq| (vec![("interface", fq.interface.clone())], pick(fq)));
            samples.collect::<Vec<_>>()
        };
        to.gauge(
            "emu_fq_lateness_seconds",
            "Delay of fq's timer against its due time, a moving average",
            each(|fq| f64::from(fq.lateness_ns) / 1e9),
        )?;
        to.gauge(
            "emu_fq_held_packets",
            "Packets waiting in fq for their due time",
            each(|fq| f64::from(fq.held_packets)),
        )?;
        to.gauge(
            "emu_fq_flows",
            "Flows of fq",
            each(|fq| f64::from(fq.flows)),
        )?;
        to.counter(
            "emu_fq_early",
            "Packets due beyond fq's horizon, sent too early",
            (self.fq.iter()).map(|fq| (vec![("interface", fq.interface.clone())], fq.sent_early)),
        )?;
        to.counter(
            "emu_fq_drops",
            "Packets dropped by fq itself, which its size should prevent",
            self.fq.iter().flat_map(|fq| {
                let known = fq.flow_limit_drops + fq.horizon_drops + fq.memory_drops;
                let other = u64::from(fq.drops).saturating_sub(known);
                [
                    ("flow_limit", fq.flow_limit_drops),
                    ("horizon", fq.horizon_drops),
                    ("memory", fq.memory_drops),
                    ("limit", other),
                ]
                .map(|(reason, count)| {
                    let labels = vec![
                        ("interface", fq.interface.clone()),
                        ("reason", reason.to_owned()),
                    ];
                    (labels, count)
                })
            }),
        )
    }
}
