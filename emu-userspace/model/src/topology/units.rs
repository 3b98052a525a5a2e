//! Quantities in the notation of users: `33.6kbit`, `100ms`, `50 packets`, `64KB`.
//!
//! A unit is mandatory, and only one spelling of each is accepted, since `Mb`, `mbps` and
//! `MB/s` mean different things to different people.
use std::{fmt, time::Duration};

use emu_common::model::rate::{MAX_RATE_BITS_PER_SEC, MIN_RATE_BITS_PER_SEC};

use super::Probability;

/// A rate in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl fmt::Display for Rate {
    /// Prints the rate in the largest unit in which it has at most three decimals:
    /// `33.6kbit`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (1_000_000_000, "gbit"),
            (1_000_000, "mbit"),
            (1_000, "kbit"),
        ];
        for (size, unit) in units {
            if self.0 >= size && self.0.is_multiple_of(size / 1_000) {
                return write!(f, "{}{unit}", self.0 as f64 / size as f64);
            }
        }
        write!(f, "{}bit", self.0)
    }
}

/// Why a quantity is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError {
    /// Description of the problem.
    pub message: String,
    /// What would be valid.
    pub expected: String,
    /// A suggestion.
    pub hint: Option<String>,
}

const RATE_EXPECTED: &str = "a rate with its unit: bit, kbit, mbit or gbit, as in `33.6kbit`";
const TIME_EXPECTED: &str = "a time with its unit: ns, us, ms, s or min, as in `100ms`";
const SPAN_EXPECTED: &str = "a time with its unit: ms, s, min, h or d, as in `10min`";
const SIZE_EXPECTED: &str = "a size with its unit: B, KB, MB, KiB or MiB, as in `64KB`";
const CHANCE_EXPECTED: &str = "a probability in percent, from 0% to 100%, as in `0.5%`";
const QUEUE_EXPECTED: &str =
    "a queue limit in packets, bytes or time, as in `50 packets`, `64KB` or `100ms`";

/// Number and unit of a quantity.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '+')))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let value: f64 = number.replace('_', "").parse().ok()?;
    value.is_finite().then_some((value, unit.trim()))
}

fn error(message: String, expected: &str, hint: Option<String>) -> UnitError {
    UnitError {
        message,
        expected: expected.to_owned(),
        hint,
    }
}

/// Splits a quantity; rejects a text that is not a number, is negative or has no unit.
fn quantity<'a>(
    text: &'a str,
    expected: &str,
    usual_unit: &str,
) -> Result<(f64, &'a str), UnitError> {
    let Some((value, unit)) = split(text) else {
        return Err(error(
            format!("`{text}` is not a number with a unit"),
            expected,
            None,
        ));
    };
    if value < 0.0 {
        return Err(error(format!("`{text}` is negative"), expected, None));
    }
    if unit.is_empty() {
        let hint = format!("did you mean `{}{usual_unit}`?", text.trim());
        return Err(error(format!("`{text}` has no unit"), expected, Some(hint)));
    }
    Ok((value, unit))
}

/// Suggests an unambiguous unit for one that means different things to different people.
fn ambiguous_rate(value: f64, unit: &str) -> Option<String> {
    let lower = unit.to_ascii_lowercase();
    let bytes = unit.contains('B') && !lower.contains("bit") && !lower.contains("bps");
    let scale = lower.chars().next().filter(|c| "kmg".contains(*c));
    let prefix = scale.map_or_else(String::new, String::from);
    let known = [
        "b", "bps", "bit/s", "bits", "b/s", "kb", "mb", "gb", "kbps", "mbps", "gbps", "kb/s",
        "mb/s", "gb/s", "kbit/s", "mbit/s", "gbit/s", "kbits", "mbits", "gbits", "k", "m", "g",
        "kbit", "mbit", "gbit", "bit",
    ];
    if !known.contains(&lower.as_str()) {
        return None;
    }
    Some(if bytes {
        format!(
            "write `{value}{prefix}bit` for bits per second, or `{}{prefix}bit` if bytes were meant",
            value * 8.0
        )
    } else {
        format!("write `{value}{prefix}bit`")
    })
}

