//! Layout of the map keys and values, with size and offset assertions.
//!
//! Addresses are 16 bytes in network order; IPv4 is stored IPv4-mapped
//! (`::ffff:a.b.c.d`), so that one table serves both families.
mod socket;

use core::mem::{align_of, offset_of, size_of};

use crate::model::{queue_delay, random::mix};
pub use socket::{Identity, SocketAddress, socket_flag};

mod schedule;

pub use schedule::{MAX_SCHEDULE_ROWS, NO_LIMIT_WORK, Row, Schedule, schedule_flag};

/// Local vnodes that one host can carry: the flow identifier has 16 bits for one.
pub const MAX_VNODES: u32 = 65_536;
/// Groups of a topology: the flow identifier has 11 bits, and 0 means "none".
pub const MAX_GROUPS: u32 = 1_024;
/// Prefix bits that precede an IPv4 address in its mapped form.
pub const V4_MAPPED_BITS: u32 = 96;
/// [`Pipe::limit_ns`] of a pipe without a limit in time.
pub const NO_LIMIT_NS: u64 = u64::MAX;

/// Key of the vnode hash and data of the group trie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct AddrKey {
    /// Address in network byte order, IPv4 in mapped form.
    pub octets: [u8; 16],
}

impl AddrKey {
    /// Key of an IPv4 address given in network byte order.
    #[inline(always)]
    pub const fn from_v4(a: [u8; 4]) -> Self {
        Self {
            octets: [
                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3],
            ],
        }
    }

    /// Key of an IPv6 address.
    #[inline(always)]
    pub const fn from_v6(octets: [u8; 16]) -> Self {
        Self { octets }
    }
}

/// What the vnode hash knows of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct VnodeRef {
    /// Index of the vnode on this host; its pipes are `2 * index + direction`.
    pub index: u32,
    /// Row of its leaf group in the pair table: `group * groups`.
    pub pair_row: u32,
}

/// Direction of a pipe, and its offset among the two pipes of a vnode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// From the vnode into the network.
    Up = 0,
    /// From the network to the vnode.
    Down = 1,
}

impl VnodeRef {
    /// Index of one of the vnode's pipes in the pipe array.
    #[inline(always)]
    pub const fn pipe_index(&self, direction: Direction) -> u32 {
        self.index * 2 + direction as u32
    }
}

/// The port of a machine: the end of its link in the network namespace of the load. Written by
/// user space only; all zero for a vnode that is no machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Port {
    /// Index of the interface.
    pub interface: u32,
    /// MTU of the machine's line in bytes.
    pub mtu_bytes: u32,
}

/// Link between two leaf groups, in one direction. Written by user space only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PairLink {
    /// One-way latency in nanoseconds.
    pub latency_ns: u64,
    /// Its [`ImpairmentState`] plus one, 0 for none; [`PairLink::CUT`] on top.
    pub stage: u32,
    /// Index of the pipe that all its flows share, 0 for none (pipe 0 is a
    /// vnode's).
    pub pipe: u32,
}

impl PairLink {
    /// Bit of [`PairLink::stage`]: the groups cannot reach each other.
    pub const CUT: u32 = 1 << 31;
}

/// Bits of the read-only global that names the features in use.
pub mod feature {
    /// Some pipe or link has a stage.
    pub const IMPAIRMENTS: u32 = 1 << 0;
    /// Some queue is actively managed.
    pub const AQM: u32 = 1 << 1;
    /// Some stage duplicates or corrupts.
    pub const COPIES: u32 = 1 << 2;
    /// Some link has a capacity.
    pub const CAPACITY: u32 = 1 << 3;
    /// Some vnode filters what comes in.
    pub const FILTERS: u32 = 1 << 4;
    /// Some vnode is a machine.
    pub const MACHINES: u32 = 1 << 5;
    /// Some pipe has a [`super::Schedule`].
    pub const SCHEDULES: u32 = 1 << 6;
    /// Every feature.
    pub const ALL: u32 = IMPAIRMENTS | AQM | COPIES | CAPACITY | FILTERS | MACHINES | SCHEDULES;
}

