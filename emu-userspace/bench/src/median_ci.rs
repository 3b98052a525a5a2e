//! Median with a confidence interval.
use serde::Serialize;

/// Median of a sample, with an interval that holds the true median with at least
/// 95 % confidence whatever the distribution (order statistics).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MedianCi {
    /// The sample's median.
    pub median: f64,
    /// Lower end of the 95 % confidence interval.
    pub low: f64,
    /// Upper end of the 95 % confidence interval.
    pub high: f64,
    /// Number of samples.
    pub samples: usize,
}

impl MedianCi {
    /// Median and interval of a sample; `None` if it is empty. Below six values the
    /// interval is their range, whose confidence is lower than 95 %.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let n = values.len();
        let at = |i: usize| values.get(i).copied();
        let median = f64::midpoint(at(n.checked_sub(1)? / 2)?, at(n / 2)?);
        let outside = outside(n);
        Some(Self {
            median,
            low: at(outside)?,
            high: at(n - 1 - outside)?,
            samples: n,
        })
    }
}

/// Number of values at each end of `n` sorted ones that lie outside the interval: the
/// probability of so few heads in `n` tosses of a fair coin must be 2.5 % at most.
fn outside(n: usize) -> usize {
    let mut chance = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    let mut sum = chance;
    let mut k = 0;
    while sum <= 0.025 && k < n / 2 {
        chance *= (n - k) as f64 / (k + 1) as f64;
        sum += chance;
        k += 1;
    }
    k.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_tables() {
        // Ranks of the 95 % confidence interval of a median, from the binomial
        // distribution.
        for (n, rank) in [(6, 1), (8, 1), (9, 2), (20, 6), (30, 10), (50, 18)] {
            let values = (1..=n).map(f64::from).collect();
            let ci = MedianCi::of(values).unwrap();
            assert_eq!(ci.low, f64::from(rank), "{n}");
            assert_eq!(ci.high, f64::from(n + 1 - rank), "{n}");
            assert_eq!(ci.median, f64::from(n + 1) / 2.0);
        }
        assert_eq!(MedianCi::of(vec![]), None);
        assert_eq!(
            MedianCi::of(vec![3.0, 1.0]).map(|s| (s.low, s.high)),
            Some((1.0, 3.0))
        );
    }
}
