//! Chance that can be repeated: random numbers as a function of a seed and a
//! packet's number.
//!
//! There is no generator state, so the order in which CPUs handle the packets of
//! different stages changes nothing: one seed gives the same decisions.

/// Increment of the sequence: 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scrambles 64 bits so that each input bit changes every output bit (the
/// finaliser of SplitMix64, Steele et al., OOPSLA 2014).
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What a random number is for: each purpose has a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Loss: the state's transition and the loss in it.
    Loss = 1,
    /// Jitter.
    Jitter = 2,
    /// Duplication and corruption.
    Copy = 3,
    /// Position of a corrupted bit.
    Bit = 4,
    /// Reordering.
    Reorder = 5,
    /// Early drops of a queue.
    Queue = 6,
}

/// Two independent numbers, uniform over all 32 bits, for one packet.
#[inline(always)]
pub const fn draw(seed: u64, packet: u64, purpose: Purpose) -> (u32, u32) {
    let stream = seed ^ mix(purpose as u64);
    let value = mix(stream.wrapping_add(packet.wrapping_mul(GOLDEN)));
    ((value >> 32) as u32, value as u32)
}

/// A random number that resembles the one before it, as netem correlates:
/// `(1 - rho) fresh + rho last`. Both are fractions of 2^32.
///
/// The mean stays, the variance shrinks with `rho`: a correlated loss of 1 % is
/// rarer than 1 %, here as in netem (`get_crandom` in net/sched/sch_netem.c).
#[inline(always)]
pub const fn correlated(fresh: u32, last: u32, rho: u32) -> u32 {
    if rho == 0 {
        return fresh;
    }
    let rho = rho as u64 + 1;
    let sum = fresh as u64 * ((1 << 32) - rho) + last as u64 * rho;
    (sum >> 32) as u32
}

/// The number before once more, with the probability `rho`, or else a fresh one.
///
/// Unlike [`correlated`] it keeps the distribution, so jitter has the spread that
/// was asked for; the correlation of packets that are k apart is `rho` to the k.
#[inline(always)]
pub const fn repeated(fresh: u32, pick: u32, last: u32, rho: u32) -> u32 {
    if happens(rho, pick) { last } else { fresh }
}

/// Whether an event of a probability (a fraction of 2^32; the largest value is
/// certainty) happens.
#[inline(always)]
pub const fn happens(probability: u32, random: u32) -> bool {
    probability != 0 && (random < probability || probability == u32::MAX)
}

/// A probability as a fraction of 2^32, certainty as the largest value.
pub fn probability(fraction: f64) -> u32 {
    // The cast saturates.
    (fraction * 4_294_967_296.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_in_mean_variance_and_bits() {
        let (mut sum, mut squares, mut ones) = (0.0, 0.0, [0u32; 32]);
        let count = 200_000u32;
        for packet in 0..u64::from(count) / 2 {
            let (a, b) = draw(7, packet, Purpose::Loss);
            for value in [a, b] {
                let x = f64::from(value) / 4_294_967_296.0;
                sum += x;
                squares += x * x;
                for (bit, one) in ones.iter_mut().enumerate() {
                    *one += value >> bit & 1;
                }
            }
        }
        let n = f64::from(count);
        // Five standard errors: 0.2887 / sqrt(n) and 0.0745 / sqrt(n).
        assert!((sum / n - 0.5).abs() < 5.0 * 0.2887 / n.sqrt());
        let variance = squares / n - (sum / n).powi(2);
        assert!((variance - 1.0 / 12.0).abs() < 5.0 * 0.0745 / n.sqrt());
        for one in ones {
            assert!((f64::from(one) / n - 0.5).abs() < 5.0 * 0.5 / n.sqrt());
        }
    }

    #[test]
    fn seeds_purposes_and_packets_give_different_numbers() {
        let base = draw(1, 1, Purpose::Loss);
        assert_eq!(base, draw(1, 1, Purpose::Loss));
        assert_ne!(base, draw(2, 1, Purpose::Loss));
        assert_ne!(base, draw(1, 2, Purpose::Loss));
        assert_ne!(base, draw(1, 1, Purpose::Jitter));
    }

    #[test]
    fn correlation_keeps_the_mean_and_carries_over() {
        let rho = probability(0.9);
        let (mut last, mut sum, mut steps) = (1u32 << 31, 0.0, 0.0);
        let count = 100_000;
        for packet in 0..count {
            let value = correlated(draw(3, packet, Purpose::Jitter).0, last, rho);
            sum += f64::from(value);
            steps += f64::from(value.abs_diff(last));
            last = value;
        }
        let unit = 4_294_967_296.0 * count as f64;
        assert!((sum / unit - 0.5).abs() < 0.01);
        // Independent numbers differ by a third on average.
        assert!(steps / unit < 0.1, "{}", steps / unit);
        assert_eq!(correlated(5, 9, 0), 5);
    }

    #[test]
    fn repetition_keeps_mean_and_variance() {
        let rho = probability(0.5);
        let (mut last, mut sum, mut squares, mut products) = (1u32 << 31, 0.0, 0.0, 0.0);
        let count = 200_000;
        for packet in 0..count {
            let (fresh, pick) = draw(3, packet, Purpose::Jitter);
            let value = repeated(fresh, pick, last, rho);
            let [x, before] = [value, last].map(|v| f64::from(v) / 4_294_967_296.0 - 0.5);
            sum += x;
            squares += x * x;
            products += x * before;
            last = value;
        }
        let n = count as f64;
        // Runs of two on average: five standard errors are those of a third of n.
        assert!((sum / n).abs() < 5.0 * 0.2887 / (n / 3.0).sqrt());
        assert!((squares / n * 12.0 - 1.0).abs() < 0.02);
        assert!((products / squares - 0.5).abs() < 0.02);
    }

    #[test]
    fn certainty_and_impossibility() {
        assert_eq!(probability(1.0), u32::MAX);
        assert!(happens(u32::MAX, u32::MAX) && !happens(0, 0));
        assert!(happens(probability(0.5), 1 << 30) && !happens(probability(0.5), 3 << 30));
    }
}
