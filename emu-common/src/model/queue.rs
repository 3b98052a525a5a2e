//! The queue in front of a pipe: whether it takes one more packet.
//!
//! Nothing is really queued here; the packets wait in `fq`. Both rules follow
//! from the departure times that the virtual clock handed out.

/// Whether a queue limited in packets is full.
///
/// `oldest_departure_ns` is the departure time of the packet that was accepted
/// `limit` packets ago. Departures of a pipe are in order, so if that packet has
/// not left yet, at least `limit` packets are waiting (the one on the line
/// included, as Dummynet counts).
#[inline(always)]
pub const fn full_of_packets(oldest_departure_ns: u64, now_ns: u64) -> bool {
    oldest_departure_ns > now_ns
}

/// Whether one more packet would wait longer than a queue limited in time
/// (or bytes, at the pipe's rate) allows.
#[inline(always)]
pub const fn full_of_time(
    now_ns: u64,
    next_free_ns: u64,
    serialisation_ns: u64,
    burst_ns: u64,
    limit_ns: u64,
) -> bool {
    let backlog_ns = next_free_ns.saturating_sub(now_ns);
    let wait_ns = backlog_ns
        .saturating_add(serialisation_ns)
        .saturating_sub(burst_ns);
    wait_ns > limit_ns
}

/// The limit in time that a limit in bytes means at a rate given as time per byte.
pub const fn bytes_as_ns(ns_per_byte_q20: u64, bytes: u64) -> u64 {
    let product = ns_per_byte_q20 as u128 * bytes as u128;
    let ns = product >> 20;
    if ns > u64::MAX as u128 - 1 {
        u64::MAX - 1
    } else {
        ns as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rate::{ns_per_byte_q20, reserve, serialisation_ns};

    #[test]
    fn packet_limit_counts_the_packet_on_the_line() {
        // 3 slots, 1 ms a packet, all arrive at once: 3 are taken, then 1 each ms.
        let (limit, ser) = (3usize, 1_000_000);
        let mut ring = [0u64; 3];
        let (mut free, mut sequence, mut taken) = (0, 0usize, Vec::new());
        for tick in 0..40u64 {
            let now = 10_000_000 + tick * 250_000;
            if !full_of_packets(ring[sequence % limit], now) {
                let r = reserve(now, free, ser, 0);
                free = r.next_free_ns;
                ring[sequence % limit] = r.departure_ns;
                sequence += 1;
                taken.push(tick);
            }
        }
        // 10 ms of arrivals: the 3 that fit and one for each packet served.
        assert_eq!(taken[..4], [0, 1, 2, 4]);
        assert_eq!(taken.len(), 3 + 9);
    }

    #[test]
    fn byte_limit_holds_exactly_that_many_bytes() {
        let q = ns_per_byte_q20(1_000_000);
        let limit = bytes_as_ns(q, 15_000);
        let ser = serialisation_ns(q, 1500);
        let (mut free, mut taken) = (0, 0);
        while !full_of_time(1_000, free, ser, 0, limit) {
            free = reserve(1_000, free, ser, 0).next_free_ns;
            taken += 1;
        }
        assert_eq!(taken, 10);
    }

    #[test]
    fn no_limit_never_fills() {
        assert!(!full_of_time(0, u64::MAX / 2, 1, 0, u64::MAX));
    }
}