/// Bits of [`Pipe::flags`].
pub mod pipe_flag {
    /// The vnode is down: nothing passes.
    pub const DOWN: u32 = 1 << 0;
    /// Packets are charged in whole ATM cells.
    pub const CELLS: u32 = 1 << 1;
    /// Where the filter class stands, [`crate::model::filter`], two bits.
    pub const FILTER_SHIFT: u32 = 2;
    /// Its mask, shifted.
    pub const FILTER_MASK: u32 = 3;
    /// The pipe has a [`super::Schedule`].
    pub const SCHEDULED: u32 = 1 << 4;
    /// Where the vnode's group stands, whose [`super::QueueDelayHistogram`] count its packets.
    pub const GROUP_SHIFT: u32 = 16;
    /// Its mask, shifted: [`super::MAX_GROUPS`] fit.
    pub const GROUP_MASK: u32 = 0x7ff;
}

/// Bits of [`ImpairmentState::flags`].
pub mod stage_flag {
    /// Jittered packets may overtake each other.
    pub const OVERTAKE: u32 = 1 << 0;
    /// Congestion is marked in packets that allow it (ECN), not dropped.
    pub const ECN: u32 = 1 << 1;
}

/// What happens to packets on a pipe or a link besides delay and rate.
///
/// The first 128 bytes are settings and written by user space only, the others
/// state and counters, written by the kernel only. Probabilities are fractions of
/// 2^32, the largest value is certainty. `sequence` and the counters change by
/// atomic addition; the rest of the state by plain stores, where two CPUs at the
/// same moment may lose one step of a chain, never break it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ImpairmentState {
    /// Seed of all its random decisions.
    pub seed: u64,
    /// Spread of the jitter in nanoseconds, 0 for none.
    pub jitter_ns: u64,
    /// Distribution of the jitter, [`crate::model::jitter`].
    pub jitter_table: u32,
    /// [`stage_flag`] bits.
    pub flags: u32,
    /// Correlations: jitter, loss, duplication, corruption, reordering.
    pub rho: [u32; 5],
    /// Model of losses, [`crate::model::loss`].
    pub loss_kind: u32,
    /// Its probabilities.
    pub loss: [u32; 5],
    /// Probability of a second copy.
    pub duplicate: u32,
    /// Probability of a changed bit.
    pub corrupt: u32,
    /// Probability that a packet skips the latency and so overtakes.
    pub reorder: u32,
    /// Packets that must be delayed before one may overtake; 0 or 1: none.
    pub reorder_gap: u32,
    /// Active management of the queue, [`crate::model::aqm`].
    pub aqm_kind: u32,
    /// Target of CoDel or lower threshold of RED, nanoseconds of waiting.
    pub aqm_low_ns: u64,
    /// Interval of CoDel or upper threshold of RED, nanoseconds.
    pub aqm_high_ns: u64,
    /// Probability at RED's upper threshold.
    pub red_probability: u32,
    /// RED's average moves by 2^-this with each packet.
    pub red_weight_bits: u32,
    /// Keeps the state in cache lines of its own.
    pub reserved: [u64; 2],

    /// Packets seen: the number of the next packet's random draws.
    pub sequence: u64,
    /// Last correlated numbers, in the order of `rho`.
    pub last: [u32; 5],
    /// State of the loss chain.
    pub loss_state: u32,
    /// Packets delayed since the last one that overtook.
    pub reorder_count: u32,
    /// State of CoDel, [`crate::model::aqm::Codel`].
    pub codel_dropping: u32,
    /// State of CoDel.
    pub codel_first_above_ns: u64,
    /// State of CoDel.
    pub codel_drop_next_ns: u64,
    /// State of CoDel.
    pub codel_count: u32,
    /// State of CoDel.
    pub codel_last_count: u32,
    /// RED's average wait in 1/256 ns.
    pub red_average_q8: u64,
    /// Packets lost by the loss model.
    pub losses: u64,
    /// Packets dropped by active queue management.
    pub aqm_drops: u64,
    /// Packets marked instead.
    pub marks: u64,
    /// Copies made.
    pub duplicates: u64,
    /// Packets with a changed bit.
    pub corruptions: u64,
    /// Packets that skipped the latency.
    pub overtakes: u64,
    /// As the other fields of CoDel.
    pub codel_inverse_root: u32,
    /// Keeps the stage a multiple of the cache line.
    pub reserved_state: u32,
}

