//! The virtual clock of a pipe: serialisation time and reservation.
//!
//! A pipe is a server of constant rate. Its state is one number, the time at
//! which the line is free again (the theoretical arrival time of the generic
//! cell rate algorithm, ITU-T I.371).

/// Slowest rate: a 64 KiB packet must not overflow the fixed-point product.
pub const MIN_RATE_BITS_PER_SEC: u64 = 100;
/// Fastest rate with an error of the per-byte time below 10 ppm.
pub const MAX_RATE_BITS_PER_SEC: u64 = 100_000_000_000;

/// Longest packet that is charged in full: three times the largest IPv4 packet.
pub const MAX_CHARGED_BYTES: u32 = 196_608;

const Q: u32 = 20;

/// Nanoseconds for a byte at a rate, times 2^20, rounded to nearest.
///
/// 0 bit/s means an unlimited rate and gives 0. Rates are meant to be in
/// [`MIN_RATE_BITS_PER_SEC`]`..=`[`MAX_RATE_BITS_PER_SEC`].
pub const fn ns_per_byte_q20(rate_bits_per_sec: u64) -> u64 {
    if rate_bits_per_sec == 0 {
        return 0;
    }
    let scaled = 8_000_000_000u128 << Q;
    let rate = rate_bits_per_sec as u128;
    ((scaled + rate / 2) / rate) as u64
}

/// The rate that a time per byte stands for, in bits per second, to within the
/// precision of the fixed point; none for an unlimited rate.
pub const fn rate_bits_per_sec(ns_per_byte_q20: u64) -> Option<u64> {
    if ns_per_byte_q20 == 0 {
        return None;
    }
    let scaled = 8_000_000_000u128 << Q;
    let time = ns_per_byte_q20 as u128;
    Some(((scaled + time / 2) / time) as u64)
}

/// Time that a packet occupies the line, in nanoseconds.
///
/// Exact up to [`MAX_CHARGED_BYTES`], which is what longer packets cost. The BPF
/// target has no 128-bit product, so overflow is excluded by the two bounds
/// rather than saturated: see the assertion below.
#[inline(always)]
pub const fn serialisation_ns(ns_per_byte_q20: u64, bytes: u32) -> u64 {
    let bytes = if bytes > MAX_CHARGED_BYTES {
        MAX_CHARGED_BYTES
    } else {
        bytes
    };
    ns_per_byte_q20.wrapping_mul(bytes as u64) >> Q
}

const _: () = assert!(
    ns_per_byte_q20(MIN_RATE_BITS_PER_SEC)
        .checked_mul(MAX_CHARGED_BYTES as u64)
        .is_some()
);

/// Bytes charged for a packet: its IP length and the per-packet overhead.
#[inline(always)]
pub const fn charged_bytes(ip_bytes: u32, overhead_bytes: i32) -> u32 {
    let sum = ip_bytes as i64 + overhead_bytes as i64;
    if sum < 0 { 0 } else { sum as u32 }
}

/// Payload bytes of an ATM cell, and the bytes it takes on the line.
const CELL: (u32, u32) = (48, 53);

/// Bytes that a number of bytes takes on a line that carries them in ATM cells (AAL5): whole
/// cells of 53 bytes for 48 each.
#[inline(always)]
pub const fn in_cells(bytes: u32) -> u32 {
    bytes.div_ceil(CELL.0).saturating_mul(CELL.1)
}

/// When a line is free again whose rate changes now, by the times per byte before and after:
/// what waits takes longer at a slower rate. At a faster rate the time stays, since the packets
/// that wait keep their departures, which later ones must not overtake. Not for BPF.
pub fn rescaled_free_ns(now_ns: u64, free_ns: u64, before_q20: u64, after_q20: u64) -> u64 {
    if before_q20 == 0 || after_q20 <= before_q20 || free_ns <= now_ns {
        return free_ns;
    }
    let backlog = u128::from(free_ns - now_ns) * u128::from(after_q20) / u128::from(before_q20);
    now_ns.saturating_add(u64::try_from(backlog).unwrap_or(u64::MAX))
}

/// Outcome of [`reserve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// New state of the pipe: when the line is free again.
    pub next_free_ns: u64,
    /// When the packet's last bit has left.
    pub departure_ns: u64,
}

