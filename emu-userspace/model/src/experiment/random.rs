//! Repeatable random numbers of an experiment: one stream per purpose.
//!
//! A number depends on the seed, the names of its stream and its position there, so an
//! additional vnode does not change the numbers of others. Logarithms and cosines come from
//! `libm`, so they are equal on every machine.
use emu_common::model::random::mix;

/// Increment of the sequence: 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Stream {
    key: u64,
    next: u64,
}

impl Stream {
    /// The stream with these names under a seed.
    pub fn new(seed: u64, names: &[&str]) -> Self {
        let mut key = mix(seed ^ GOLDEN);
        for name in names {
            // The length distinguishes ("a", "bc") from ("ab", "c").
            key = mix(key ^ name.len() as u64);
            for byte in name.bytes() {
                key = mix(key.wrapping_add(GOLDEN) ^ u64::from(byte));
            }
        }
        Self { key, next: 0 }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.next = self.next.wrapping_add(1);
        mix(self.key.wrapping_add(self.next.wrapping_mul(GOLDEN)))
    }

    /// A number between 0 and 1, exclusive.
    pub fn fraction(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// A whole number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The product is below `end`, since the fraction is below 1.
        ((self.fraction() * end as f64) as usize).min(end.saturating_sub(1))
    }

    /// From the exponential distribution with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -libm::log(self.fraction())
    }

    /// From the normal distribution with mean 0 and deviation 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(2.0 * self.exponential());
        radius * libm::cos(std::f64::consts::TAU * self.fraction())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_apart_and_repeat() {
        let take = |seed, names: &[&str]| {
            let mut stream = Stream::new(seed, names);
            [stream.bits(), stream.bits(), stream.bits()]
        };
        let base = take(7, &["churn", "a", "10.1.0.1"]);
        assert_eq!(base, take(7, &["churn", "a", "10.1.0.1"]));
        for other in [
            take(8, &["churn", "a", "10.1.0.1"]),
            take(7, &["churn", "a", "10.1.0.2"]),
            take(7, &["churn", "a1", "0.1.0.1"]),
            take(7, &["start", "a", "10.1.0.1"]),
        ] {
            assert!(base.iter().all(|bits| !other.contains(bits)));
        }
    }
}
