//! Loss models: independent, Gilbert-Elliott, and a Markov chain of four states.
use super::random::happens;

/// No loss.
pub const NONE: u32 = 0;
/// Independent losses with probability `p[0]`, perhaps correlated.
pub const RANDOM: u32 = 1;
/// Gilbert-Elliott; see [`gilbert_elliott`].
pub const GILBERT_ELLIOTT: u32 = 2;
/// Four-state Markov chain; see [`markov4`].
pub const MARKOV4: u32 = 3;

/// State of Gilbert-Elliott: few losses. Also the state of a new chain.
pub const GOOD: u32 = 0;
/// State of Gilbert-Elliott: many losses.
pub const BAD: u32 = 1;

/// One packet through the Gilbert-Elliott model (Elliott, BSTJ 1963): the next
/// state and whether the packet is lost.
///
/// `p` = probabilities of: good to bad, bad to good, a loss in the bad state, a
/// loss in the good state. As netem does, the packet is judged in the state it
/// finds, and the state changes behind it.
#[inline(always)]
pub const fn gilbert_elliott(state: u32, p: &[u32; 5], change: u32, loss: u32) -> (u32, bool) {
    if state == GOOD {
        let next = if happens(p[0], change) { BAD } else { GOOD };
        (next, happens(p[3], loss))
    } else {
        let next = if happens(p[1], change) { GOOD } else { BAD };
        (next, happens(p[2], loss))
    }
}

/// State of [`markov4`]: good reception within a gap. Also that of a new chain.
pub const GAP_RECEIVED: u32 = 0;
/// State of [`markov4`]: good reception within a burst.
pub const BURST_RECEIVED: u32 = 1;
/// State of [`markov4`]: loss within a burst.
pub const BURST_LOST: u32 = 2;
/// State of [`markov4`]: isolated loss within a gap.
pub const GAP_LOST: u32 = 3;

/// One packet through the four-state chain (Salsano et al., "Definition of a
/// general and intuitive loss model", 2012): the next state, which tells whether
/// the packet is lost.
///
/// `p` = transition probabilities p13, p31, p32, p23, p14, where 1 = received in
/// a gap, 2 = received in a burst, 3 = lost in a burst, 4 = lost in a gap; from
/// state 4 the chain always returns to 1.
#[inline(always)]
pub const fn markov4(state: u32, p: &[u32; 5], random: u32) -> (u32, bool) {
    let next = match state {
        GAP_RECEIVED => {
            if happens(p[4], random) {
                GAP_LOST
            } else if happens(p[4].saturating_add(p[0]), random) {
                BURST_LOST
            } else {
                GAP_RECEIVED
            }
        }
        BURST_RECEIVED => {
            if happens(p[3], random) {
                BURST_LOST
            } else {
                BURST_RECEIVED
            }
        }
        BURST_LOST => {
            if happens(p[2], random) {
                BURST_RECEIVED
            } else if happens(p[2].saturating_add(p[1]), random) {
                GAP_RECEIVED
            } else {
                BURST_LOST
            }
        }
        _ => GAP_RECEIVED,
    };
    (next, next == BURST_LOST || next == GAP_LOST)
}

/// Share of lost packets that a Gilbert-Elliott model settles at.
pub fn gilbert_elliott_rate(p: f64, r: f64, loss_bad: f64, loss_good: f64) -> f64 {
    if p + r == 0.0 {
        return loss_good;
    }
    (r * loss_good + p * loss_bad) / (p + r)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::random::{Purpose, draw, probability};

    /// Lost share and mean run of losses over many packets.
    fn statistics(mut step: impl FnMut(u64) -> bool) -> (f64, f64) {
        let (count, mut lost, mut runs, mut before) = (400_000u64, 0u32, 0u32, false);
        for packet in 0..count {
            let loss = step(packet);
            lost += u32::from(loss);
            runs += u32::from(loss && !before);
            before = loss;
        }
        (
            f64::from(lost) / count as f64,
            f64::from(lost) / f64::from(runs.max(1)),
        )
    }

    #[test]
    fn gilbert_elliott_settles_at_its_rate_and_bursts() {
        let p = [0.01, 0.25, 1.0, 0.0, 0.0].map(probability);
        let mut state = GOOD;
        let (share, run) = statistics(|packet| {
            let (a, b) = draw(11, packet, Purpose::Loss);
            let (next, lost) = gilbert_elliott(state, &p, a, b);
            state = next;
            lost
        });
        let expected = gilbert_elliott_rate(0.01, 0.25, 1.0, 0.0);
        assert!((share / expected - 1.0).abs() < 0.05, "{share}");
        // Bursts last 1 / r packets.
        assert!((run - 4.0).abs() < 0.2, "{run}");
    }

    #[test]
    fn markov4_has_isolated_losses_and_bursts() {
        // p13, p31, p32, p23, p14.
        let p = [0.01, 0.3, 0.1, 0.3, 0.02].map(probability);
        let mut state = GAP_RECEIVED;
        let mut isolated = 0u32;
        let (share, _) = statistics(|packet| {
            let (next, lost) = markov4(state, &p, draw(5, packet, Purpose::Loss).0);
            isolated += u32::from(next == GAP_LOST);
            state = next;
            lost
        });
        // Stationary shares: x1 = 1; x3 = p13/p31 x1; x2 = x3 p32/p23; x4 = p14 x1.
        let (x3, x4) = (0.01 / 0.3, 0.02);
        let sum = 1.0 + x3 + x3 * 0.1 / 0.3 + x4;
        assert!((share / ((x3 + x4) / sum) - 1.0).abs() < 0.05, "{share}");
        let single = f64::from(isolated) / 400_000.0;
        assert!((single / (x4 / sum) - 1.0).abs() < 0.05, "{single}");
    }
}
