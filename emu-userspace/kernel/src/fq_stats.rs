//! Statistics of emu's fq qdiscs: timer lateness, packets held, drops.
use netlink_packet_route::tc::{TcAttribute, TcStats2, TcXstats};

use super::{
    link,
    netlink::{Netlink, NetlinkError},
    tc,
};

// Offsets in struct tc_fq_qd_stats (uapi/linux/pkt_sched.h).
const THROTTLED: usize = 24;
const FLOWS_PLIMIT: usize = 32;
const ALLOCATION_ERRORS: usize = 48;
const FLOWS: usize = 64;
const THROTTLED_FLOWS: usize = 72;
const UNTHROTTLE_LATENCY: usize = 76;
const HORIZON_DROPS: usize = 88;
const HORIZON_CAPS: usize = 96;

/// Statistics of one fq qdisc.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FqStats {
    pub interface: String,
    /// Delay of its timer, a moving average in nanoseconds.
    pub lateness_ns: u32,
    /// Packets in the qdisc.
    pub held_packets: u32,
    /// Packets dropped for any reason; emu sizes fq so that there are none.
    pub drops: u32,
    /// Drops because a flow was full.
    pub flow_limit_drops: u64,
    /// Drops beyond the horizon.
    pub horizon_drops: u64,
    /// Packets that were due beyond the horizon, and are sent at it, too early.
    pub sent_early: u64,
    /// Drops because memory was not available.
    pub memory_drops: u64,
    /// Packets that waited for their due time, since the qdisc was created.
    pub throttled: u64,
    pub flows: u32,
    /// Flows whose next packet is not yet due.
    pub waiting_flows: u32,
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let bytes = bytes
        .get(offset..offset + 4)
        .and_then(|b| b.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let bytes = bytes
        .get(offset..offset + 8)
        .and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_ne_bytes)
}

/// Statistics of all of emu's fq qdiscs in the calling thread's network namespace.
pub fn fq_stats(netlink: &mut Netlink) -> Result<Vec<FqStats>, NetlinkError> {
    let links = link::links(netlink)?;
    let ours = tc::qdiscs(netlink)?;
    let ours = ours
        .into_iter()
        .filter(|q| q.handle.major == tc::FQ_HANDLE_MAJOR);
    let found = ours.filter_map(|qdisc| {
        let link = links.iter().find(|l| l.index == qdisc.index)?;
        let mut stats = FqStats {
            interface: link.name.clone(),
            ..FqStats::default()
        };
        for attribute in &qdisc.message().attributes {
            let TcAttribute::Stats2(parts) = attribute else {
                continue;
            };
            for part in parts {
                match part {
                    TcStats2::Queue(queue) => {
                        stats.held_packets = queue.qlen;
                        stats.drops = queue.drops;
                    }
                    TcStats2::App(app) => application(&mut stats, app),
                    _ => {}
                }
            }
        }
        Some(stats)
    });
    Ok(found.collect())
}

fn application(stats: &mut FqStats, app: &TcXstats) {
    let TcXstats::Other(bytes) = app else {
        return;
    };
    let bytes = bytes.as_slice();
    stats.lateness_ns = u32_at(bytes, UNTHROTTLE_LATENCY);
    stats.flow_limit_drops = u64_at(bytes, FLOWS_PLIMIT);
    stats.horizon_drops = u64_at(bytes, HORIZON_DROPS);
    stats.sent_early = u64_at(bytes, HORIZON_CAPS);
    stats.memory_drops = u64_at(bytes, ALLOCATION_ERRORS);
    stats.throttled = u64_at(bytes, THROTTLED);
    stats.flows = u32_at(bytes, FLOWS);
    stats.waiting_flows = u32_at(bytes, THROTTLED_FLOWS);
}
