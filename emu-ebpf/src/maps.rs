//! The maps. Sizes here are the smallest ones; the loader sets those of the
//! topology before it loads the object.
use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie::Key},
};
use emu_common::{
    layout::{
        AddrKey, FilterEntry, Identity, ImpairmentState, PairLink, Pipe, Port, QueueDelayHistogram,
        Row, Schedule, V4_MAPPED_BITS, VnodeRef, feature,
    },
    model::{identity::SocketEvent, jitter, order, queue_delay},
    reason::Reason,
};

use crate::atomic;

#[map(name = "EMU_VNODES")]
static VNODES: HashMap<AddrKey, VnodeRef> = HashMap::with_max_entries(1, 0);

#[map(name = "EMU_GROUPS")]
static GROUPS: LpmTrie<AddrKey, u32> = LpmTrie::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map(name = "EMU_PAIRS")]
static PAIRS: Array<PairLink> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map(name = "EMU_PIPES")]
static PIPES: Array<Pipe> = Array::with_max_entries(2, BPF_F_MMAPABLE);

#[map(name = "EMU_DEPARTURES")]
static DEPARTURES: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map(name = "EMU_IMPAIRMENTS")]
static IMPAIRMENTS: Array<ImpairmentState> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map(name = "EMU_TABLES")]
static TABLES: Array<i32> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map(name = "EMU_FILTERS")]
static FILTERS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1, 0);

#[map(name = "EMU_LATEST")]
static LATEST: Array<u64> = Array::with_max_entries(1, 0);

#[map(name = "EMU_REASONS")]
static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

#[map(name = "EMU_DELAYS")]
static QUEUE_DELAYS: PerCpuArray<QueueDelayHistogram> = PerCpuArray::with_max_entries(2, 0);

#[map(name = "EMU_PORTS")]
static PORTS: Array<Port> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map(name = "EMU_ROWS")]
static ROWS: Array<Row> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map(name = "EMU_SCHEDULES")]
static SCHEDULES: Array<Schedule> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map(name = "EMU_IDENTITY")]
static IDENTITY: HashMap<u64, Identity> = HashMap::with_max_entries(1, 0);

#[map(name = "EMU_SOCKETS")]
static SOCKETS: LruHashMap<u64, Identity> = LruHashMap::with_max_entries(1, 0);

#[map(name = "EMU_V6_ONLY")]
static V6_ONLY: LruHashMap<u64, u32> = LruHashMap::with_max_entries(1, 0);

#[map(name = "EMU_EVENTS")]
static EVENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(SocketEvent::COUNT, 0);

/// Whether packets with a socket are replaced by a clone; see
/// [`emu_common::names::GLOBAL_ORPHAN`].
#[unsafe(no_mangle)]
static EMU_ORPHAN: u32 = 1;

/// Reads the read-only global that the loader may have patched.
#[inline(always)]
pub fn orphan() -> bool {
    // SAFETY: a reference to a static is valid; volatile because the loader
    // changes the section behind the compiler's back.
    unsafe { core::ptr::read_volatile(&EMU_ORPHAN) != 0 }
}

/// Features that the topology uses; see [`emu_common::names::GLOBAL_FEATURES`].
#[unsafe(no_mangle)]
static EMU_FEATURES: u32 = feature::ALL;

/// Reads the read-only global that the loader may have patched. The verifier
/// knows its value and drops the code of features that are off.
#[inline(always)]
pub fn features() -> u32 {
    // SAFETY: as for `orphan`.
    unsafe { core::ptr::read_volatile(&EMU_FEATURES) }
}

/// Slots of `LATEST` less one; see [`emu_common::names::GLOBAL_LATEST_MASK`].
#[unsafe(no_mangle)]
static EMU_LATEST_MASK: u32 = 0;

/// Latency of the network between the hosts; see
/// [`emu_common::names::GLOBAL_HOST_LATENCY`].
#[unsafe(no_mangle)]
static EMU_HOST_LATENCY_NS: u64 = 0;

/// Reads the read-only global that the loader may have patched. The verifier
/// knows its value and drops what depends on it where it is 0.
#[inline(always)]
pub fn host_latency_ns() -> u64 {
    // SAFETY: as for `orphan`.
    unsafe { core::ptr::read_volatile(&EMU_HOST_LATENCY_NS) }
}

/// Interface to the other hosts; see [`emu_common::names::GLOBAL_UPLINK`].
#[unsafe(no_mangle)]
static EMU_UPLINK: u32 = 0;

/// Reads the read-only global that the loader may have patched.
#[inline(always)]
pub fn uplink() -> u32 {
    // SAFETY: as for `orphan`.
    unsafe { core::ptr::read_volatile(&EMU_UPLINK) }
}

/// The port of a local vnode, if it is a machine.
#[inline(always)]
pub fn port(vnode: u32) -> Option<Port> {
    let port = PORTS.get_ptr(vnode)?;
    // SAFETY: the pointer is to a live map value of this type. User space writes it once,
    // before the programs are attached.
    let port = unsafe { *port };
    if port.interface == 0 {
        return None;
    }
    Some(port)
}

/// The local vnode that has an address.
#[inline(always)]
pub fn vnode(address: &AddrKey) -> Option<VnodeRef> {
    let found = VNODES.get_ptr(address)?;
    // SAFETY: the pointer is to a live map value of this type; entries are
    // replaced whole by user space and never changed in place.
    Some(unsafe { *found })
}

/// The most specific group whose prefix holds an address.
#[inline(always)]
pub fn group(address: &AddrKey) -> Option<u32> {
    GROUPS.get(Key::new(V4_MAPPED_BITS + 32, *address)).copied()
}

