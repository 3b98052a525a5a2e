//! Jitter distributions as tables of quantiles, in the form of iproute2's: one
//! entry is a multiple of 1/8192 of the standard deviation.
use std::{
    io,
    path::{Path, PathBuf},
};

use emu_common::model::jitter::{
    FIRST_OWN, NORMAL, PARETO, PARETONORMAL, TABLE_ENTRIES, TABLE_SCALE_BITS, table_slot,
};

use super::Plan;
use crate::input;

/// Largest file of a distribution, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// Most standard deviations that an entry reaches; the Pareto table has 22.
pub const FARTHEST: i32 = 32;

const ENTRIES: usize = TABLE_ENTRIES as usize;
const SCALE: f64 = (1 << TABLE_SCALE_BITS) as f64;
/// Shape of the Pareto distribution, as in iproute2.
const SHAPE: f64 = 3.0;

/// A distribution's file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("read the distribution {}: {source}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something in it is no number.
    #[error("{}:{line}: no entry of a distribution (whole numbers, 8192 for one standard deviation)", path.display())]
    Entry {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// It has no numbers.
    #[error("{}: the distribution is empty", path.display())]
    Empty {
        /// File.
        path: PathBuf,
    },
}

/// The standard normal distribution's inverse, by halving intervals of its
/// distribution function.
fn normal_quantile(probability: f64) -> f64 {
    let (mut low, mut high) = (-10.0f64, 10.0f64);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if libm::erfc(-middle / std::f64::consts::SQRT_2) / 2.0 < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// The inverse of the Pareto distribution, moved and scaled to mean 0 and
/// standard deviation 1. Not by a table's own moments: its tail is the longer the
/// finer the table.
fn pareto_quantile(probability: f64) -> f64 {
    let mean = SHAPE / (SHAPE - 1.0);
    let variance = SHAPE / ((SHAPE - 1.0).powi(2) * (SHAPE - 2.0));
    ((1.0 - probability).powf(-1.0 / SHAPE) - mean) / variance.sqrt()
}

/// Quantiles at the middles of equal steps.
fn quantiles(quantile: impl Fn(f64) -> f64) -> Vec<f64> {
    (0..ENTRIES)
        .map(|i| quantile((i as f64 + 0.5) / ENTRIES as f64))
        .collect()
}

/// Moves and scales values to mean 0 and standard deviation 1.
fn standard(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / ENTRIES as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / ENTRIES as f64;
    values
        .iter()
        .map(|v| (v - mean) / variance.sqrt())
        .collect()
}

fn built_in(table: u32) -> Vec<f64> {
    match table {
        NORMAL => quantiles(normal_quantile),
        PARETO => quantiles(pareto_quantile),
        _ => {
            // A quarter of one and three quarters of the other, quantile by
            // quantile, as iproute2 mixes them.
            standard(&quantiles(|u| {
                0.25 * normal_quantile(u) + 0.75 * pareto_quantile(u)
            }))
        }
    }
}

/// Reads a distribution's file: whole numbers between blanks, `#` before a comment.
/// Returns a table's entries in standard deviations.
///
/// # Errors
/// [`TableError`].
pub fn read_distribution(path: &Path) -> Result<Vec<f64>, TableError> {
    let text = input::text(path, MOST_BYTES).map_err(|source| TableError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut values = Vec::new();
    for (line, words) in text.lines().enumerate() {
        let words = words.split('#').next().unwrap_or("");
        for word in words.split_whitespace() {
            let entry: i32 = word.parse().map_err(|_| TableError::Entry {
                path: path.to_owned(),
                line: line + 1,
            })?;
            values.push(f64::from(entry) / SCALE);
        }
    }
    if values.is_empty() {
        return Err(TableError::Empty {
            path: path.to_owned(),
        });
    }
    // Stretched or thinned evenly to the length of a table.
    Ok((0..ENTRIES)
        .map(|i| values[i * values.len() / ENTRIES])
        .collect())
}

/// The array of all tables that a plan may refer to.
///
/// # Errors
/// [`TableError`] for a file that cannot be used.
pub fn jitter_tables(plan: &Plan) -> Result<Vec<i32>, TableError> {
    let last = FIRST_OWN + plan.distributions.len() as u32;
    let mut slots = vec![0i32; table_slot(last, 0) as usize];
    let mut put = |table: u32, values: Vec<f64>| {
        let start = table_slot(table, 0) as usize;
        for (slot, value) in slots[start..].iter_mut().zip(values) {
            let reach = f64::from(FARTHEST);
            *slot = (value.clamp(-reach, reach) * SCALE).round() as i32;
        }
    };
    for table in [NORMAL, PARETO, PARETONORMAL] {
        put(table, built_in(table));
    }
    for (table, path) in (FIRST_OWN..).zip(&plan.distributions) {
        put(table, read_distribution(path)?);
    }
    Ok(slots)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn built_in_tables_have_mean_0_and_deviation_1() {
        for table in [NORMAL, PARETO, PARETONORMAL] {
            let values = built_in(table);
            let mean = values.iter().sum::<f64>() / ENTRIES as f64;
            let square = values.iter().map(|v| v * v).sum::<f64>() / ENTRIES as f64;
            // The farthest of a Pareto's quantiles lie beyond the table's last.
            let slack = if table == PARETO { 0.2 } else { 1e-3 };
            assert!(
                mean.abs() < slack && (square - 1.0).abs() < slack,
                "{table}"
            );
            assert!(values.windows(2).all(|w| w[0] <= w[1]));
            assert!(values[ENTRIES - 1] < f64::from(FARTHEST));
        }
    }

    #[test]
    fn normal_quantiles_are_those_of_the_books() {
        for (probability, quantile) in [(0.5, 0.0), (0.975, 1.959_964), (0.001, -3.090_232)] {
            assert!((normal_quantile(probability) - quantile).abs() < 1e-5);
        }
    }

    #[test]
    fn files_are_stretched_and_bad_ones_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        fs::write(&path, "# two halves\n-8192 8192\n").unwrap();
        let values = read_distribution(&path).unwrap();
        assert_eq!(values[0], -1.0);
        assert_eq!(values[ENTRIES - 1], 1.0);
        assert_eq!(values.iter().filter(|v| **v < 0.0).count(), ENTRIES / 2);
        fs::write(&path, "1 2\n3 x\n").unwrap();
        let message = read_distribution(&path).unwrap_err().to_string();
        assert!(message.contains(":2: no entry"), "{message}");
        fs::write(&path, "# nothing\n").unwrap();
        assert!(matches!(
            read_distribution(&path),
            Err(TableError::Empty { .. })
        ));
    }
}
