//! Statistics of the comparisons. All functions are pure: no clock, no random numbers.
use serde::Serialize;

/// Minimum expected count per bin of a chi-squared test.
const LEAST_EXPECTED: f64 = 8.0;

/// Distribution function of the standard normal distribution.
pub fn normal_cdf(x: f64) -> f64 {
    libm::erfc(-x / std::f64::consts::SQRT_2) / 2.0
}

/// Probability that a standard normal value is farther from 0 than `z`.
pub fn normal_p(z: f64) -> f64 {
    libm::erfc(z.abs() / std::f64::consts::SQRT_2)
}

/// Arithmetic mean; 0 for no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / (values.len().max(1)) as f64
}

/// Standard deviation; 0 for no values.
pub fn deviation(values: &[f64]) -> f64 {
    let middle = mean(values);
    let squares: f64 = values.iter().map(|v| (v - middle).powi(2)).sum();
    (squares / values.len().max(1) as f64).sqrt()
}

/// Correlation of each value with the one before it; 0 where there is none.
pub fn serial_correlation(values: &[f64]) -> f64 {
    let (middle, width) = (mean(values), deviation(values));
    if width == 0.0 || values.len() < 2 {
        return 0.0;
    }
    let products = values.windows(2).map(|w| (w[0] - middle) * (w[1] - middle));
    products.sum::<f64>() / (values.len() - 1) as f64 / (width * width)
}

/// A test statistic and its p-value under the model.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Test {
    /// Kolmogorov-Smirnov distance, chi-squared statistic, or z.
    pub statistic: f64,
    /// Probability of a statistic at least as large if the model holds, 0 to 1.
    pub p: f64,
}

/// Largest distance between the distribution functions of samples and model
/// (Kolmogorov-Smirnov). The samples must be independent.
pub fn kolmogorov_smirnov(samples: &[f64], cdf: impl Fn(f64) -> f64) -> Test {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let distance = sorted
        .iter()
        .enumerate()
        .map(|(i, x)| {
            let p = cdf(*x);
            (p - i as f64 / n).abs().max((p - (i + 1) as f64 / n).abs())
        })
        .fold(0.0, f64::max);
    let root = n.sqrt();
    Test {
        statistic: distance,
        p: kolmogorov_p((root + 0.12 + 0.11 / root) * distance),
    }
}

/// Tail of the Kolmogorov distribution.
fn kolmogorov_p(x: f64) -> f64 {
    if x < 0.2 {
        return 1.0;
    }
    let sum: f64 = (1..=100)
        .map(|k| {
            let k = f64::from(k);
            let sign = if k % 2.0 == 0.0 { -1.0 } else { 1.0 };
            sign * (-2.0 * k * k * x * x).exp()
        })
        .sum();
    (2.0 * sum).clamp(0.0, 1.0)
}

/// Distance of a share of `n` cases from the expected share, in standard errors. `spread`
/// is the variance of the count relative to that of independent cases.
pub fn share_z(share: f64, expected: f64, n: f64, spread: f64) -> Test {
    let error = (expected * (1.0 - expected) * spread / n.max(1.0)).sqrt();
    let z = if error == 0.0 {
        if share == expected {
            0.0
        } else {
            f64::INFINITY
        }
    } else {
        (share - expected) / error
    };
    Test {
        statistic: z,
        p: normal_p(z),
    }
}

/// Pearson's chi-squared test of counts against probabilities; the last count includes
/// everything beyond, and bins with few expected cases are merged. `None` if the cases are
/// too few for two bins.
pub fn chi_squared(counts: &[u64], probabilities: &[f64]) -> Option<Test> {
    let n: u64 = counts.iter().sum();
    let whole: f64 = probabilities.iter().sum();
    let bins = counts.len().max(probabilities.len());
    let mut merged: Vec<(f64, f64)> = Vec::new();
    let (mut seen, mut expected) = (0.0, 0.0);
    for i in 0..bins {
        seen += counts.get(i).copied().unwrap_or(0) as f64;
        expected += probabilities.get(i).copied().unwrap_or(0.0) / whole * n as f64;
        if expected >= LEAST_EXPECTED {
            merged.push((seen, expected));
            (seen, expected) = (0.0, 0.0);
        }
    }
    let last = merged.last_mut()?;
    last.0 += seen;
    last.1 += expected;
    if merged.len() < 2 {
        return None;
    }
    let statistic = merged.iter().map(|(s, e)| (s - e).powi(2) / e).sum();
    Some(Test {
        statistic,
        p: gamma_tail((merged.len() - 1) as f64 / 2.0, statistic / 2.0),
    })
}

