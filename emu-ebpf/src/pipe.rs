//! Sending a packet through a pipe: admission, reservation, counters.
use aya_ebpf::programs::TcContext;
use emu_common::{
    layout::{Direction, NO_LIMIT_NS, Pipe, feature, pipe_flag},
    model::{queue, rate, schedule::generation},
    reason::Reason,
};

use crate::{aqm, atomic, maps, schedule};

/// Attempts at the pipe's clock before the last value seen is used as it is.
const ATTEMPTS: u32 = 16;

/// Result of [`emu_pass`]: the packet was not accepted; the reason is in the
/// lower half.
const REFUSED: u64 = 1 << 63;
/// Result of [`emu_pass_by_schedule`]: the pipe's own rate applies.
const UNSCHEDULED: u64 = u64::MAX;
/// Result of [`emu_pass_by_schedule`]: another CPU changed the pipe's clock meanwhile.
const CONTENDED: u64 = u64::MAX - 1;

/// A pipe of a local vnode, or the capacity between two groups.
pub struct AccessLink {
    index: u32,
    pipe: *mut Pipe,
    /// [`pipe_flag`] bits.
    pub flags: u32,
    /// ImpairmentState plus one.
    pub stage: u32,
    /// Generation for the flow identifier. It is read before any latency, because user
    /// space writes it after them: a packet of a new generation never has an old, longer
    /// latency, behind which all later ones of its flow would wait.
    pub generation: u32,
}

/// A pipe by its index.
#[inline(always)]
pub fn line(index: u32) -> Result<AccessLink, Reason> {
    let pipe: *mut Pipe = maps::pipe(index).ok_or(Reason::NoPipe)?;
    // SAFETY: `pipe` points to a live map value.
    let (flags, stage, generation) = unsafe { ((*pipe).flags, (*pipe).stage, (*pipe).generation) };
    Ok(AccessLink {
        index,
        pipe,
        flags,
        stage,
        generation,
    })
}

impl AccessLink {
    /// Drops what a vnode that is down would send or receive.
    #[inline(always)]
    pub fn check_up(&self) -> Result<(), Reason> {
        if self.flags & pipe_flag::DOWN != 0 {
            return Err(self.closed(Reason::Down));
        }
        Ok(())
    }

    /// Counts a packet that never reached the queue, and passes its reason on.
    #[inline(always)]
    pub fn closed(&self, reason: Reason) -> Reason {
        // SAFETY: `pipe` points to a live map value.
        atomic::fetch_add(unsafe { &raw mut (*self.pipe).drops_closed }, 1);
        reason
    }

    /// Counts how long a packet of the line's vnode is in the pipe.
    #[inline(always)]
    pub fn count_wait(&self, direction: Direction, now_ns: u64, departure_ns: u64) {
        let group = self.flags >> pipe_flag::GROUP_SHIFT & pipe_flag::GROUP_MASK;
        maps::count_wait(
            group * 2 + direction as u32,
            departure_ns.saturating_sub(now_ns),
        );
    }

    /// How long a filter stays open.
    #[inline(always)]
    pub fn filter_timeout_ns(&self) -> u64 {
        // SAFETY: `pipe` points to a live map value.
        unsafe { (*self.pipe).filter_timeout_ns }
    }

    /// Latency of the access link for a packet that leaves the pipe at a time, and the
    /// generation of the packet's flow.
    #[inline(always)]
    pub fn latency_ns(&self, departure_ns: u64) -> (u64, u32) {
        if let Some((latency_ns, later)) = schedule::latency(self.index, departure_ns) {
            return (latency_ns, generation(self.generation, later));
        }
        // SAFETY: `pipe` points to a live map value.
        (unsafe { (*self.pipe).latency_ns }, self.generation)
    }
}

/// Takes a packet into the pipe, or drops and counts it.
///
/// The decision to drop comes before the reservation, so that a dropped packet
/// takes no time of the line. Two CPUs that decide at the same moment may both
/// take the last place of a queue; the rate is exact all the same. Returns when
/// the packet's last bit leaves the line.
#[inline(always)]
pub fn pass(ctx: &TcContext, line: &AccessLink, ip_bytes: u32, now_ns: u64) -> Result<u64, Reason> {
    aqm::manage(ctx, line, ip_bytes, now_ns)?;
    let mut result = UNSCHEDULED;
    if is_scheduled(line.flags) {
        for _ in 0..ATTEMPTS {
            result = emu_pass_by_schedule(line.index, ip_bytes, now_ns);
            if result != CONTENDED {
                break;
            }
        }
        if result != UNSCHEDULED && result != CONTENDED {
            emu_count_packet(line.index, ip_bytes, result);
        }
    }
    if result == CONTENDED {
        maps::count(Reason::Contended);
        // At the pipe's own rate, behind all others.
        result = UNSCHEDULED;
    }
    if result == UNSCHEDULED {
        result = emu_pass(line.index, ip_bytes, now_ns);
    }
    if result & REFUSED == 0 {
        return Ok(result);
    }
    const PACKETS: u32 = Reason::QueuePackets as u32;
    const BYTES: u32 = Reason::QueueBytes as u32;
    Err(match result as u32 {
        PACKETS => Reason::QueuePackets,
        BYTES => Reason::QueueBytes,
        _ => Reason::NoPipe,
    })
}

