//! Active queue management on the virtual queue.
//!
//! The virtual clock tells how long a packet would wait before it is queued, so
//! CoDel's control law, which acts on the wait of departing packets, can run at
//! arrival with the departure as its "now": packets leave in order, and a packet
//! dropped here takes no time of the line, as one dropped at the head.

/// No active management.
pub const NONE: u32 = 0;
/// CoDel (RFC 8289).
pub const CODEL: u32 = 1;
/// RED (Floyd and Jacobson, 1993), in its gentle form.
pub const RED: u32 = 2;

/// State of CoDel; all zero for a new queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Codel {
    /// When the wait will have been above the target for an interval; 0: it is not.
    pub first_above_ns: u64,
    /// When the next packet is dropped.
    pub drop_next_ns: u64,
    /// Drops since dropping began.
    pub count: u32,
    /// Count when dropping began last.
    pub last_count: u32,
    /// Whether it is dropping: 0 or 1.
    pub dropping: u32,
}

/// 2^31 over the square root of a number, by Newton's method: straight code, because
/// a loop with a decision in each step has more paths than a verifier follows.
#[inline(always)]
const fn inverse_root_q31(number: u32) -> u64 {
    let number = if number == 0 { 1 } else { number as u64 };
    let bits = 64 - number.leading_zeros() as u64;
    // From half the root up to the root: each step doubles the digits.
    let mut root = (1u64 << 31) >> bits.div_ceil(2);
    let mut step = 0;
    while step < 5 {
        let rest = (3u64 << 62) - number * root * root;
        root = ((rest >> 31) * root) >> 32;
        step += 1;
    }
    root
}

/// The control law: the next drop, an interval over the square root of the count
/// later.
#[inline(always)]
const fn control_law_ns(time_ns: u64, interval_ns: u64, count: u32) -> u64 {
    let root = inverse_root_q31(count);
    // The product has more than 64 bits, so its halves are shifted apart.
    let step_ns =
        (((interval_ns >> 32) * root) << 1) + (((interval_ns & 0xffff_ffff) * root) >> 31);
    time_ns.saturating_add(step_ns)
}

/// One packet that would leave at `departure_ns` after waiting `wait_ns`: the
/// next state, and whether CoDel drops (or marks) it. RFC 8289 section 5.
#[inline(always)]
pub const fn codel(
    mut state: Codel,
    departure_ns: u64,
    wait_ns: u64,
    target_ns: u64,
    interval_ns: u64,
) -> (Codel, bool) {
    let above = if wait_ns < target_ns {
        state.first_above_ns = 0;
        false
    } else if state.first_above_ns == 0 {
        state.first_above_ns = departure_ns.saturating_add(interval_ns);
        false
    } else {
        departure_ns >= state.first_above_ns
    };
    if state.dropping != 0 {
        if !above {
            state.dropping = 0;
            return (state, false);
        }
        if departure_ns < state.drop_next_ns {
            return (state, false);
        }
        state.count = state.count.saturating_add(1);
        state.drop_next_ns = control_law_ns(state.drop_next_ns, interval_ns, state.count);
        return (state, true);
    }
    if !above {
        return (state, false);
    }
    state.dropping = 1;
    // Dropped a while ago: go on at nearly that rate.
    let delta = state.count.wrapping_sub(state.last_count);
    let recent = departure_ns.saturating_sub(state.drop_next_ns) < 16 * interval_ns;
    state.count = if delta > 1 && recent { delta } else { 1 };
    state.drop_next_ns = control_law_ns(departure_ns, interval_ns, state.count);
    state.last_count = state.count;
    (state, true)
}

/// Settings of RED, in time of the line instead of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Red {
    /// Average wait from which packets are dropped.
    pub min_ns: u64,
    /// Average wait at which the probability reaches `max_probability`.
    pub max_ns: u64,
    /// Probability at `max_ns`, a fraction of 2^32.
    pub max_probability: u32,
    /// The average moves by 2^-weight of the difference with each packet.
    pub weight_bits: u32,
}