/// The link from the group of `row` to a group.
#[inline(always)]
pub fn pair(row: u32, group: u32) -> PairLink {
    PAIRS
        .get(row.wrapping_add(group))
        .copied()
        .unwrap_or_default()
}

/// A stage, shared with all CPUs: see [`ImpairmentState`].
#[inline(always)]
pub fn stage(index: u32) -> Option<*mut ImpairmentState> {
    IMPAIRMENTS.get_ptr_mut(index)
}

/// The entry of a jitter distribution that a random number picks.
#[inline(always)]
pub fn table_entry(table: u32, random: u32) -> i32 {
    TABLES
        .get(jitter::table_slot(table, random))
        .copied()
        .unwrap_or(0)
}

/// When an opening of a filter was made.
#[inline(always)]
pub fn opening(opening: &FilterEntry) -> Option<u64> {
    let found = FILTERS.get_ptr(opening.key())?;
    Some(atomic::read(found))
}

/// Makes or renews an opening.
#[inline(always)]
pub fn set_opening(opening: &FilterEntry, now_ns: u64) {
    let key = opening.key();
    match FILTERS.get_ptr_mut(key) {
        // SAFETY: a live, aligned map value; a plain aligned store.
        Some(opened) => unsafe { opened.write_volatile(now_ns) },
        // Full: the least recently used opening is closed instead.
        None => drop(FILTERS.insert(key, now_ns, 0)),
    }
}

/// The slot with the latest due time of a flow's packets.
#[inline(always)]
pub fn latest(flow: u32) -> Option<*mut u64> {
    // SAFETY: as for `orphan`.
    let mask = unsafe { core::ptr::read_volatile(&EMU_LATEST_MASK) };
    LATEST.get_ptr_mut(order::index(flow, mask))
}

/// A pipe, shared with all CPUs: see the field groups of [`Pipe`].
#[inline(always)]
pub fn pipe(index: u32) -> Option<*mut Pipe> {
    PIPES.get_ptr_mut(index)
}

/// A slot of the departure ring.
#[inline(always)]
pub fn ring_slot(index: u32) -> Option<*mut u64> {
    DEPARTURES.get_ptr_mut(index)
}

/// The schedule of a pipe, by the pipe's index.
#[inline(always)]
pub fn schedule(pipe: u32) -> Option<*const Schedule> {
    SCHEDULES.get_ptr(pipe)
}

/// A row of a schedule, by its index among the rows of all schedules.
#[inline(always)]
pub fn row(index: u32) -> Option<*const Row> {
    ROWS.get_ptr(index)
}

/// Counts what happened to a packet.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // Atomic although per CPU: a softirq may interrupt a process that sends.
        atomic::fetch_add(counter, 1);
    }
}

/// Counts how long a packet is in its pipe; `index` is that of [`QueueDelayHistogram`].
#[inline(always)]
pub fn count_wait(index: u32, time_ns: u64) {
    emu_wait(index, time_ns);
}

/// A function of its own, which the verifier checks once for all callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_wait(index: u32, time_ns: u64) -> u64 {
    let Some(histogram) = QUEUE_DELAYS.get_ptr_mut(index) else {
        return 0;
    };
    let bucket = queue_delay::bucket(time_ns);
    if bucket >= queue_delay::BUCKETS {
        return 0;
    }
    // SAFETY: `histogram` is a live map value of this CPU, and `bucket` was compared with the
    // length of its array. Plain additions do: both programs run with softirqs off, so
    // none of them interrupts another one on the same CPU.
    unsafe {
        (*histogram).buckets[bucket as usize] += 1;
        (*histogram).sum_ns += time_ns;
    }
    1
}

/// The vnode that a cgroup belongs to.
#[inline(always)]
pub fn identity(cgroup: u64) -> Option<Identity> {
    let found = IDENTITY.get_ptr(cgroup)?;
    // SAFETY: the pointer is to a live map value of this type; entries are
    // replaced whole by user space and never changed in place.
    Some(unsafe { *found })
}

/// The vnode whose process made the socket with a cookie.
#[inline(always)]
pub fn socket(cookie: u64) -> Option<Identity> {
    let found = SOCKETS.get_ptr(cookie)?;
    // SAFETY: as for `identity`; an entry is written once, for a cookie that no other socket
    // gets.
    Some(unsafe { *found })
}

/// Records the vnode whose process made a socket.
#[inline(always)]
pub fn set_socket(cookie: u64, identity: &Identity) {
    // Full: the socket that was used least recently becomes that of the calling process.
    let _ = SOCKETS.insert(cookie, identity, 0);
}

/// Whether `IPV6_V6ONLY` was set on a socket; `socket` is its address in the kernel, since the
/// hook of setsockopt(2) cannot read its cookie.
#[inline(always)]
pub fn is_v6_only(socket: u64) -> bool {
    V6_ONLY.get_ptr(socket).is_some()
}

/// Records `IPV6_V6ONLY` of a socket, or that a new socket does not have it.
#[inline(always)]
pub fn set_v6_only(socket: u64, is_on: bool) {
    if is_on {
        let _ = V6_ONLY.insert(socket, 1, 0);
    } else {
        let _ = V6_ONLY.remove(socket);
    }
}

/// Counts what a hook did.
#[inline(always)]
pub fn count_event(event: SocketEvent) {
    if let Some(counter) = EVENTS.get_ptr_mut(event as u32) {
        atomic::fetch_add(counter, 1);
    }
}
