//! Loss, duplication and reordering: their rates and their run lengths.
use std::time::Duration;

use emu_bench::{
    model::Events,
    stats::{Test, chi_squared, mean_run, run_lengths, share_z},
};

use integration::{
    netns::isolated,
    udp::{crossings, overtaken},
};

use super::{first_to_second, missing, reason, topology};

const QUIET: Duration = Duration::from_millis(250);

/// z-test of the share of events against the model, and chi-squared test of their runs.
fn tests(name: &str, events: &[bool], model: Events) -> [Test; 2] {
    let (promise, n) = (model.promise(), events.len() as f64);
    let share = events.iter().filter(|e| **e).count() as f64 / n;
    let lengths = run_lengths(events);
    let tests = [
        share_z(share, promise.share, n, promise.spread),
        // If all runs have one length, the test has too few bins.
        chi_squared(&lengths, &promise.runs).unwrap_or(Test {
            statistic: 0.0,
            p: 1.0,
        }),
    ];
    println!(
        "{name}: {share:.4} of {n} for {:.4} (z {:+.2}), runs of {:.2} (p {:.3})",
        promise.share,
        tests[0].statistic,
        mean_run(&lengths),
        tests[1].p
    );
    tests
}

/// 6,000 datagrams per model: the bounds are five standard errors of the rate, and a
/// p-value of the runs of 1 in 10,000.
#[test]
fn losses_come_at_the_rate_and_in_the_runs_of_the_model() {
    let even = |chance, correlation| Events::Random {
        chance,
        correlation,
    };
    for (line, model) in [
        ("loss: 10%", even(0.1, 0.0)),
        ("loss: {random: 10%, correlation: 25%}", even(0.1, 0.25)),
        (
            "loss: {gilbert_elliott: {to_bad: 2%, to_good: 20%}}",
            Events::GilbertElliott([0.02, 0.2, 1.0, 0.0]),
        ),
        (
            "loss: {gilbert_elliott: {to_bad: 2%, to_good: 20%, loss_in_bad: 80%, loss_in_good: 0.5%}}",
            Events::GilbertElliott([0.02, 0.2, 0.8, 0.005]),
        ),
        (
            "loss: {markov: {p13: 1%, p31: 30%, p32: 10%, p23: 30%, p14: 2%}}",
            Events::Markov([0.01, 0.3, 0.1, 0.3, 0.02]),
        ),
    ] {
        isolated(move || {
            topology(&format!("up: {{{line}}}")).load();
            let count = 6_000;
            let arrivals = first_to_second(count, 50, QUIET);
            let lost = missing(&arrivals, count);
            let losses = lost.iter().filter(|l| **l).count() as u64;
            // Only datagrams that the model dropped are missing, and none arrives twice.
            assert_eq!(reason("loss"), losses, "{line}");
            assert_eq!(arrivals.len() as u64 + losses, u64::from(count), "{line}");
            assert!(overtaken(&arrivals) <= crossings(count), "{line}");
            let [share, runs] = tests(line, &lost, model);
            assert!(share.statistic.abs() < 5.0, "{line}: {share:?}");
            assert!(runs.p > 1e-4, "{line}: {runs:?}");
        });
    }
}

/// 5,000 datagrams, of which 5 % are duplicated, with a standard error of 0.3 %.
#[test]
fn copies_are_made_once_and_in_number() {
    isolated(|| {
        topology("up: {duplicate: 5%, latency: 5ms}").load();
        let count = 5_000;
        let arrivals = first_to_second(count, 50, QUIET);
        let mut times = vec![0u32; count as usize];
        for arrival in &arrivals {
            times[arrival.tag as usize] += 1;
        }
        assert!(times.iter().all(|n| (1..=2).contains(n)));
        let twice: Vec<bool> = times.iter().map(|n| *n == 2).collect();
        let model = Events::Random {
            chance: 0.05,
            correlation: 0.0,
        };
        let [share, runs] = tests("duplicate: 5%", &twice, model);
        assert!(share.statistic.abs() < 5.0 && runs.p > 1e-4);
        // A copy is delayed by the latency too.
        assert!(arrivals.iter().all(|a| a.delay_ms() > 4.9));
    });
}

/// 1,600 datagrams, two in some 1.5 ms, over a latency of 100 ms: a datagram that arrives
/// early has skipped the latency.
#[test]
fn packets_overtake_where_asked() {
    for (line, chance, correlation, gap) in [
        ("reorder: 25%", 0.25, 0.0, 1),
        ("reorder: {chance: 25%, correlation: 50%}", 0.25, 0.5, 1),
        ("reorder: {chance: 25%, gap: 5}", 0.25, 0.0, 5),
    ] {
        isolated(move || {
            topology(&format!("up: {{{line}, latency: 100ms}}")).load();
            let count = 1_600;
            let mut arrivals = first_to_second(count, 2, QUIET);
            assert_eq!(arrivals.len() as u32, count, "{line}");
            assert!(overtaken(&arrivals) > 100, "{line}");
            arrivals.sort_by_key(|a| a.tag);
            let early: Vec<bool> = arrivals.iter().map(|a| a.delay_ms() < 50.0).collect();
            let model = Events::Spaced {
                chance,
                correlation,
                gap,
            };
            let [share, _] = tests(line, &early, model);
            assert!(share.statistic.abs() < 5.0, "{line}: {share:?}");
            let places: Vec<usize> = (0..early.len()).filter(|i| early[*i]).collect();
            assert!(places.windows(2).all(|w| w[1] - w[0] >= gap as usize));
        });
    }
}
