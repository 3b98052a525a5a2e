//! Each generator against its distribution.
use statrs::{
    distribution::{ContinuousCDF, Exp, LogNormal, Pareto, Uniform, Weibull},
    stats_tests::{
        NaNPolicy,
        ks_test::{KSOneSampleAlternativeMethod, ks_onesample},
    },
};

use super::*;

const SAMPLES: usize = 4_000;

fn draws(lengths: &Lengths, name: &str) -> Vec<f64> {
    let mut stream = Stream::new(7, &[name]);
    (0..SAMPLES).map(|_| lengths.draw(&mut stream)).collect()
}

/// The probability of a deviation as large as that of the samples, by the Kolmogorov-Smirnov
/// test.
fn p_value(lengths: &Lengths, name: &str, distribution: &impl ContinuousCDF<f64, f64>) -> f64 {
    let method = KSOneSampleAlternativeMethod::TwoSidedAsymptotic;
    let data = draws(lengths, name);
    let (_, p) = ks_onesample(data, distribution, method, NaNPolicy::Error).unwrap();
    p
}

/// The seed is fixed, so this test cannot fail by chance; a generator that is off by a few
/// percent gives less than 0.001.
#[test]
fn generators_have_their_distributions() {
    let weibull = Lengths::Weibull {
        shape: 0.6,
        scale: 60.0,
    };
    let pareto = Lengths::Pareto {
        shape: 1.5,
        scale: 10.0,
    };
    let lognormal = Lengths::LogNormal {
        median: 30.0,
        sigma: 1.2,
    };
    let found = [
        (
            "exponential",
            p_value(
                &Lengths::Exponential(60.0),
                "e",
                &Exp::new(1.0 / 60.0).unwrap(),
            ),
        ),
        (
            "weibull",
            p_value(&weibull, "w", &Weibull::new(0.6, 60.0).unwrap()),
        ),
        (
            "pareto",
            p_value(&pareto, "p", &Pareto::new(10.0, 1.5).unwrap()),
        ),
        (
            "lognormal",
            p_value(&lognormal, "l", &LogNormal::new(30f64.ln(), 1.2).unwrap()),
        ),
        (
            "uniform",
            p_value(
                &Lengths::Uniform(10.0, 60.0),
                "u",
                &Uniform::new(10.0, 60.0).unwrap(),
            ),
        ),
    ];
    for (name, p) in found {
        assert!(p > 0.01, "{name}: p = {p}");
    }
    // The test detects a mean that is off by a tenth.
    let off = Exp::new(1.0 / 66.0).unwrap();
    let p = p_value(&Lengths::Exponential(60.0), "e", &off);
    assert!(p < 0.001, "{p}");
}

#[test]
fn constant_and_trace_draw_what_they_say() {
    assert!(
        draws(&Lengths::Constant(3.0), "c")
            .iter()
            .all(|l| *l == 3.0)
    );
    let lengths = Lengths::Trace(vec![1.0, 2.0, 2.0, 5.0]);
    let found = draws(&lengths, "t");
    for (value, share) in [(1.0, 0.25), (2.0, 0.5), (5.0, 0.25)] {
        let count = found.iter().filter(|l| **l == value).count() as f64;
        // Five standard deviations of a count.
        let deviation = (SAMPLES as f64 * share * (1.0 - share)).sqrt();
        assert!((count - SAMPLES as f64 * share).abs() < 5.0 * deviation);
    }
}

/// A file's lines; comments and units among them.
#[test]
fn a_file_of_lengths_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("l.txt"), "# hours\n12.5\n3min # x\n\n").unwrap();
    let problems = crate::topology::reader::Problems::default();
    let root = emu_document::document("{trace: l.txt}").unwrap();
    let found = lengths(&Field::root(&root, &problems), folder.path());
    assert_eq!(found, Some(Lengths::Trace(vec![12.5, 180.0])));
    assert!(problems.is_empty());
}