/// An opening in a vnode's filter: what the vnode has sent to. Parts that its
/// class does not keep are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterEntry {
    /// Remote address.
    pub remote: AddrKey,
    /// Index of the vnode.
    pub vnode: u32,
    /// Port of the vnode, network order; the identifier of an ICMP echo.
    pub local_port: u16,
    /// Remote port, network order.
    pub remote_port: u16,
    /// IP protocol.
    pub protocol: u8,
}

impl FilterEntry {
    /// Its key in the map: 64 bits of hash, of which two openings in millions are
    /// alike once in 2^20 topologies. Found in a third of the time of the whole.
    #[inline(always)]
    pub const fn key(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, rest @ ..] = self.remote.octets;
        let high = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let low = u64::from_ne_bytes(rest);
        let ports = (self.local_port as u64) << 16 | self.remote_port as u64;
        let own = (self.vnode as u64) << 40 | (self.protocol as u64) << 32 | ports;
        let high = high.wrapping_mul(0x4cf5_ad43_2745_937f);
        mix(mix(own.wrapping_add(high)) ^ low)
    }
}

/// One direction of a vnode's access link: settings, state and counters.
///
/// The first 64 bytes are written by user space only, the second 64 by the
/// kernel only, each a cache line. `next_free_ns` is changed by
/// compare-and-swap, the counters and `sequence` by atomic addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Pipe {
    /// Nanoseconds for a byte, times 2^20; 0 for an unlimited rate.
    pub ns_per_byte_q20: u64,
    /// Propagation delay of the access link, one way, in nanoseconds.
    pub latency_ns: u64,
    /// Longest wait in the queue including the packet's own serialisation;
    /// [`NO_LIMIT_NS`] for none.
    pub limit_ns: u64,
    /// How far the clock may run ahead of the line: the burst in nanoseconds.
    pub burst_ns: u64,
    /// First slot of the pipe in the departure ring.
    pub ring_base: u32,
    /// Most packets in the queue, and slots in the ring; 0 for no such limit.
    pub limit_packets: u32,
    /// Bytes added to each packet's IP length when it is charged; may be negative.
    pub overhead_bytes: i32,
    /// Distinguishes fq flows before and after a latency decrease (5 bits used).
    pub generation: u32,
    /// Its [`ImpairmentState`] plus one, 0 for none.
    pub stage: u32,
    /// [`pipe_flag`] bits.
    pub flags: u32,
    /// How long the vnode's filter stays open after it sent, nanoseconds.
    pub filter_timeout_ns: u64,

    /// When the line is free again, `CLOCK_MONOTONIC` nanoseconds.
    pub next_free_ns: u64,
    /// Packets accepted so far; picks the ring slot.
    pub sequence: u64,
    /// Packets accepted.
    pub packets: u64,
    /// Bytes charged for accepted packets.
    pub bytes: u64,
    /// Packets dropped because the queue held `limit_packets`.
    pub drops_packets: u64,
    /// Packets dropped because of `limit_ns`.
    pub drops_bytes: u64,
    /// Bytes of all dropped packets.
    pub dropped_bytes: u64,
    /// Packets dropped because the vnode is down, its group cut off, or its filter
    /// closed.
    pub drops_closed: u64,
}

