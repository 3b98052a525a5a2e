//! The guest's time as a linear function of the processor's time-stamp counter.

/// Difference above which a clock was set or the machine slept: the line then jumps to the
/// clock's time, also backwards.
const STEP_NS: f64 = 1e6;
/// Maximum age of the sample from which the rate is computed.
const ANCHOR_NS: u64 = 64_000_000_000;
/// Number of fraction bits of [`LinearTime::mult`].
pub const SHIFT: u32 = 32;

/// A reading of the kernel's monotonic clock and of the counter at that moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Counter value in ticks.
    pub tsc: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub ns: u64,
}

/// The line `ns + ((now - tsc) * mult >> 32)`, the formula of the kernel's own clock
/// sources (include/linux/clocksource.h, `clocksource_cyc2ns`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearTime {
    /// Counter value in ticks at the beginning of the line.
    pub tsc: u64,
    /// Nanoseconds at the beginning of the line.
    pub ns: u64,
    /// Nanoseconds per tick, times 2^32.
    pub mult: u64,
}

impl LinearTime {
    /// Nanoseconds at a counter value; [`LinearTime::ns`] for values before the beginning of the
    /// line.
    pub fn at(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.tsc));
        let ns = (ticks * u128::from(self.mult)) >> SHIFT;
        self.ns.wrapping_add(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

/// Computes lines that follow the kernel's clock from sample to sample.
#[derive(Debug)]
pub struct Follower {
    anchor: Sample,
    last: Sample,
    line: LinearTime,
}

impl Follower {
    /// The line through two samples; `None` if they are not in order.
    pub fn new(first: Sample, second: Sample) -> Option<Self> {
        let mult = fixed(rate(first, second)?)?;
        let line = LinearTime {
            tsc: second.tsc,
            ns: second.ns,
            mult,
        };
        Some(Self {
            anchor: first,
            last: second,
            line,
        })
    }

    /// The next line: it begins at the current time of the last line, so that no program
    /// sees time go back, and meets the clock after `until_next_ns`. `None` if the counter
    /// does not match the clock.
    pub fn follow(&mut self, sample: Sample, until_next_ns: u64) -> Option<LinearTime> {
        let now = self.line.at(sample.tsc);
        let behind = sample.ns.cast_signed().wrapping_sub(now.cast_signed()) as f64;
        if behind.abs() > STEP_NS {
            // Earlier samples belong to a clock that was set since.
            self.anchor = sample;
            self.line = LinearTime {
                tsc: sample.tsc,
                ns: sample.ns,
                ..self.line
            };
        } else {
            let rate = rate(self.anchor, sample)?;
            self.line = LinearTime {
                tsc: sample.tsc,
                ns: now,
                mult: fixed(rate * (1.0 + behind / until_next_ns as f64))?,
            };
            if sample.ns - self.anchor.ns > ANCHOR_NS {
                self.anchor = self.last;
            }
        }
        self.last = sample;
        Some(self.line)
    }
}

/// Nanoseconds per tick.
fn rate(first: Sample, second: Sample) -> Option<f64> {
    let ticks = second.tsc.checked_sub(first.tsc).filter(|t| *t > 0)?;
    let ns = second.ns.checked_sub(first.ns).filter(|n| *n > 0)?;
    Some(ns as f64 / ticks as f64)
}

/// `rate` as a fixed-point number; `None` outside 100 ps to 100 ns per tick.
fn fixed(rate: f64) -> Option<u64> {
    (0.1..100.0)
        .contains(&rate)
        .then_some((rate * (1_u64 << SHIFT) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::{Follower, LinearTime, Sample};

    const SECOND: u64 = 1_000_000_000;

    /// Sample of a counter of 2.5 GHz and a clock with this error.
    fn sample(ns: u64, error_ns: i64) -> Sample {
        Sample {
            tsc: ns / 2 * 5,
            ns: ns.wrapping_add_signed(error_ns),
        }
    }

    #[test]
    fn a_line_holds_its_rate_for_hours_and_before_its_beginning() {
        let line = LinearTime {
            tsc: 1_000,
            ns: 500,
            mult: (4 << 32) / 10,
        };
        assert_eq!(line.at(0), 500);
        assert_eq!(line.at(1_000), 500);
        let hours = line.at(1_000 + 25_000_000_000 * 3_600);
        assert!(hours.abs_diff(36_000 * SECOND) < 20_000, "{hours}");
        assert!(line.at(u64::MAX) > hours);
    }

    #[test]
    fn readings_that_are_off_by_microseconds_give_a_clock_that_never_goes_back() {
        let first = sample(SECOND, 0);
        let mut follower = Follower::new(first, sample(SECOND + 10_000_000, 2_000)).unwrap();
        let mut worst = 0;
        for second in 2..300 {
            let error = [3_000, -2_000, 1_000, -3_000][second as usize % 4];
            let sample = sample(second * SECOND, error);
            let before = follower.line.at(sample.tsc);
            let line = follower.follow(sample, SECOND).unwrap();
            assert_eq!(line.at(sample.tsc), before);
            if second > 3 {
                worst = worst.max(before.abs_diff(second * SECOND));
            }
        }
        assert!(worst < 10_000, "{worst} ns");
    }

    #[test]
    fn a_clock_that_was_set_is_followed_at_once() {
        let mut follower = Follower::new(sample(0, 0), sample(SECOND, 0)).unwrap();
        for offset in [3_600_000_000_000, -1_000_000_000] {
            for second in [9, 10] {
                let sample = sample(second * SECOND, offset);
                let line = follower.follow(sample, SECOND).unwrap();
                let at = line.at(sample.tsc + 2_500_000);
                assert!(at.abs_diff(sample.ns + 1_000_000) < 10, "{at}");
            }
            follower.anchor = follower.last;
        }
    }

    #[test]
    fn invalid_samples_give_no_line() {
        let at = |tsc, ns| Sample { tsc, ns };
        assert!(Follower::new(at(5, 5), at(5, 9)).is_none());
        assert!(Follower::new(at(5, 5), at(9, 5)).is_none());
        assert!(Follower::new(at(0, 0), at(1, 1_000)).is_none());
        assert!(Follower::new(at(0, 0), at(1_000, 1)).is_none());
        let mut good = Follower::new(at(0, 0), at(1_000, 400)).unwrap();
        assert!(good.follow(at(0, 900), SECOND).is_none());
    }
}
