//! When a packet is due, and what a probe should measure.

/// When a packet that leaves its pipe at `departure_ns` is due at the far end
/// of that stage.
#[inline(always)]
pub const fn due_ns(departure_ns: u64, latency_ns: u64, pair_latency_ns: u64) -> u64 {
    departure_ns
        .saturating_add(latency_ns)
        .saturating_add(pair_latency_ns)
}

/// When a packet to a vnode on another host is sent, so that it is there when it is due: the
/// network between the hosts adds its own latency. Where that is longer than what the packet
/// has to wait, it is sent as it leaves its pipe, and comes late.
#[inline(always)]
pub const fn sent_ns(due_ns: u64, departure_ns: u64, host_latency_ns: u64) -> u64 {
    let early_ns = due_ns.saturating_sub(host_latency_ns);
    if early_ns > departure_ns {
        early_ns
    } else {
        departure_ns
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
    fn the_network_between_hosts_takes_its_part_of_the_latency() {
        assert_eq!(sent_ns(30_000, 10_000, 5_000), 25_000);
        assert_eq!(sent_ns(30_000, 10_000, 20_000), 10_000);
        assert_eq!(sent_ns(30_000, 10_000, 50_000), 10_000, "never early");
        assert_eq!(sent_ns(30_000, 10_000, 0), 30_000);
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