/// Reserves the line for one packet that arrives now.
///
/// `departure = max(now, next_free) + serialisation`: an idle line delays its
/// first packet by its serialisation too. With a burst the packet leaves up to
/// `burst_ns` earlier, but never before it arrived.
#[inline(always)]
pub const fn reserve(
    now_ns: u64,
    next_free_ns: u64,
    serialisation_ns: u64,
    burst_ns: u64,
) -> Reservation {
    let start_ns = if next_free_ns > now_ns {
        next_free_ns
    } else {
        now_ns
    };
    let end_ns = start_ns.saturating_add(serialisation_ns);
    let early_ns = end_ns.saturating_sub(burst_ns);
    Reservation {
        next_free_ns: end_ns,
        departure_ns: if early_ns > now_ns { early_ns } else { now_ns },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn serialisation_of_known_lines() {
        // 84-byte ping at 33.6 kbit/s: 84 * 8 / 33600 s = 20 ms.
        let q = ns_per_byte_q20(33_600);
        assert!(serialisation_ns(q, 84).abs_diff(20_000_000) < 10);
        // 1500 bytes at 10 Mbit/s: 1.2 ms; at 1 Gbit/s: 12 us.
        assert_eq!(
            serialisation_ns(ns_per_byte_q20(10_000_000), 1500),
            1_200_000
        );
        assert_eq!(
            serialisation_ns(ns_per_byte_q20(1_000_000_000), 1500),
            12_000
        );
        assert_eq!(serialisation_ns(ns_per_byte_q20(0), 1500), 0);
        for rate in [100, 33_600, 56_000, 10_000_000] {
            assert_eq!(rate_bits_per_sec(ns_per_byte_q20(rate)), Some(rate));
        }
        assert_eq!(rate_bits_per_sec(0), None);
    }

    #[test]
    fn slowest_line_and_largest_packet_do_not_overflow() {
        let q = ns_per_byte_q20(MIN_RATE_BITS_PER_SEC);
        let exact = 65_535u64 * 80_000_000;
        assert!(serialisation_ns(q, 65_535).abs_diff(exact) < 1000);
    }

    #[test]
    fn idle_line_delays_its_first_packet() {
        let r = reserve(1_000, 0, 500, 0);
        assert_eq!((r.departure_ns, r.next_free_ns), (1_500, 1_500));
    }

    #[test]
    fn busy_line_queues() {
        let r = reserve(1_000, 3_000, 500, 0);
        assert_eq!((r.departure_ns, r.next_free_ns), (3_500, 3_500));
    }

    #[test]
    fn burst_sends_early_but_not_before_arrival() {
        assert_eq!(reserve(1_000, 0, 500, 600).departure_ns, 1_000);
        assert_eq!(reserve(1_000, 1_500, 500, 600).departure_ns, 1_400);
    }

    #[test]
    fn what_waits_takes_longer_at_a_slower_rate_and_is_not_overtaken() {
        let q = ns_per_byte_q20;
        // 5 ms at 10 Mbit/s are 500 ms at 100 kbit/s.
        let slower = rescaled_free_ns(1_000, 5_001_000, q(10_000_000), q(100_000));
        assert!(slower.abs_diff(500_001_000) < 10, "{slower}");
        for (free, before, after) in [
            (5_001_000, 100_000, 10_000_000),
            (5_001_000, 0, 100_000),
            (5_001_000, 100_000, 0),
            (900, 10_000_000, 100_000),
        ] {
            assert_eq!(rescaled_free_ns(1_000, free, q(before), q(after)), free);
        }
    }

    #[test]
    fn overhead_is_added_and_never_wraps() {
        assert_eq!(charged_bytes(84, 38), 122);
        assert_eq!(charged_bytes(20, -40), 0);
        // A TCP acknowledgement in PPPoE over ATM: 40 + 40 bytes in two cells.
        assert_eq!(in_cells(charged_bytes(40, 40)), 106);
        assert_eq!(in_cells(0), 0);
    }

    proptest! {
        #[test]
        fn rate_error_is_small(rate in MIN_RATE_BITS_PER_SEC..=MAX_RATE_BITS_PER_SEC, bytes in 1u32..=65_535) {
            let exact = bytes as f64 * 8e9 / rate as f64;
            let got = serialisation_ns(ns_per_byte_q20(rate), bytes) as f64;
            prop_assert!((got - exact).abs() <= 1.0 + exact * 1e-5);
        }

        #[test]
        fn departures_of_one_pipe_never_go_back(
            gaps in proptest::collection::vec((0u64..10_000_000, 0u64..5_000_000), 1..50),
            burst in 0u64..3_000_000,
        ) {
            let (mut now, mut free, mut last) = (1_000_000_000u64, 0u64, 0u64);
            for (gap, ser) in gaps {
                now += gap;
                let r = reserve(now, free, ser, burst);
                prop_assert!(r.departure_ns >= now && r.departure_ns >= last);
                prop_assert!(r.next_free_ns >= free);
                (free, last) = (r.next_free_ns, r.departure_ns);
            }
        }
    }
}