/// Upper regularised incomplete gamma function Q(a, x), by its continued
/// fraction or one minus its series (Numerical Recipes, 6.2).
fn gamma_tail(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 1.0;
    }
    let front = (a * x.ln() - x - libm::lgamma(a)).exp();
    if x < a + 1.0 {
        let (mut term, mut sum, mut n) = (1.0 / a, 1.0 / a, a);
        for _ in 0..1_000 {
            n += 1.0;
            term *= x / n;
            sum += term;
        }
        return (1.0 - front * sum).clamp(0.0, 1.0);
    }
    let mut b = x + 1.0 - a;
    let (mut c, mut d) = (1e300, 1.0 / b);
    let mut h = d;
    for i in 1..1_000 {
        let i = f64::from(i);
        let an = -i * (i - a);
        b += 2.0;
        d = 1.0 / (an * d + b);
        c = b + an / c;
        h *= d * c;
    }
    (front * h).clamp(0.0, 1.0)
}

/// Number of runs of `true` with the length 1, 2, ….
pub fn run_lengths(events: &[bool]) -> Vec<u64> {
    let mut counts = Vec::new();
    let mut length = 0usize;
    for event in events.iter().copied().chain([false]) {
        if event {
            length += 1;
        } else if length > 0 {
            if counts.len() < length {
                counts.resize(length, 0);
            }
            counts[length - 1] += 1;
            length = 0;
        }
    }
    counts
}

/// Mean of the lengths counted by [`run_lengths`]; 0 if there are none.
pub fn mean_run(lengths: &[u64]) -> f64 {
    let runs: u64 = lengths.iter().sum();
    let events: u64 = (1..).zip(lengths).map(|(length, n)| length * n).sum();
    events as f64 / runs.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_match_published_values() {
        assert!((normal_p(1.959_964) - 0.05).abs() < 1e-6);
        // Chi-squared with 3 and 20 degrees of freedom: 7.815 and 31.410 at 5 %.
        assert!((gamma_tail(1.5, 7.815 / 2.0) - 0.05).abs() < 1e-4);
        assert!((gamma_tail(10.0, 31.410 / 2.0) - 0.05).abs() < 1e-4);
        assert!((gamma_tail(10.0, 15.0 / 2.0) - 0.7764).abs() < 1e-3);
        assert!((kolmogorov_p(1.3581) - 0.05).abs() < 1e-4);
    }

    #[test]
    fn evenly_spread_samples_fit_and_shifted_ones_do_not() {
        let even: Vec<f64> = (0..1_000).map(|i| (f64::from(i) + 0.5) / 1_000.0).collect();
        assert!(kolmogorov_smirnov(&even, |x| x).p > 0.999);
        let shifted: Vec<f64> = even.iter().map(|x| x * 0.9).collect();
        let test = kolmogorov_smirnov(&shifted, |x| x);
        assert!((test.statistic - 0.1).abs() < 0.01 && test.p < 1e-6);
    }

    #[test]
    fn counts_are_merged_and_compared() {
        let halves = [0.5, 0.25, 0.125, 0.0625, 0.0625];
        assert!(chi_squared(&[500, 250, 125, 63, 62], &halves).is_some_and(|t| t.p > 0.99));
        assert!(chi_squared(&[700, 150, 50, 50, 50], &halves).is_some_and(|t| t.p < 1e-6));
        assert!(chi_squared(&[3, 1], &halves).is_none());
    }

    #[test]
    fn runs() {
        let events = [true, false, true, true, false, false, true];
        assert_eq!(run_lengths(&events), [2, 1]);
        assert!((mean_run(&run_lengths(&events)) - 4.0 / 3.0).abs() < 1e-9);
        assert_eq!(run_lengths(&[]), [0u64; 0]);
    }

    #[test]
    fn correlations() {
        assert!(serial_correlation(&[1.0, -1.0, 1.0, -1.0]) < -0.9);
        assert!(serial_correlation(&[2.0, 2.0]).abs() < f64::EPSILON);
        assert!(share_z(0.5, 0.5, 100.0, 1.0).statistic.abs() < f64::EPSILON);
        assert!((share_z(0.6, 0.5, 100.0, 1.0).statistic - 2.0).abs() < 1e-9);
    }
}
