//! Layout of the map keys and values, with size and offset assertions.
//!
//! Addresses are 16 bytes in network order; IPv4 is stored IPv4-mapped
//! (`::ffff:a.b.c.d`), so that one table serves both families.
use core::mem::{align_of, offset_of, size_of};

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

/// Link between two leaf groups, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct PairLink {
    /// One-way latency in nanoseconds.
    pub latency_ns: u64,
}

/// One direction of a vnode's access line: settings, state and counters.
///
/// The first 64 bytes are written by user space only, the second 64 by the
/// kernel only, each a cache line. `next_free_ns` is changed by
/// compare-and-swap, the counters and `sequence` by atomic addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Pipe {
    /// Nanoseconds for a byte, times 2^20; 0 for an unlimited rate.
    pub ns_per_byte_q20: u64,
    /// Propagation delay of the access line, one way, in nanoseconds.
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
    /// Room for the link model to grow without moving the state.
    pub reserved: [u64; 2],

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
    /// Keeps the pipe a multiple of the cache line.
    pub reserved_state: u64,
}

/// An address as socket hooks have it: four words in network order, IPv4 in
/// mapped form. Value of the identity hash: the address of a vnode's processes.
///
/// Words instead of the octets of [`AddrKey`], because the fields of a socket
/// are read and written as words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SocketAddress {
    /// Words in network byte order.
    pub words: [u32; 4],
}

impl SocketAddress {
    /// An IPv4 address, given as the word in network byte order.
    #[inline(always)]
    pub const fn from_v4(word: u32) -> Self {
        Self {
            words: [0, 0, 0xffff_u32.to_be(), word],
        }
    }

    /// An IPv6 address, given as words in network byte order.
    #[inline(always)]
    pub const fn from_v6(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The same address as a key.
    #[inline(always)]
    pub const fn from_key(key: AddrKey) -> Self {
        let o = key.octets;
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }
}

const _: () = {
    assert!(size_of::<SocketAddress>() == 16 && align_of::<SocketAddress>() == 4);
    assert!(offset_of!(SocketAddress, words) == 0);
    assert!(size_of::<AddrKey>() == 16 && align_of::<AddrKey>() == 1);
    assert!(size_of::<VnodeRef>() == 8 && offset_of!(VnodeRef, pair_row) == 4);
    assert!(size_of::<PairLink>() == 8);
    assert!(size_of::<Pipe>() == 128 && align_of::<Pipe>() == 8);
    assert!(offset_of!(Pipe, ring_base) == 32);
    assert!(offset_of!(Pipe, overhead_bytes) == 40);
    assert!(offset_of!(Pipe, next_free_ns) == 64);
    assert!(offset_of!(Pipe, packets) == 80);
    assert!(offset_of!(Pipe, reserved_state) == 120);
};

#[cfg(feature = "user")]
mod pod {
    use super::{AddrKey, PairLink, Pipe, SocketAddress, VnodeRef};

    // SAFETY: repr(C), a byte array alone: no padding, every bit pattern valid.
    unsafe impl aya::Pod for AddrKey {}
    // SAFETY: repr(C), four u32: no padding, every bit pattern valid.
    unsafe impl aya::Pod for SocketAddress {}
    // SAFETY: repr(C), two u32: no padding, every bit pattern valid.
    unsafe impl aya::Pod for VnodeRef {}
    // SAFETY: repr(C), one u64: no padding, every bit pattern valid.
    unsafe impl aya::Pod for PairLink {}
    // SAFETY: repr(C), integers whose sizes add up to the asserted 128 bytes:
    // no padding, every bit pattern valid.
    unsafe impl aya::Pod for Pipe {}
}
