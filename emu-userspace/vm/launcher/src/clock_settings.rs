//! The settings of an emulated clock as users write them: times, factors and seeds.
use std::time::Duration;

/// The seed of everything random in a VM; `None`: real randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub Option<u64>);

/// Reads a time from 0 to 1 s with its unit: `1us`, `250ns`, `0`.
///
/// # Errors
/// The text is not such a time; the error says how to write one.
pub fn short_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write it as in 1us or 250ns");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    if !(0.0..=1e9).contains(&(number * unit)) {
        return Err(format!("{text} is not between 0 and 1000ms"));
    }
    Ok(Duration::from_nanos((number * unit).round() as u64))
}

/// Reads a latency between two VMs. It is not 0: the VMs could not run at the same time.
///
/// # Errors
/// As [`short_time`], and if the latency is 0.
pub fn latency(text: &str) -> Result<Duration, String> {
    match short_time(text)? {
        Duration::ZERO => Err("a frame takes some time; write it as in 5ms or 20us".to_owned()),
        latency => Ok(latency),
    }
}

/// Reads a factor from 0.001 to 1000 and returns it in thousandths: `1x`, `0.5x`.
///
/// # Errors
/// The text is not such a factor.
pub fn factor(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('x').unwrap_or(text).parse::<f64>();
    match number {
        Ok(factor) if (0.001..=1_000.0).contains(&factor) => Ok((factor * 1e3).round() as u64),
        _ => Err(format!(
            "{text:?} is not a factor from 0.001x to 1000x; write it as in 1x or 0.5x"
        )),
    }
}

/// Reads a seed: a number, or `none`.
///
/// # Errors
/// The text is neither.
pub fn seed(text: &str) -> Result<Seed, String> {
    if text == "none" {
        return Ok(Seed(None));
    }
    let number = text.parse();
    number
        .map(|seed| Seed(Some(seed)))
        .map_err(|_| format!("{text:?} is neither a number nor `none`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_factors_and_seeds_are_read_with_their_units() {
        assert_eq!(short_time("1us"), Ok(Duration::from_micros(1)));
        assert_eq!(short_time("0.5us"), Ok(Duration::from_nanos(500)));
        assert_eq!(short_time("0"), Ok(Duration::ZERO));
        for wrong in ["1", "us", "-1us", "2s", "1 parsec", "2000ms", "NaNus"] {
            assert!(short_time(wrong).is_err(), "{wrong}");
        }
        assert_eq!(latency("20us"), Ok(Duration::from_micros(20)));
        assert!(latency("0").is_err() && latency("0ns").is_err());
        assert_eq!((factor("1x"), factor("0.25")), (Ok(1_000), Ok(250)));
        for wrong in ["0", "0x", "-1x", "x", "1e9x", "NaN"] {
            assert!(factor(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            (seed("7"), seed("none")),
            (Ok(Seed(Some(7))), Ok(Seed(None)))
        );
        assert!(seed("-1").is_err());
    }
}