/// Parses a rate in bits per second.
pub fn rate(text: &str) -> Result<Rate, UnitError> {
    let (value, unit) = quantity(text, RATE_EXPECTED, "kbit")?;
    let scale = match unit {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => {
            let hint = ambiguous_rate(value, unit);
            return Err(error(
                format!("`{unit}` is not a unit of rate"),
                RATE_EXPECTED,
                hint,
            ));
        }
    };
    let bits = (value * scale).round();
    if bits < MIN_RATE_BITS_PER_SEC as f64 || bits > MAX_RATE_BITS_PER_SEC as f64 {
        return Err(error(
            format!("`{text}` is out of range"),
            &format!(
                "a rate from {} to {}",
                Rate(MIN_RATE_BITS_PER_SEC),
                Rate(MAX_RATE_BITS_PER_SEC)
            ),
            (bits == 0.0).then(|| "leave the rate out for an unlimited pipe".to_owned()),
        ));
    }
    Ok(Rate(bits as u64))
}

/// Longest time in a topology.
pub const LONGEST: Duration = Duration::from_secs(3_600);
/// Longest time in an experiment.
pub const LONGEST_SPAN: Duration = Duration::from_secs(30 * 86_400);

/// Parses a time of at most an hour.
pub fn time(text: &str) -> Result<Duration, UnitError> {
    let (value, unit) = quantity(text, TIME_EXPECTED, "ms")?;
    let Some(seconds) = seconds(value, unit) else {
        return Err(no_time(value, unit, TIME_EXPECTED));
    };
    bounded(text, seconds, LONGEST, "a time of at most 60min")
}

/// Parses a time of at most thirty days, with the additional units `h` and `d`.
pub fn span(text: &str) -> Result<Duration, UnitError> {
    let (value, unit) = quantity(text, SPAN_EXPECTED, "s")?;
    let seconds = match unit {
        "h" => value * 3_600.0,
        "d" => value * 86_400.0,
        _ => seconds(value, unit).ok_or_else(|| no_time(value, unit, SPAN_EXPECTED))?,
    };
    bounded(text, seconds, LONGEST_SPAN, "a time of at most 30d")
}

fn seconds(value: f64, unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => value / 1e9,
        "us" | "µs" => value / 1e6,
        "ms" => value / 1e3,
        "s" => value,
        "min" => value * 60.0,
        _ => return None,
    })
}

fn no_time(value: f64, unit: &str, expected: &str) -> UnitError {
    let hint = match unit.to_ascii_lowercase().as_str() {
        "msec" | "msecs" | "millis" | "milliseconds" => Some(format!("write `{value}ms`")),
        "usec" | "usecs" => Some(format!("write `{value}us`")),
        "sec" | "secs" | "second" | "seconds" => Some(format!("write `{value}s`")),
        "m" | "minute" | "minutes" => Some(format!("write `{value}min`, or `{value}ms`")),
        _ => None,
    };
    error(format!("`{unit}` is not a unit of time"), expected, hint)
}

fn bounded(
    text: &str,
    seconds: f64,
    longest: Duration,
    expected: &str,
) -> Result<Duration, UnitError> {
    if seconds > longest.as_secs_f64() {
        return Err(error(format!("`{text}` is out of range"), expected, None));
    }
    Ok(Duration::from_nanos((seconds * 1e9).round() as u64))
}

/// Parses a size in bytes, at most 1 TB.
pub fn size(text: &str) -> Result<u64, UnitError> {
    let (value, unit) = quantity(text, SIZE_EXPECTED, "B")?;
    let scale = match unit {
        "B" => 1.0,
        "KB" => 1e3,
        "MB" => 1e6,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        _ => {
            let upper = unit.to_ascii_uppercase();
            let hint = matches!(upper.as_str(), "B" | "KB" | "MB" | "K" | "M")
                .then(|| format!("write `{value}{}B`", upper.trim_end_matches('B')));
            return Err(error(
                format!("`{unit}` is not a unit of size"),
                SIZE_EXPECTED,
                hint,
            ));
        }
    };
    let bytes = (value * scale).round();
    if bytes > 1e12 {
        return Err(error(
            format!("`{text}` is out of range"),
            "at most 1000000MB",
            None,
        ));
    }
    Ok(bytes as u64)
}