/// The average wait after a packet that finds `wait_ns`, given the average before
/// in 1/256 ns. After an idle time the average decays as if small packets had
/// passed, which one step towards zero for an empty queue stands for.
#[inline(always)]
pub const fn red_average_q8(average_q8: u64, wait_ns: u64, weight_bits: u32) -> u64 {
    let wait_q8 = wait_ns << 8;
    if wait_q8 >= average_q8 {
        average_q8 + ((wait_q8 - average_q8) >> weight_bits)
    } else {
        average_q8 - ((average_q8 - wait_q8) >> weight_bits)
    }
}

/// Probability of an early drop at an average wait, a fraction of 2^32: 0 below
/// `min`, up to `max_probability` at `max`, up to certainty at twice `max`.
#[inline(always)]
pub const fn red_probability(red: &Red, average_ns: u64) -> u32 {
    if average_ns < red.min_ns {
        return 0;
    }
    let (from, below, p0, p1) = if average_ns < red.max_ns {
        (red.min_ns, red.max_ns, 0, red.max_probability as u64)
    } else if average_ns < 2 * red.max_ns {
        (
            red.max_ns,
            2 * red.max_ns,
            red.max_probability as u64,
            u32::MAX as u64,
        )
    } else {
        return u32::MAX;
    };
    // Microseconds, so that the product with 32 bits stays in 64.
    let width = (below - from) / 1_000;
    let width = if width == 0 { 1 } else { width };
    let inside = (average_ns - from) / 1_000;
    let inside = if inside > width { width } else { inside };
    (p0 + (p1 - p0) * inside / width) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_roots() {
        for number in (1..100_000).chain([1 << 20, (1 << 31) + 1, u32::MAX]) {
            let exact = (1u64 << 31) as f64 / f64::from(number).sqrt();
            let error = inverse_root_q31(number) as f64 - exact;
            // A unit in each of the last steps, and five digits of the root.
            assert!(error.abs() < 4.0 + exact * 1e-5, "{number}: {error}");
        }
        let hour = 3_600_000_000_000;
        assert!(control_law_ns(7, hour, 4).abs_diff(7 + hour / 2) < hour / 100_000);
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn codel_leaves_short_queues_alone() {
        let mut state = Codel::default();
        for i in 1..10_000 {
            let (next, drop) = codel(state, i * MS, 4 * MS, 5 * MS, 100 * MS);
            assert!(!drop);
            state = next;
        }
    }

    /// A standing queue of 20 ms: the first drop after an interval, then at the
    /// times of the control law: 100 ms, 100/sqrt(2) ms, 100/sqrt(3) ms later …
    #[test]
    fn codel_drops_faster_and_faster() {
        let mut state = Codel::default();
        let mut drops = Vec::new();
        for i in 1..600 {
            let (next, drop) = codel(state, i * MS, 20 * MS, 5 * MS, 100 * MS);
            if drop {
                drops.push(i);
            }
            state = next;
        }
        assert_eq!(drops[0], 101);
        let mut expected = 101.0;
        for (count, drop) in drops.iter().enumerate().skip(1) {
            expected += 100.0 / (count as f64).sqrt();
            assert!((*drop as f64 - expected).abs() <= 1.5, "{drops:?}");
        }
        assert!(drops.len() > 8);
    }

    #[test]
    fn red_rises_from_min_to_certainty() {
        let red = Red {
            min_ns: 10 * MS,
            max_ns: 30 * MS,
            max_probability: 1 << 30,
            weight_bits: 3,
        };
        assert_eq!(red_probability(&red, 9 * MS), 0);
        let half = red_probability(&red, 20 * MS);
        assert!(half.abs_diff(1 << 29) < 1 << 20);
        assert!(red_probability(&red, 45 * MS).abs_diff(5 << 29) < 1 << 21);
        assert_eq!(red_probability(&red, 61 * MS), u32::MAX);
        let mut average = 0;
        for _ in 0..100 {
            average = red_average_q8(average, 20 * MS, 3);
        }
        assert!((average >> 8).abs_diff(20 * MS) < MS / 10);
        for _ in 0..100 {
            average = red_average_q8(average, 0, 3);
        }
        assert!(average >> 8 < MS);
    }
}
