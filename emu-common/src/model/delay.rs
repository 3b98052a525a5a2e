//! When a packet is due, and what a probe should measure.

/// When a packet that leaves its pipe at `departure_ns` is due at the far end
/// of that stage.
#[inline(always)]
pub const fn due_ns(departure_ns: u64, latency_ns: u64, pair_latency_ns: u64) -> u64 {
    departure_ns
        .saturating_add(latency_ns)
        .saturating_add(pair_latency_ns)
}

/// When a packet is due that may not overtake one that is due at `before_ns`.
#[inline(always)]
pub const fn in_order_ns(due_ns: u64, before_ns: u64) -> u64 {
    if due_ns < before_ns {
        before_ns
    } else {
        due_ns
    }
}

/// One way through idle lines: serialisation in both pipes, both latencies and
/// the latency between the groups, in nanoseconds.
pub const fn idle_one_way_ns(
    up_serialisation_ns: u64,
    up_latency_ns: u64,
    pair_latency_ns: u64,
    down_serialisation_ns: u64,
    down_latency_ns: u64,
) -> u64 {
    due_ns(
        due_ns(up_serialisation_ns, up_latency_ns, pair_latency_ns) + down_serialisation_ns,
        down_latency_ns,
        0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rate::{ns_per_byte_q20, serialisation_ns};

    #[test]
    fn order_is_kept() {
        assert_eq!(in_order_ns(5, 7), 7);
        assert_eq!(in_order_ns(7, 5), 7);
    }

    /// The row "10.1.3 – 10.2" of the P2PLab topology, which its paper measured
    /// as 853 ms: 84-byte ping, 1/8 Mbit/s and 20 ms against 10/10 Mbit/s and
    /// 5 ms, 400 ms between the groups.
    #[test]
    fn p2plab_ping() {
        let ser = |rate| serialisation_ns(ns_per_byte_q20(rate), 84);
        let (ms5, ms20, ms400) = (5_000_000, 20_000_000, 400_000_000);
        let there = idle_one_way_ns(ser(1_000_000), ms20, ms400, ser(10_000_000), ms5);
        let back = idle_one_way_ns(ser(10_000_000), ms5, ms400, ser(8_000_000), ms20);
        let rtt_ms = (there + back) as f64 / 1e6;
        assert!((rtt_ms - 850.9).abs() < 0.05, "{rtt_ms}");
    }
}
