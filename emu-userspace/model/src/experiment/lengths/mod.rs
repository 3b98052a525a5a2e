//! Distributions of session and down times.
use std::{path::Path, time::Duration};

use super::random::Stream;
use crate::{
    input,
    topology::{
        reader::Field,
        {self},
    },
};

/// Keys of a distribution.
pub(super) const KINDS: [&str; 7] = [
    "constant",
    "uniform",
    "exponential",
    "weibull",
    "pareto",
    "lognormal",
    "trace",
];
/// Largest number of lines in a file of lengths.
const MOST_LINES: usize = 1_000_000;
/// Largest file of lengths, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// A distribution of times; its parameters are in seconds.
#[derive(Debug, Clone, PartialEq)]
pub enum Lengths {
    /// Always the same length.
    Constant(f64),
    /// Uniform between two lengths.
    Uniform(f64, f64),
    /// Exponential (memoryless), with this mean.
    Exponential(f64),
    /// `scale * E^(1/shape)` of an exponential E with mean 1.
    Weibull {
        /// Below 1: most lengths are short, and some very long.
        shape: f64,
        /// About 63 % of the lengths are shorter.
        scale: f64,
    },
    /// `scale * U^(-1/shape)` of a uniform U: the classic heavy tail.
    Pareto {
        /// Tail index; the mean is infinite up to 1.
        shape: f64,
        /// The shortest length.
        scale: f64,
    },
    /// `median * e^(sigma N)` of a normal N.
    LogNormal {
        /// Half of the lengths are shorter.
        median: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
    /// One of these lengths, drawn at random.
    Trace(Vec<f64>),
}

impl Lengths {
    /// The next length of a stream, in seconds.
    pub fn draw(&self, stream: &mut Stream) -> f64 {
        match self {
            Lengths::Constant(length) => *length,
            Lengths::Uniform(from, to) => from + (to - from) * stream.fraction(),
            Lengths::Exponential(mean) => mean * stream.exponential(),
            Lengths::Weibull { shape, scale } => {
                scale * libm::pow(stream.exponential(), 1.0 / shape)
            }
            Lengths::Pareto { shape, scale } => scale * libm::pow(stream.fraction(), -1.0 / shape),
            Lengths::LogNormal { median, sigma } => median * libm::exp(sigma * stream.normal()),
            Lengths::Trace(lengths) => lengths[stream.below(lengths.len())],
        }
    }
}

/// Reads a distribution; `folder` is the folder of the file.
pub(super) fn lengths(field: &Field<'_>, folder: &Path) -> Option<Lengths> {
    let record = field.record(&KINDS)?;
    let kinds: Vec<&str> = KINDS
        .into_iter()
        .filter(|kind| record.get(kind).is_some())
        .collect();
    let [kind] = kinds[..] else {
        field.report(
            field
                .problem(format!("found {} distributions, expected one", kinds.len()))
                .expected("one, as in `exponential: {mean: 60s}`"),
        );
        return None;
    };
    let value = record.get(kind)?;
    match kind {
        "constant" => Some(Lengths::Constant(positive(&value)?)),
        "trace" => trace(&value, folder),
        "uniform" => {
            let record = value.record(&["from", "to"])?;
            let from = record.need("from", "10s").and_then(|f| seconds(&f));
            let to = record.need("to", "60s").and_then(|f| positive(&f));
            let (from, to) = (from?, to?);
            if from > to {
                value.report(value.problem("`from` is later than `to`"));
                return None;
            }
            Some(Lengths::Uniform(from, to))
        }
        "exponential" => {
            let record = value.record(&["mean"])?;
            Some(Lengths::Exponential(positive(
                &record.need("mean", "60s")?,
            )?))
        }
        "lognormal" => {
            let record = value.record(&["median", "sigma"])?;
            let median = record.need("median", "60s").and_then(|f| positive(&f));
            let sigma = record.need("sigma", "1.2").and_then(|f| number(&f));
            Some(Lengths::LogNormal {
                median: median?,
                sigma: sigma?,
            })
        }
        _ => {
            let record = value.record(&["shape", "scale"])?;
            let shape = record.need("shape", "0.6").and_then(|f| number(&f));
            let scale = record.need("scale", "60s").and_then(|f| positive(&f));
            let (shape, scale) = (shape?, scale?);
            Some(if kind == "weibull" {
                Lengths::Weibull { shape, scale }
            } else {
                Lengths::Pareto { shape, scale }
            })
        }
    }
}

fn seconds(field: &Field<'_>) -> Option<f64> {
    Some(field.unit(topology::span)?.as_secs_f64())
}

/// A time that is not zero.
fn positive(field: &Field<'_>) -> Option<f64> {
    let seconds = seconds(field)?;
    if seconds <= 0.0 {
        field.report(field.problem("it must be longer than 0s"));
        return None;
    }
    Some(seconds)
}

/// A parameter without a unit.
fn number(field: &Field<'_>) -> Option<f64> {
    let text = field.text()?;
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && (0.01..=100.0).contains(&value) => Some(value),
        _ => {
            field.report(
                field
                    .problem(format!("`{text}` is not a valid parameter"))
                    .expected("a number from 0.01 to 100, without a unit"),
            );
            None
        }
    }
}

/// A file with one length per line: a number of seconds, or a time with its unit.
fn trace(field: &Field<'_>, folder: &Path) -> Option<Lengths> {
    let path = folder.join(field.text()?);
    let wrong = |what: String| {
        field.report(
            field
                .problem(format!("{}: {what}", path.display()))
                .expected("a file with a length in each line, as in `12.5` (seconds) or `3min`"),
        );
    };
    let text = match input::text(&path, MOST_BYTES) {
        Ok(text) => text,
        Err(error) => {
            wrong(error.to_string());
            return None;
        }
    };
    let mut lengths = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let length = match line.parse::<f64>() {
            Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
            Err(_) => topology::span(line).ok(),
        };
        let Some(length) = length.filter(|l| !l.is_zero()) else {
            wrong(format!("line {} is not a length", index + 1));
            return None;
        };
        lengths.push(length.as_secs_f64());
    }
    if lengths.is_empty() || lengths.len() > MOST_LINES {
        wrong(format!("{} lengths", lengths.len()));
        return None;
    }
    Some(Lengths::Trace(lengths))
}

#[cfg(test)]
mod tests;