/// How long the packets of a group's vnodes were in their pipes, in one direction. Each
/// CPU has its own; index: `2 * group + direction`. Written by the kernel only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct QueueDelayHistogram {
    /// Packets in each bucket, [`crate::model::queue_delay`].
    pub buckets: [u64; queue_delay::BUCKETS as usize],
    /// Sum of all times in nanoseconds.
    pub sum_ns: u64,
}

const _: () = {
    assert!(size_of::<AddrKey>() == 16 && align_of::<AddrKey>() == 1);
    assert!(size_of::<VnodeRef>() == 8 && offset_of!(VnodeRef, pair_row) == 4);
    assert!(size_of::<Port>() == 8 && offset_of!(Port, mtu_bytes) == 4);
    assert!(size_of::<PairLink>() == 16 && offset_of!(PairLink, pipe) == 12);
    assert!(size_of::<ImpairmentState>() == 256 && align_of::<ImpairmentState>() == 8);
    assert!(
        offset_of!(ImpairmentState, loss) == 48 && offset_of!(ImpairmentState, aqm_low_ns) == 88
    );
    assert!(
        offset_of!(ImpairmentState, sequence) == 128
            && offset_of!(ImpairmentState, reserved_state) == 252
    );
    assert!(
        size_of::<QueueDelayHistogram>() == 192 && offset_of!(QueueDelayHistogram, sum_ns) == 184
    );
    assert!(MAX_GROUPS <= pipe_flag::GROUP_MASK + 1);
    assert!(size_of::<Pipe>() == 128 && align_of::<Pipe>() == 8);
    assert!(offset_of!(Pipe, ring_base) == 32);
    assert!(offset_of!(Pipe, overhead_bytes) == 40);
    assert!(offset_of!(Pipe, next_free_ns) == 64);
    assert!(offset_of!(Pipe, packets) == 80);
    assert!(offset_of!(Pipe, stage) == 48 && offset_of!(Pipe, drops_closed) == 120);
};

#[cfg(feature = "user")]
mod pod {
    use super::{AddrKey, ImpairmentState, PairLink, Pipe, Port, QueueDelayHistogram, VnodeRef};

    // SAFETY: repr(C), a byte array alone: no padding, every bit pattern valid.
    unsafe impl aya::Pod for AddrKey {}
    // SAFETY: repr(C), two u32: no padding, every bit pattern valid.
    unsafe impl aya::Pod for VnodeRef {}
    // SAFETY: repr(C), two u32: no padding, every bit pattern valid.
    unsafe impl aya::Pod for Port {}
    // SAFETY: repr(C), integers whose sizes add up to the asserted 256 bytes: no
    // padding, every bit pattern valid.
    unsafe impl aya::Pod for ImpairmentState {}
    // SAFETY: repr(C), a u64 and two u32: no padding, every bit pattern valid.
    unsafe impl aya::Pod for PairLink {}
    // SAFETY: repr(C), u64 alone, 192 bytes as asserted: no padding, every bit pattern
    // valid.
    unsafe impl aya::Pod for QueueDelayHistogram {}
    // SAFETY: repr(C), integers whose sizes add up to the asserted 128 bytes:
    // no padding, every bit pattern valid.
    unsafe impl aya::Pod for Pipe {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_opening_is_in_its_key() {
        let base = FilterEntry {
            remote: AddrKey::from_v4([10, 0, 0, 1]),
            vnode: 3,
            local_port: 5,
            remote_port: 7,
            protocol: 17,
        };
        let remote = AddrKey::from_v4([10, 0, 0, 2]);
        let other = |change: fn(&mut FilterEntry)| {
            let mut opening = base;
            change(&mut opening);
            opening.key()
        };
        let keys = [
            base.key(),
            FilterEntry { remote, ..base }.key(),
            other(|o| o.remote.octets[0] = 1),
            other(|o| o.vnode = 4),
            other(|o| o.local_port = 6),
            other(|o| o.remote_port = 8),
            other(|o| o.protocol = 6),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[i + 1..].contains(key), "{i}");
        }
    }
}
