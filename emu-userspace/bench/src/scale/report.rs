//! The report of `bench scale`.
use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};

use super::{Outcome, Settings};

fn facts(o: &Outcome) -> Vec<(&'static str, String)> {
    let [ready, right] = o.peer.milestones();
    let quantile = |share: f64| {
        let index = (o.ready_s.len() as f64 * share) as usize;
        let value = (o.ready_s).get(index.min(o.ready_s.len().saturating_sub(1)));
        value.map_or("–".to_owned(), |s| format!("{s:.2}"))
    };
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / 1_048_576.0);
    [
        ("peers", o.peers.to_string()),
        ("hosts", o.hosts.to_string()),
        ("load, s", format!("{:.2}", o.load_s)),
        ("starts took, s", format!("{:.1}", o.start_s)),
        ("starts planned, s", format!("{:.1}", o.start_planned_s)),
        (ready, o.ready_s.len().to_string()),
        ("after its start, median, s", quantile(0.5)),
        ("after its start, 99 %, s", quantile(0.99)),
        (right, o.right.to_string()),
        (
            "memory that the machines had less of, MiB",
            mib(o.used_bytes),
        ),
        (
            "memory of all peers, shared pages counted, MiB",
            mib(o.resident_bytes),
        ),
        ("processor time of all peers, s", format!("{:.1}", o.cpu_s)),
        (
            "processors busy, % (of the busiest host)",
            format!("{:.0}", o.busy * 100.0),
        ),
        (
            "error of a round trip, nobody there, ms",
            format!("{:+.2}", o.error_idle_ms),
        ),
        (
            "error of a round trip, all running, ms",
            format!("{:+.2}", o.error_running_ms),
        ),
    ]
    .into()
}

/// Allowed growth of the round-trip time's error while all peers run, in milliseconds,
/// compared with idle hosts: fq on a busy CPU wakes up late.
const MORE_ERROR_MS: f64 = 2.0;

fn accuracy(o: &Outcome) -> (Verdict, String) {
    let verdict = if o.error_running_ms.abs() <= o.error_idle_ms.abs() + MORE_ERROR_MS {
        Verdict::Holds
    } else if o.limits.is_empty() {
        Verdict::Fails
    } else {
        Verdict::Undecided
    };
    let text = format!(
        "a round trip of {:.1} ms is {:+.2} ms off with all running, {:+.2} ms with nobody there",
        o.expected_ms, o.error_running_ms, o.error_idle_ms
    );
    (verdict, text)
}

/// P2PLab's figure of its largest experiment, with the bytes that the peers received.
fn progress(settings: &Settings, outcome: &Outcome) -> (Chart, String) {
    let every = settings.drawn_every();
    let chart = Chart::new("What peers received")
        .x(Axis::new("time since the first start, s").from_zero())
        .y(Axis::new("IP packets, KiB").from_zero());
    let chart = (outcome.progress.iter().enumerate()).fold(chart, |chart, (index, curve)| {
        let name = if index == 0 { "a peer" } else { "" };
        chart.line(name, curve.iter().map(|(t, b)| (*t, b / 1024.0)))
    });
    let text = match every {
        1 => "Every peer is a curve that begins with its start.".to_owned(),
        every => format!("Every {every}th peer is a curve that begins with its start."),
    };
    (chart, text)
}

pub(super) fn report(settings: &Settings, outcome: &Outcome, environment: &Environment) -> Report {
    let mut report = Report::new("bench-scale", "Many peers on one machine", environment);
    let [ready, right] = outcome.peer.milestones();
    let text = format!(
        "{} of {} peers {ready}, {} {right}",
        outcome.ready_s.len(),
        outcome.judged,
        outcome.right
    );
    report.verdict(
        if outcome.is_complete() {
            Verdict::Holds
        } else {
            Verdict::Fails
        },
        text,
    );
    let (verdict, text) = accuracy(outcome);
    report.verdict(verdict, text);
    for limit in &outcome.limits {
        let text = format!("the host was the limit: {limit}");
        report.verdict(Verdict::Undecided, text);
    }
    let mut table = Table::new(["", "value"]);
    for (name, value) in facts(outcome) {
        table.row([name.to_owned(), value]);
    }
    report.table("facts", table);
    let chart = Chart::new(format!("When peers {ready}"))
        .x(Axis::new("time from the peer's start, s").from_zero())
        .y(Axis::new("share of peers").from_zero())
        .cdf("peers", outcome.ready_s.iter().copied());
    let (curves, text) = progress(settings, outcome);
    report.figure("progress", curves, &text);
    let text = format!("How many peers {ready}, and how soon after their start.");
    report.figure("ready", chart, &text);
    report
}
