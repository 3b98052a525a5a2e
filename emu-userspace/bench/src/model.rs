//! Reference models of the settings: distribution functions of delays, and event chains in
//! floating point, implemented independently of the data path.
use emu_common::model::random::mix;

use super::stats::{normal_cdf, run_lengths};

/// Number of steps of a simulated chain.
const STEPS: usize = 2_000_000;
/// Largest distance in packets at which losses are still taken as correlated.
const LAGS: usize = 100;
/// Shape of the Pareto distribution.
const SHAPE: f64 = 3.0;

/// A pseudo-random generator of uniform fractions of 1, with the same sequence in each run.
pub struct Uniform(u64);

impl Uniform {
    /// A generator with this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next fraction in [0, 1).
    pub fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A model of the packets that an impairment affects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Events {
    /// Each packet with a chance; its random number is `correlation` times the previous one
    /// plus a new one for the rest, as in netem.
    Random {
        /// Probability, 0 to 1.
        chance: f64,
        /// Weight of the previous random number, 0 to 1.
        correlation: f64,
    },
    /// Like `Random`, but with at least `gap - 1` unaffected packets after each event.
    Spaced {
        /// Probability, 0 to 1.
        chance: f64,
        /// Weight of the previous random number, 0 to 1.
        correlation: f64,
        /// Minimum number of packets from one event to the next.
        gap: u32,
    },
    /// Gilbert-Elliott: the probabilities of good to bad, of bad to good, of loss in the
    /// bad state and of loss in the good state.
    GilbertElliott([f64; 4]),
    /// The 4-state Markov model of netem: p13, p31, p32, p23, p14.
    Markov([f64; 5]),
}

/// Statistics of an event sequence by a model.
#[derive(Debug, Clone)]
pub struct Promise {
    /// Share of affected packets.
    pub share: f64,
    /// Variance of the number of events, relative to that of independent events.
    pub spread: f64,
    /// Probability of the run lengths 1, 2, ….
    pub runs: Vec<f64>,
    /// Length of the simulated sequence behind these statistics.
    pub steps: f64,
}

impl Promise {
    /// Mean length of a run of events.
    pub fn mean_run(&self) -> f64 {
        (1..)
            .zip(&self.runs)
            .map(|(length, p)| f64::from(length) * p)
            .sum()
    }
}

/// A random number that is correlated with the previous one.
fn resembling(uniform: &mut Uniform, last: &mut f64, correlation: f64) -> f64 {
    *last = (1.0 - correlation) * uniform.draw() + correlation * *last;
    *last
}

impl Events {
    /// Simulates `steps` packets; `true` marks an affected packet.
    pub fn sequence(&self, steps: usize, seed: u64) -> Vec<bool> {
        let mut uniform = Uniform::new(seed);
        let (mut last, mut state, mut since) = (uniform.draw(), 1u8, 0u32);
        let mut step = || match *self {
            Events::Random {
                chance,
                correlation,
            } => resembling(&mut uniform, &mut last, correlation) < chance,
            Events::Spaced {
                chance,
                correlation,
                gap,
            } => {
                since += 1;
                // Within the gap no random number is drawn.
                let event =
                    since >= gap && resembling(&mut uniform, &mut last, correlation) < chance;
                since = if event { 0 } else { since };
                event
            }
            Events::GilbertElliott([to_bad, to_good, in_bad, in_good]) => {
                let (leave, loss) = if state == 1 {
                    (to_bad, in_good)
                } else {
                    (to_good, in_bad)
                };
                let lost = uniform.draw() < loss;
                if uniform.draw() < leave {
                    state = 3 - state;
                }
                lost
            }
            Events::Markov([p13, p31, p32, p23, p14]) => {
                let x = uniform.draw();
                state = match state {
                    1 if x < p14 => 4,
                    1 if x < p14 + p13 => 3,
                    2 if x < p23 => 3,
                    3 if x < p32 => 2,
                    3 if x < p32 + p31 => 1,
                    4 => 1,
                    same => same,
                };
                state >= 3
            }
        };
        (0..steps).map(|_| step()).collect()
    }

    /// The model's statistics, measured on a long simulated sequence.
    pub fn promise(&self) -> Promise {
        let sequence = self.sequence(STEPS, 1);
        let n = STEPS as f64;
        let share = sequence.iter().filter(|e| **e).count() as f64 / n;
        let places: Vec<usize> = (0..STEPS).filter(|i| sequence[*i]).collect();
        let mut both = [0u64; LAGS];
        for (i, place) in places.iter().enumerate() {
            for later in &places[i + 1..] {
                if later - place > LAGS {
                    break;
                }
                both[later - place - 1] += 1;
            }
        }
        let variance = share * (1.0 - share);
        let spread = both
            .iter()
            .map(|both| 2.0 * (*both as f64 / n - share * share) / variance)
            .sum::<f64>();
        let lengths = run_lengths(&sequence);
        let runs: u64 = lengths.iter().sum();
        Promise {
            share,
            spread: (1.0 + spread).max(0.01),
            runs: lengths.iter().map(|c| *c as f64 / runs as f64).collect(),
            steps: n,
        }
    }
}

/// A distribution of delay offsets with mean 0, in multiples of the spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offsets {
    /// Uniform between -1 and 1.
    Uniform,
    /// Normal with standard deviation 1.
    Normal,
    /// Pareto of shape 3, shifted and scaled to mean 0 and standard deviation 1.
    Pareto,
    /// A quarter normal and three quarters Pareto, mixed quantile by quantile and scaled to
    /// standard deviation 1.
    ParetoNormal,
}

