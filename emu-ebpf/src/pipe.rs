//! Sending a packet through a pipe: admission, reservation, counters.
use emu_common::{
    layout::{NO_LIMIT_NS, Pipe},
    model::{queue, rate},
    reason::Reason,
};

use crate::{atomic, maps};

/// Attempts at the pipe's clock before the last value seen is used as it is.
const ATTEMPTS: u32 = 16;

/// A packet that the pipe accepted.
pub struct Passage {
    /// When its last bit leaves the line.
    pub departure_ns: u64,
    /// Latency of the access line.
    pub latency_ns: u64,
    /// Generation for the flow identifier.
    pub generation: u32,
}

/// Takes a packet into the pipe, or drops and counts it.
///
/// The decision to drop comes before the reservation, so that a dropped packet
/// takes no time of the line. Two CPUs that decide at the same moment may both
/// take the last place of a queue; the rate is exact all the same.
#[inline(always)]
pub fn pass(index: u32, ip_bytes: u32, now_ns: u64) -> Result<Passage, Reason> {
    let pipe: *mut Pipe = maps::pipe(index).ok_or(Reason::NoPipe)?;
    // SAFETY: `pipe` points to a live map value; the configuration fields are
    // written by user space with aligned stores, so a read sees old or new.
    let (ns_per_byte, latency_ns, limit_ns, burst_ns) = unsafe {
        (
            (*pipe).ns_per_byte_q20,
            (*pipe).latency_ns,
            (*pipe).limit_ns,
            (*pipe).burst_ns,
        )
    };
    // SAFETY: as above.
    let (ring_base, limit_packets, overhead_bytes, generation) = unsafe {
        (
            (*pipe).ring_base,
            (*pipe).limit_packets,
            (*pipe).overhead_bytes,
            (*pipe).generation,
        )
    };
    // SAFETY: taking the addresses of fields of a live map value.
    let (clock, sequence) = unsafe { (&raw mut (*pipe).next_free_ns, &raw mut (*pipe).sequence) };

    let bytes = rate::charged_bytes(ip_bytes, overhead_bytes);
    let serialisation_ns = rate::serialisation_ns(ns_per_byte, bytes);

    if limit_packets != 0 {
        let oldest = ring_base.wrapping_add((atomic::read(sequence) % limit_packets as u64) as u32);
        if let Some(slot) = maps::ring_slot(oldest)
            && queue::full_of_packets(atomic::read(slot), now_ns)
        {
            return Err(drop_packet(pipe, bytes, Reason::QueuePackets));
        }
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
    Ok(Passage {
        departure_ns,
        latency_ns,
        generation,
    })
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
