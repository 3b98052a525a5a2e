//! Ranges, ticks and labels of axes.
use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::chart::Axis;

/// Range and ticks of one axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    pub low: f64,
    pub high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Scale {
    /// The range of the values with some margin, unless the axis sets a range.
    pub fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = values
            .filter(|v| v.is_finite() && (!axis.log || *v > 0.0))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                (low.min(v), high.max(v))
            });
        if low > high {
            (low, high) = if axis.log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        if !axis.categories.is_empty() {
            (low, high) = (-0.5, axis.categories.len() as f64 - 0.5);
        } else if let Some(range) = axis.range {
            (low, high) = range;
        } else if axis.log {
            // A logarithmic range below a decade would exaggerate small differences, and
            // would have few ticks.
            let room = (high / low).powf(0.04).max((10.0 / (high / low)).sqrt());
            (low, high) = (low / room, high * room);
        } else {
            let (zero, above) = (axis.from_zero && low >= 0.0, high);
            if axis.from_zero {
                (low, high) = (low.min(0.0), high.max(0.0));
            }
            let room = if high > low { (high - low) * 0.05 } else { 0.5 };
            high = if above > 0.0 || !axis.from_zero {
                high + room
            } else {
                high
            };
            low = if zero { 0.0 } else { low - room };
        }
        let ticks = match (axis.categories.len(), axis.log) {
            (0, true) => log_ticks(low, high),
            (0, false) => linear_ticks(low, high),
            (n, _) => (0..n).map(|i| i as f64).collect(),
        };
        Self {
            low,
            high,
            log: axis.log,
            ticks,
        }
    }

    /// A value clamped to the range; `None` if it cannot be shown on a logarithmic axis.
    pub fn place(&self, value: f64) -> Option<f64> {
        (!self.log || value > 0.0).then(|| value.clamp(self.low, self.high))
    }

    /// The value at which bars start.
    pub fn base(&self) -> f64 {
        if self.log {
            self.low
        } else {
            0f64.clamp(self.low, self.high)
        }
    }

    fn share(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }
}

/// About six ticks, at multiples of 1, 2 or 5 times a power of ten.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    (first..first + 20)
        .map(|i| i as f64 * step)
        .take_while(|v| *v <= high + step * 1e-6)
        .collect()
}

/// Ticks at powers of ten; in a short range at 2 and 5 times them as well.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (high / low).log10();
    let steps: &[f64] = if decades < 2.5 {
        &[1.0, 2.0, 5.0]
    } else {
        &[1.0]
    };
    let every = (decades / 8.0).ceil().max(1.0) as usize;
    let first = low.log10().floor() as i32;
    (first..=high.log10().ceil() as i32)
        .step_by(every)
        .flat_map(|power| steps.iter().map(move |s| s * 10f64.powi(power)))
        .filter(|v| (low * 0.999..=high * 1.001).contains(v))
        .collect()
}

/// Formats a number with a readable number of digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e9 || (size > 0.0 && size < 1e-4) {
        return format!("{value:e}");
    }
    let digits = if size >= 1000.0 || size == 0.0 {
        0
    } else {
        (3.0 - size.log10().floor()).max(0.0) as usize
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let dot = if rest.is_empty() { "" } else { "." };
    format!("{sign}{grouped}{dot}{rest}")
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let length = f64::from(limit.1 - limit.0);
        limit.0 + (self.share(*value) * length).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format(value: &f64) -> String {
        number(*value)
    }
}