/// Standard deviation of the Pareto distribution with shape 3 and minimum 1.
const PARETO_DEVIATION: f64 = 0.866_025_403_784_438_6;

/// Distribution function of the shifted and scaled Pareto distribution.
fn pareto_cdf(x: f64) -> f64 {
    1.0 - (x * PARETO_DEVIATION + SHAPE / (SHAPE - 1.0))
        .max(1.0)
        .powf(-SHAPE)
}

/// Standard deviation of the unscaled mixture at the resolution of a quantile table: the
/// finer the table, the longer the tail.
const MIXTURE_DEVIATION: f64 = 0.901_189;

impl Offsets {
    /// Standard deviation in multiples of the spread.
    pub fn deviation(self) -> f64 {
        match self {
            Offsets::Uniform => 1.0 / 3f64.sqrt(),
            _ => 1.0,
        }
    }

    /// Cumulative distribution function at `x`, in multiples of the spread.
    pub fn cdf(self, x: f64) -> f64 {
        match self {
            Offsets::Uniform => f64::midpoint(x, 1.0).clamp(0.0, 1.0),
            Offsets::Normal => normal_cdf(x),
            Offsets::Pareto => pareto_cdf(x),
            Offsets::ParetoNormal => mixture_cdf(x),
        }
    }
}

/// The quantile function of the mixture is a sum, so its inverse is found by bisection: the
/// normal part z of a quantile determines the Pareto part.
fn mixture_cdf(x: f64) -> f64 {
    let value = |z: f64| {
        // The complement keeps its precision far out in the tail.
        let above = normal_cdf(-z).max(f64::MIN_POSITIVE);
        let pareto = (above.powf(-1.0 / SHAPE) - SHAPE / (SHAPE - 1.0)) / PARETO_DEVIATION;
        (0.25 * z + 0.75 * pareto) / MIXTURE_DEVIATION
    };
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if value(middle) < x {
            low = middle;
        } else {
            high = middle;
        }
    }
    normal_cdf(f64::midpoint(low, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::mean_run;

    #[test]
    fn simulated_chains_match_their_statistics() {
        let even = Events::Random {
            chance: 0.1,
            correlation: 0.0,
        }
        .promise();
        assert!((even.share - 0.1).abs() < 0.001 && (even.spread - 1.0).abs() < 0.1);
        assert!((even.runs[0] - 0.9).abs() < 0.003);
        let burst = Events::GilbertElliott([0.02, 0.2, 1.0, 0.0]);
        let promise = burst.promise();
        assert!((promise.share - 1.0 / 11.0).abs() < 0.003);
        // Variance of a two-state chain: (1 + r) / (1 - r), r = 1 - p - q.
        assert!((promise.spread - 1.78 / 0.22).abs() < 0.5, "{promise:?}");
        assert!((mean_run(&run_lengths(&burst.sequence(500_000, 2))) - 5.0).abs() < 0.2);
        let spaced = Events::Spaced {
            chance: 0.25,
            correlation: 0.0,
            gap: 5,
        };
        assert!((spaced.promise().share - 1.0 / 8.0).abs() < 0.001);
        let markov = Events::Markov([0.01, 0.3, 0.1, 0.3, 0.02]).promise();
        let x3 = 0.01 / 0.3;
        let expected = (x3 + 0.02) / (1.0 + x3 * (1.0 + 0.1 / 0.3) + 0.02);
        assert!((markov.share - expected).abs() < 0.002);
    }

    #[test]
    fn correlated_events_are_rarer() {
        let chance = 0.1;
        let half = Events::Random {
            chance,
            correlation: 0.25,
        };
        // A value below 0.1 needs a small new number and a small previous number.
        assert!(half.promise().share < 0.08);
    }

    #[test]
    fn distribution_functions_have_their_quantiles() {
        for (offsets, x, p) in [
            (Offsets::Uniform, 0.5, 0.75),
            (Offsets::Normal, 1.644_854, 0.95),
            (Offsets::Pareto, 3.628, 0.99),
            (Offsets::ParetoNormal, 1.626, 0.95),
            (Offsets::ParetoNormal, -0.57, 0.25),
        ] {
            let got = offsets.cdf(x);
            assert!((got - p).abs() < 0.003, "{offsets:?} {x}: {got}");
        }
    }
}
