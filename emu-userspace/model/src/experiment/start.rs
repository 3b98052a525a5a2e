//! When the processes of a program start.
use std::time::Duration;

use super::random::Stream;
use crate::topology::{self, reader::Field};

const EXPECTED: &str = "`at once`, {at: 10s}, {every: 250ms}, {poisson: 4/s} or {within: 30s}, the \
                        last three with `from: 5s` if they begin later";

/// When the processes of a program start, relative to its release.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Start {
    /// All at this time.
    At(Duration),
    /// One after another.
    Every {
        /// Start of the first process.
        from: Duration,
        /// Time between two starts.
        gap: Duration,
    },
    /// As a Poisson process: independent of each other, with a mean rate.
    Poisson {
        /// Start of the Poisson process.
        from: Duration,
        /// Mean number of starts per second.
        rate_per_s: f64,
    },
    /// Each at a random time, uniformly distributed.
    Within {
        /// Start of the interval.
        from: Duration,
        /// Length of the interval.
        time: Duration,
    },
}

impl Start {
    /// The start times of the processes. `names` are the names of their random streams.
    pub fn times(&self, seed: u64, program: &str, processes: &[String]) -> Vec<Duration> {
        let count = processes.len() as u32;
        match *self {
            Start::At(at) => vec![at; processes.len()],
            Start::Every { from, gap } => (0..count).map(|i| from + gap * i).collect(),
            Start::Poisson { from, rate_per_s } => {
                let mut stream = Stream::new(seed, &["start", program]);
                let mut at_s = from.as_secs_f64();
                (0..count)
                    .map(|_| {
                        at_s += stream.exponential() / rate_per_s;
                        Duration::try_from_secs_f64(at_s).unwrap_or(Duration::MAX)
                    })
                    .collect()
            }
            Start::Within { from, time } => processes
                .iter()
                .map(|name| {
                    let mut stream = Stream::new(seed, &["start", program, name]);
                    from + time.mul_f64(stream.fraction())
                })
                .collect(),
        }
    }
}

/// Reads `start`.
pub(super) fn start(field: &Field<'_>) -> Option<Start> {
    if !field.is_map() {
        let text = field.text()?;
        if text != "at once" {
            field.report(
                field
                    .problem(format!("`{text}` is not a way to start"))
                    .expected(EXPECTED),
            );
            return None;
        }
        return Some(Start::At(Duration::ZERO));
    }
    let record = field.record(&["at", "every", "poisson", "within", "from"])?;
    let ways: Vec<&str> = ["at", "every", "poisson", "within"]
        .into_iter()
        .filter(|way| record.get(way).is_some())
        .collect();
    let from = match record.get("from") {
        Some(from) if ways == ["at"] => {
            from.report(from.problem("`at` needs no `from`"));
            None
        }
        Some(from) => from.unit(topology::span),
        None => Some(Duration::ZERO),
    };
    let [way] = ways[..] else {
        field.report(
            field
                .problem(format!(
                    "`start` has {} of at, every, poisson and within, and needs exactly one",
                    ways.len()
                ))
                .expected(EXPECTED),
        );
        return None;
    };
    let value = record.get(way)?;
    match way {
        "at" => Some(Start::At(value.unit(topology::span)?)),
        "every" => {
            let gap = value.unit(topology::span);
            Some(Start::Every {
                from: from?,
                gap: gap?,
            })
        }
        "within" => {
            let time = value.unit(topology::span);
            Some(Start::Within {
                from: from?,
                time: time?,
            })
        }
        _ => {
            let rate = frequency(&value);
            Some(Start::Poisson {
                from: from?,
                rate_per_s: rate?,
            })
        }
    }
}

/// Number of starts per second, as in `4/s`.
fn frequency(field: &Field<'_>) -> Option<f64> {
    let text = field.text()?;
    let rate = text.split_once('/').and_then(|(number, unit)| {
        let number: f64 = number.trim().parse().ok()?;
        let per_s = match unit.trim() {
            "s" => number,
            "min" => number / 60.0,
            "h" => number / 3_600.0,
            _ => return None,
        };
        (per_s.is_finite() && (1e-6..=1e6).contains(&per_s)).then_some(per_s)
    });
    if rate.is_none() {
        field.report(
            field
                .problem(format!("`{text}` is not a rate of starts"))
                .expected("a number for each s, min or h, as in `4/s`"),
        );
    }
    rate
}
