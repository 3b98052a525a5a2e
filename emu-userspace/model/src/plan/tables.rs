//! Jitter distributions as tables of quantiles in the form of iproute2: one entry is a
//! multiple of 1/8192 of the standard deviation.
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

/// Largest number of standard deviations in an entry; the Pareto table reaches 22.
pub const FARTHEST: i32 = 32;

const ENTRIES: usize = TABLE_ENTRIES as usize;
const SCALE: f64 = (1 << TABLE_SCALE_BITS) as f64;
/// Shape of the Pareto distribution, as in iproute2.
const SHAPE: f64 = 3.0;

/// Why a distribution's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be read.
    #[error("read the distribution {}: {source}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// An entry is not a number.
    #[error("{}:{line}: not an entry of a distribution (a whole number, 8192 for one standard deviation)", path.display())]
    Entry {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// The file has no numbers.
    #[error("{}: the distribution is empty", path.display())]
    Empty {
        /// File.
        path: PathBuf,
    },
}

/// Inverse of the standard normal distribution, by bisection of its distribution function.
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

/// Inverse of the Pareto distribution, shifted and scaled to mean 0 and standard deviation 1.
/// The moments are those of the distribution, not of the table, since a finer table has a
/// longer tail.
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

/// Shifts and scales values to mean 0 and standard deviation 1.
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

/// Reads a distribution's file: whole numbers separated by blanks, comments after `#`.
/// Returns the table's entries in standard deviations.
pub fn read_distribution(path: &Path) -> Result<Vec<f64>, TableError> {
    let text = input::text(path, MOST_BYTES).map_err(|source| TableError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut values = Vec::new();
    for (line, numbers) in text.lines().enumerate() {
        let numbers = numbers.split('#').next().unwrap_or("");
        for number in numbers.split_whitespace() {
            let entry: i32 = number.parse().map_err(|_| TableError::Entry {
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
    // Resampled evenly to the length of a table.
    Ok((0..ENTRIES)
        .map(|i| values[i * values.len() / ENTRIES])
        .collect())
}

/// The array of all tables that a plan may refer to.
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
            // The extreme quantiles of a Pareto distribution lie beyond the table's last
            // entry.
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
        assert!(message.contains(":2: not an entry"), "{message}");
        fs::write(&path, "# nothing\n").unwrap();
        assert!(matches!(
            read_distribution(&path),
            Err(TableError::Empty { .. })
        ));
    }
}