/// A function of its own, which the verifier checks once for all callers: the
/// departure time, or [`REFUSED`] and why. Such functions take numbers only: a
/// packet as an argument would need a kernel with type information.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_pass(index: u32, ip_bytes: u32, now_ns: u64) -> u64 {
    match try_pass(index, ip_bytes, now_ns) {
        Ok(departure_ns) => departure_ns & !REFUSED,
        Err(reason) => REFUSED | u64::from(reason as u32),
    }
}

#[inline(always)]
fn try_pass(index: u32, ip_bytes: u32, now_ns: u64) -> Result<u64, Reason> {
    let line = line(index)?;
    let pipe = line.pipe;
    // SAFETY: `pipe` points to a live map value; the configuration fields are
    // written by user space with aligned stores, so a read sees old or new.
    let (ns_per_byte, limit_ns, burst_ns, overhead_bytes) = unsafe {
        (
            (*pipe).ns_per_byte_q20,
            (*pipe).limit_ns,
            (*pipe).burst_ns,
            (*pipe).overhead_bytes,
        )
    };
    // SAFETY: taking the address of a field of a live map value.
    let clock = unsafe { &raw mut (*pipe).next_free_ns };

    let bytes = charged_bytes(ip_bytes, overhead_bytes, line.flags);
    let serialisation_ns = rate::serialisation_ns(ns_per_byte, bytes);

    if is_full_of_packets(pipe, now_ns) {
        return Err(drop_packet(pipe, bytes, Reason::QueuePackets));
    }

    let mut departure_ns = None;
    for _ in 0..ATTEMPTS {
        let free_ns = atomic::read(clock);
        if limit_ns != NO_LIMIT_NS
            && queue::full_of_time(now_ns, free_ns, serialisation_ns, burst_ns, limit_ns)
        {
            return Err(drop_packet(pipe, bytes, Reason::QueueBytes));
        }
        let reserved = rate::reserve(now_ns, free_ns, serialisation_ns, burst_ns);
        if atomic::compare_and_swap(clock, free_ns, reserved.next_free_ns) {
            departure_ns = Some(reserved.departure_ns);
            break;
        }
    }
    let departure_ns = departure_ns.unwrap_or_else(|| {
        maps::count(Reason::Contended);
        // The clock still advances by this packet, whoever else moves it.
        atomic::fetch_add(clock, serialisation_ns).saturating_add(serialisation_ns)
    });
    accept(pipe, bytes, departure_ns);
    Ok(departure_ns)
}

/// Whether the queue is limited in packets, and full.
#[inline(always)]
fn is_full_of_packets(pipe: *mut Pipe, now_ns: u64) -> bool {
    // SAFETY: `pipe` points to a live map value (see `try_pass`).
    let (ring_base, limit_packets, sequence) = unsafe {
        (
            (*pipe).ring_base,
            (*pipe).limit_packets,
            atomic::read(&raw const (*pipe).sequence),
        )
    };
    if limit_packets == 0 {
        return false;
    }
    let oldest = ring_base.wrapping_add((sequence % limit_packets as u64) as u32);
    maps::ring_slot(oldest).is_some_and(|slot| queue::full_of_packets(atomic::read(slot), now_ns))
}

/// Counts an accepted packet, and logs its departure.
#[inline(always)]
fn accept(pipe: *mut Pipe, bytes: u32, departure_ns: u64) {
    // SAFETY: `pipe` points to a live map value (see `try_pass`); taking the address of its
    // sequence.
    let (ring_base, limit_packets, sequence) = unsafe {
        (
            (*pipe).ring_base,
            (*pipe).limit_packets,
            &raw mut (*pipe).sequence,
        )
    };
    let accepted = atomic::fetch_add(sequence, 1);
    if limit_packets != 0
        && let Some(slot) =
            maps::ring_slot(ring_base.wrapping_add((accepted % limit_packets as u64) as u32))
    {
        // SAFETY: `slot` is a live, aligned map value; a plain aligned store.
        unsafe { slot.write_volatile(departure_ns) };
    }
    // SAFETY: taking the addresses of counters of a live map value.
    unsafe {
        atomic::fetch_add(&raw mut (*pipe).packets, 1);
        atomic::fetch_add(&raw mut (*pipe).bytes, bytes as u64);
    }
}

