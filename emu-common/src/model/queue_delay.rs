//! How long packets are in a pipe, counted in buckets whose bounds double.
//!
//! The time is that from a packet's arrival until its last bit leaves the line: its wait
//! in the queue and its serialisation, not the latency. Bounds are powers of two in
//! nanoseconds, so that the bucket is the length of a binary number and needs no division.
use crate::layout::QueueDelayHistogram;

/// Classes of a histogram; the last has no upper bound.
pub const BUCKETS: u32 = 23;
/// The first bucket holds times up to 2^16 ns, 65.536 us.
const FIRST_BITS: u32 = 16;

/// The bucket of a time.
#[inline(always)]
pub const fn bucket(time_ns: u64) -> u32 {
    let units = time_ns.saturating_sub(1) >> FIRST_BITS;
    // The length of the number in bits, by halving: this processor counts no zeros.
    let mut rest = if units > u32::MAX as u64 {
        u32::MAX
    } else {
        units as u32
    };
    let mut bits = 0;
    let mut step = 16;
    while step > 0 {
        if rest >> step != 0 {
            rest >>= step;
            bits += step;
        }
        step >>= 1;
    }
    let length = bits + (rest != 0) as u32;
    if length < BUCKETS - 1 {
        length
    } else {
        BUCKETS - 1
    }
}

/// The longest time of a bucket in nanoseconds, `None` for the last.
pub const fn bound_ns(bucket: u32) -> Option<u64> {
    if bucket + 1 < BUCKETS {
        Some(1 << (FIRST_BITS + bucket))
    } else {
        None
    }
}

impl QueueDelayHistogram {
    /// Packets counted.
    pub fn packets(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_ns += other.sum_ns;
    }

    /// The time that a share of the packets does not exceed, in nanoseconds, by a straight
    /// line through its bucket as in Prometheus' `histogram_quantile`; the lower bound of
    /// the last bucket where it is there. `None` if nothing was counted.
    pub fn quantile_ns(&self, share: f64) -> Option<f64> {
        let packets = self.packets();
        if packets == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * packets as f64;
        let mut below = 0;
        for (bucket, count) in (0..).zip(self.buckets) {
            let (from, to) = (lower_ns(bucket), bound_ns(bucket));
            if count > 0 && (below + count) as f64 >= rank {
                let part = (rank - below as f64) / count as f64;
                return Some(to.map_or(from, |to| from + (to as f64 - from) * part));
            }
            below += count;
        }
        Some(lower_ns(BUCKETS - 1))
    }
}

/// The bound of the bucket before.
fn lower_ns(bucket: u32) -> f64 {
    let before = bucket.checked_sub(1).and_then(bound_ns);
    before.unwrap_or(0) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_ends_with_its_bound() {
        assert_eq!(bucket(0), 0);
        for index in 0..BUCKETS - 1 {
            let bound = bound_ns(index).unwrap();
            assert_eq!(bucket(bound), index, "{bound}");
            assert_eq!(bucket(bound + 1), index + 1, "{bound}");
        }
        assert_eq!(bound_ns(0), Some(65_536));
        assert_eq!(bound_ns(BUCKETS - 1), None);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_lie_in_their_class() {
        let mut histogram = QueueDelayHistogram::default();
        assert_eq!(histogram.quantile_ns(0.5), None);
        // 90 packets of up to 65.5 us, 10 of 1.05 to 2.1 s.
        histogram.buckets[0] = 90;
        histogram.buckets[15] = 10;
        let at = |share| histogram.quantile_ns(share).unwrap();
        assert_eq!(at(0.45), 32_768.0);
        assert_eq!(at(1.0), f64::from(1u32 << 31));
        assert!((f64::from(1u32 << 30)..f64::from(1u32 << 31)).contains(&at(0.95)));
        histogram.buckets = [0; BUCKETS as usize];
        histogram.buckets[22] = 1;
        assert_eq!(
            histogram.quantile_ns(0.5),
            Some(f64::from(1u32 << 31) * 64.0)
        );
    }
}
