//! `counters.csv`: what each vnode of the run sent and received over time.
use std::{
    collections::BTreeMap,
    fs::File,
    net::IpAddr,
    time::{Duration, Instant},
};

use emu_common::layout::Direction;
use emu_kernel::{bpf::Maps, session::Loaded};
use serde::Serialize;

use super::{
    RunError,
    record::{csv_error, seconds},
};

/// One over the largest fraction of one processor that sampling takes.
const SHARE: u32 = 20;

/// A row of the table, with totals since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct CounterRow {
    time_s: f64,
    vnode: IpAddr,
    sent_packets: u64,
    sent_bytes: u64,
    sent_drops: u64,
    received_packets: u64,
    received_bytes: u64,
    received_drops: u64,
    cpu_s: f64,
}

/// Packets, bytes and drops of the up pipe, then of the down pipe.
type Totals = [u64; 6];

/// Traffic of all vnodes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes that entered the up pipes.
    pub sent_bytes: u64,
    pub sent_packets: u64,
    /// Bytes that left the down pipes.
    pub received_bytes: u64,
    pub received_packets: u64,
    /// Packets that were dropped or lost in pipes of either direction.
    pub drops: u64,
}

struct Vnode {
    address: IpAddr,
    slot: usize,
    base: Totals,
    last: Totals,
    cpu_s: f64,
    /// Whether the table has a row of the vnode.
    begun: bool,
}

pub(super) struct Counters {
    vnodes: Vec<Vnode>,
    table: Option<csv::Writer<File>>,
    interval: Duration,
    /// Earliest time of the next sample.
    next: Instant,
}

impl Counters {
    /// Counters relative to now. Without a table, nothing is written.
    pub fn new(
        loaded: &Loaded,
        maps: &Maps,
        vnodes: impl Iterator<Item = IpAddr>,
        table: Option<csv::Writer<File>>,
        interval: Duration,
    ) -> Self {
        let slots: BTreeMap<IpAddr, usize> = loaded
            .plan
            .vnodes
            .iter()
            .zip(&loaded.slots)
            .map(|(vnode, slot)| (vnode.address, *slot as usize))
            .collect();
        let wanted: std::collections::BTreeSet<IpAddr> = vnodes.collect();
        let vnodes = wanted
            .into_iter()
            .filter_map(|address| {
                let slot = *slots.get(&address)?;
                let base = totals(maps, slot);
                Some(Vnode {
                    address,
                    slot,
                    base,
                    last: [0; 6],
                    cpu_s: 0.0,
                    begun: false,
                })
            })
            .collect();
        Self {
            vnodes,
            table,
            interval,
            next: Instant::now(),
        }
    }

    pub fn next(&self) -> Instant {
        self.next
    }

    /// Takes a sample: writes a row for each vnode whose counters have changed. `cpu` gives
    /// the CPU time of a vnode.
    pub fn sample(
        &mut self,
        maps: &Maps,
        time: Duration,
        cpu: &dyn Fn(IpAddr) -> Option<Duration>,
    ) -> Result<Traffic, RunError> {
        let begin = Instant::now();
        let time_s = seconds(time);
        let mut sum = Traffic::default();
        for vnode in &mut self.vnodes {
            let mut now = totals(maps, vnode.slot);
            for (now, base) in now.iter_mut().zip(vnode.base) {
                *now = now.saturating_sub(base);
            }
            sum.add(&now);
            let Some(table) = &mut self.table else {
                vnode.last = now;
                continue;
            };
            let cpu_s = cpu(vnode.address).map_or(vnode.cpu_s, seconds);
            let changed = now != vnode.last || cpu_s > vnode.cpu_s;
            if changed || !vnode.begun {
                table
                    .serialize(row(time_s, vnode.address, &now, cpu_s))
                    .map_err(csv_error)?;
                vnode.begun = true;
            }
            (vnode.last, vnode.cpu_s) = (now, cpu_s);
        }
        // If reading takes long, samples become rarer, so that sampling does not slow the
        // host down.
        self.next = Instant::now() + self.interval.max(begin.elapsed() * SHARE);
        Ok(sum)
    }

    pub fn flush(&mut self) -> Result<(), RunError> {
        match &mut self.table {
            Some(table) => table
                .flush()
                .map_err(RunError::system("write the counters")),
            None => Ok(()),
        }
    }
}

impl Traffic {
    fn add(&mut self, totals: &Totals) {
        let [sent_packets, sent_bytes, sent_drops, packets, bytes, drops] = totals;
        self.sent_packets += sent_packets;
        self.sent_bytes += sent_bytes;
        self.received_packets += packets;
        self.received_bytes += bytes;
        self.drops += sent_drops + drops;
    }
}

fn row(time_s: f64, vnode: IpAddr, totals: &Totals, cpu_s: f64) -> CounterRow {
    let [sent_packets, sent_bytes, sent_drops, packets, bytes, drops] = *totals;
    CounterRow {
        time_s,
        vnode,
        sent_packets,
        sent_bytes,
        sent_drops,
        received_packets: packets,
        received_bytes: bytes,
        received_drops: drops,
        cpu_s,
    }
}

fn totals(maps: &Maps, slot: usize) -> Totals {
    let side = |direction: Direction| {
        let pipe = maps
            .pipes
            .get(slot * 2 + direction as usize)
            .unwrap_or_default();
        let stage = (pipe.stage as usize)
            .checked_sub(1)
            .and_then(|index| maps.stages.get(index))
            .unwrap_or_default();
        let drops = pipe.drops_packets
            + pipe.drops_bytes
            + pipe.drops_closed
            + stage.aqm_drops
            + stage.losses;
        [pipe.packets, pipe.bytes, drops]
    };
    let (up, down) = (side(Direction::Up), side(Direction::Down));
    [up[0], up[1], up[2], down[0], down[1], down[2]]
}