/// Whether a pipe with these flags has a schedule. The verifier removes the code of schedules
/// where no pipe has one.
#[inline(always)]
fn is_scheduled(flags: u32) -> bool {
    maps::features() & feature::SCHEDULES != 0 && flags & pipe_flag::SCHEDULED != 0
}

/// A function of its own, as [`emu_pass`], for a pipe with a schedule: one attempt.
/// [`CONTENDED`] if another CPU was faster, [`UNSCHEDULED`] before the start. It is not called by [`emu_pass`]: the kernel counts the stacks of all functions
/// on the way, and before Linux 6.8 each in steps of 32 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_pass_by_schedule(index: u32, ip_bytes: u32, now_ns: u64) -> u64 {
    let (Ok(line), Some(schedule)) = (line(index), schedule::of(index, pipe_flag::SCHEDULED))
    else {
        return UNSCHEDULED;
    };
    let pipe = line.pipe;
    // SAFETY: `pipe` points to a live map value; taking the address of its clock.
    let (clock, limit_ns, overhead_bytes) = unsafe {
        (
            &raw mut (*pipe).next_free_ns,
            (*pipe).limit_ns,
            (*pipe).overhead_bytes,
        )
    };
    let bytes = charged_bytes(ip_bytes, overhead_bytes, line.flags);
    if !schedule::gives_rate(&schedule, atomic::read(clock).max(now_ns)) {
        return UNSCHEDULED;
    }
    if is_full_of_packets(pipe, now_ns) {
        return REFUSED | Reason::QueuePackets as u64;
    }
    let free_ns = atomic::read(clock);
    let service = schedule::reserve(index, &schedule, now_ns, free_ns, bytes, limit_ns);
    let Some(service) = service else {
        return UNSCHEDULED;
    };
    if service.is_full {
        return REFUSED | Reason::QueueBytes as u64;
    }
    let reserved = service.reservation;
    if !atomic::compare_and_swap(clock, free_ns, reserved.next_free_ns) {
        return CONTENDED;
    }
    reserved.departure_ns & !REFUSED
}

/// A function of its own, as [`emu_pass`]: counts a packet by what [`emu_pass_by_schedule`]
/// said of it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_count_packet(index: u32, ip_bytes: u32, result: u64) -> u64 {
    let Ok(line) = line(index) else {
        return 0;
    };
    // SAFETY: the pipe is a live map value.
    let bytes = charged_bytes(ip_bytes, unsafe { (*line.pipe).overhead_bytes }, line.flags);
    if result & REFUSED == 0 {
        accept(line.pipe, bytes, result);
    } else if result as u32 == Reason::QueuePackets as u32 {
        drop_packet(line.pipe, bytes, Reason::QueuePackets);
    } else {
        drop_packet(line.pipe, bytes, Reason::QueueBytes);
    }
    1
}

#[inline(always)]
fn charged_bytes(ip_bytes: u32, overhead_bytes: i32, flags: u32) -> u32 {
    let bytes = rate::charged_bytes(ip_bytes, overhead_bytes);
    if flags & pipe_flag::CELLS != 0 {
        rate::in_cells(bytes)
    } else {
        bytes
    }
}

/// How long a packet that arrives now would wait, and how long it would then take,
/// in nanoseconds.
#[inline(always)]
pub fn outlook(line: &AccessLink, ip_bytes: u32, now_ns: u64) -> (u64, u64) {
    // SAFETY: `pipe` points to a live map value.
    let (ns_per_byte, overhead_bytes, free_ns) = unsafe {
        (
            (*line.pipe).ns_per_byte_q20,
            (*line.pipe).overhead_bytes,
            atomic::read(&raw const (*line.pipe).next_free_ns),
        )
    };
    let bytes = charged_bytes(ip_bytes, overhead_bytes, line.flags);
    let start_ns = free_ns.max(now_ns);
    if is_scheduled(line.flags)
        && let Some(end_ns) = schedule::end_ns(line.index, line.flags, bytes, start_ns)
    {
        return (start_ns - now_ns, end_ns.saturating_sub(start_ns));
    }
    (
        free_ns.saturating_sub(now_ns),
        rate::serialisation_ns(ns_per_byte, bytes),
    )
}

#[inline(always)]
fn drop_packet(pipe: *mut Pipe, bytes: u32, reason: Reason) -> Reason {
    // SAFETY: `pipe` points to a live map value (see `pass`).
    unsafe {
        let counter = match reason {
            Reason::QueuePackets => &raw mut (*pipe).drops_packets,
            _ => &raw mut (*pipe).drops_bytes,
        };
        atomic::fetch_add(counter, 1);
        atomic::fetch_add(&raw mut (*pipe).dropped_bytes, bytes as u64);
    }
    reason
}
