//! Jitter: its distributions, its correlation, and the order of packets.
use std::time::Duration;

use emu_bench::{
    model::Offsets,
    stats::{deviation, kolmogorov_smirnov, mean, serial_correlation},
};

use integration::{
    netns::isolated,
    udp::{Arrival, crossings, overtaken},
};

use super::{first_to_second, topology};

const SPREAD_MS: f64 = 50.0;
const LATENCY_MS: f64 = 300.0;
const QUIET: Duration = Duration::from_millis(1_100);

/// Delays beyond the latency, in multiples of the spread, in the order of sending.
fn offsets(jitter: &str, count: u32) -> (Vec<f64>, Vec<Arrival>) {
    topology(&format!(
        "up: {{latency: 300ms, jitter: {{spread: 50ms, {jitter}}}}}"
    ))
    .load();
    let arrivals = first_to_second(count, 1, QUIET);
    assert_eq!(arrivals.len() as u32, count, "{jitter}");
    let mut sorted = arrivals.clone();
    sorted.sort_by_key(|a| a.tag);
    let offsets = sorted
        .iter()
        .map(|a| (a.delay_ms() - LATENCY_MS) / SPREAD_MS)
        .collect();
    (offsets, arrivals)
}

/// 1,000 samples: a distance of 2.5 / sqrt(n) = 0.079 has p = 7e-6, and a timer that is
/// always 1 ms late shifts a distribution by 0.01 to 0.02.
#[test]
fn jitter_has_the_distribution_that_was_asked_for() {
    for (name, model) in [
        ("uniform", Offsets::Uniform),
        ("normal", Offsets::Normal),
        ("pareto", Offsets::Pareto),
        ("paretonormal", Offsets::ParetoNormal),
    ] {
        isolated(move || {
            let count = 1_000;
            let (offsets, arrivals) =
                offsets(&format!("distribution: {name}, overtake: true"), count);
            let distance = kolmogorov_smirnov(&offsets, |x| model.cdf(x)).statistic;
            println!(
                "{name}: distance {distance:.4}, mean {:+.3}, deviation {:.3}, {} of {count} overtaken",
                mean(&offsets),
                deviation(&offsets),
                overtaken(&arrivals)
            );
            assert!(
                distance < 2.5 / f64::from(count).sqrt(),
                "{name}: {distance}"
            );
            // The delays spread over 100 ms and the datagrams are sent within 2 ms of each
            // other, so most are overtaken.
            assert!(overtaken(&arrivals) > count as usize / 2);
            // Checks that the test can fail.
            let wrong = if model == Offsets::Normal {
                Offsets::Uniform
            } else {
                Offsets::Normal
            };
            let other = kolmogorov_smirnov(&offsets, |x| wrong.cdf(x)).statistic;
            assert!(other > distance, "{name}: {other}");
        });
    }
}

/// 1,200 samples. Correlation keeps the distribution and makes neighbours similar: the
/// products are correlated too, so five standard errors are 0.25. Every eighth sample is
/// independent.
#[test]
fn correlated_jitter_keeps_its_distribution() {
    for (name, model) in [("uniform", Offsets::Uniform), ("normal", Offsets::Normal)] {
        isolated(move || {
            let keys = format!("distribution: {name}, correlation: 50%, overtake: true");
            let (offsets, _) = offsets(&keys, 1_200);
            let serial = serial_correlation(&offsets);
            let every_eighth: Vec<f64> = offsets.iter().step_by(8).copied().collect();
            let distance = kolmogorov_smirnov(&every_eighth, |x| model.cdf(x)).statistic;
            println!("{name}: serial correlation {serial:.3}, distance {distance:.3}");
            assert!((serial - 0.5).abs() < 0.25, "{name}: {serial}");
            assert!(distance < 2.5 / 150f64.sqrt(), "{name}: {distance}");
        });
    }
}

/// Without `overtake` a packet waits for the packet in front of it.
#[test]
fn jitter_keeps_the_order_by_default() {
    isolated(|| {
        let (_, arrivals) = offsets("distribution: normal", 1_000);
        assert!(overtaken(&arrivals) <= crossings(1_000));
    });
}