/// Parses a probability in percent.
pub fn probability(text: &str) -> Result<Probability, UnitError> {
    let (value, unit) = quantity(text, CHANCE_EXPECTED, "%")?;
    if unit != "%" {
        return Err(error(
            format!("`{unit}` is not a unit of probability"),
            CHANCE_EXPECTED,
            None,
        ));
    }
    if value > 100.0 {
        return Err(error(
            format!("`{text}` is above 100%"),
            CHANCE_EXPECTED,
            None,
        ));
    }
    Ok(Probability::new(value / 100.0))
}

/// Limit of a pipe's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// In packets, including the one in transmission.
    Packets(u32),
    /// In bytes.
    Bytes(u64),
    /// In time.
    Time(Duration),
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Queue::Packets(packets) => write!(f, "{packets} packets"),
            Queue::Bytes(bytes) if bytes.is_multiple_of(1_000) => write!(f, "{}KB", bytes / 1_000),
            Queue::Bytes(bytes) => write!(f, "{bytes}B"),
            Queue::Time(time) => write!(f, "{}", humantime::format_duration(*time)),
        }
    }
}

/// Largest queue limit in packets: each packet takes a slot of the departure log.
pub const MOST_QUEUED_PACKETS: u32 = 1_000_000;

/// Parses a queue limit.
pub fn queue(text: &str) -> Result<Queue, UnitError> {
    let (value, unit) = quantity(text, QUEUE_EXPECTED, " packets")?;
    let queue = match unit {
        "packets" | "packet" => {
            if value.fract() != 0.0 || value > f64::from(MOST_QUEUED_PACKETS) {
                return Err(error(
                    format!("`{text}` is out of range"),
                    &format!("whole packets, from 1 to {MOST_QUEUED_PACKETS}"),
                    None,
                ));
            }
            Queue::Packets(value as u32)
        }
        "B" | "KB" | "MB" | "KiB" | "MiB" => Queue::Bytes(size(text)?),
        "ns" | "us" | "µs" | "ms" | "s" | "min" => Queue::Time(time(text)?),
        _ => {
            return Err(error(
                format!("`{unit}` is not a unit of a queue limit"),
                QUEUE_EXPECTED,
                None,
            ));
        }
    };
    let nothing = match queue {
        Queue::Packets(n) => n == 0,
        Queue::Bytes(n) => n == 0,
        Queue::Time(t) => t.is_zero(),
    };
    if nothing {
        return Err(error(
            format!("a queue of `{text}` passes no packet"),
            QUEUE_EXPECTED,
            None,
        ));
    }
    Ok(queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_echoed_as_written() {
        for text in ["33.6kbit", "8mbit", "1gbit", "128kbit", "100bit", "1.5mbit"] {
            assert_eq!(rate(text).map(|r| r.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn spellings_with_two_meanings_are_refused_with_a_hint() {
        let hint = |t: &str| rate(t).unwrap_err().hint.unwrap_or_default();
        assert!(hint("8Mbps").contains("`8mbit`"));
        assert!(hint("8MB/s").contains("`64mbit`"));
        assert!(hint("8").contains("`8kbit`"));
        assert!(
            time("100msec")
                .unwrap_err()
                .hint
                .unwrap_or_default()
                .contains("`100ms`")
        );
        assert_eq!(rate("8 elephants").unwrap_err().hint, None);
    }

    #[test]
    fn probabilities_need_their_percent_sign() {
        assert_eq!(probability("100%"), Ok(Probability::CERTAIN));
        assert_eq!(probability("50 %"), Ok(Probability(1 << 31)));
        assert_eq!(probability("0%"), Ok(Probability(0)));
        let hint = probability("0.5").unwrap_err().hint.unwrap_or_default();
        assert!(hint.contains("`0.5%`"));
        assert!(probability("101%").is_err() && probability("-1%").is_err());
    }

    #[test]
    fn times_and_queues() {
        assert_eq!(time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(time("0ms"), Ok(Duration::ZERO));
        assert!(time("2000min").is_err() && time("-1ms").is_err() && time("1e99s").is_err());
        assert_eq!(queue("50 packets"), Ok(Queue::Packets(50)));
        assert_eq!(queue("64KiB"), Ok(Queue::Bytes(65_536)));
        assert_eq!(queue("100ms"), Ok(Queue::Time(Duration::from_millis(100))));
        assert!(
            queue("0 packets").is_err() && queue("1.5 packets").is_err() && queue("50").is_err()
        );
    }
}
