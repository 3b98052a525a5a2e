//! The report of the impairments, and the texts of its cells.
use emu_report::{Environment, Report, Table, Verdict};

use super::{ImpairmentRow, Outcome, Side};

/// The HTML report with charts, tables and verdicts.
pub(super) fn page(outcome: &Outcome, environment: &Environment) -> Report {
    let title = "Each impairment compared with its formula and netem";
    let mut page = Report::new("impairments", title, environment);
    let verdict = if outcome.ok {
        Verdict::Holds
    } else {
        Verdict::Fails
    };
    page.verdict(verdict, summary(outcome));
    let mut rows = Table::new([
        "setting",
        "model",
        "emu",
        "test",
        "verdict",
        "netem",
        "test",
        "verdict",
        "no further",
    ]);
    for row in &outcome.rows {
        rows.row(cells(row));
    }
    page.table("settings", rows);
    page.section("Managed queues");
    let mut queues = Table::new(["queue", "", "formula", "emu", "Linux's own", "verdict"]);
    for q in &outcome.queues {
        let numbers = [q.model, q.emu, q.linux].map(|n| format!("{n:.1}"));
        let verdict = if q.as_model { "ok" } else { "OFF" };
        queues.row(
            [q.name.to_owned(), q.quantity.to_owned()]
                .into_iter()
                .chain(numbers)
                .chain([verdict.to_owned()]),
        );
    }
    page.table("queues", queues);
    page
}

/// Text of the measured quantity of one system.
pub(super) fn measured(side: &Side) -> String {
    match (side.share, side.mean_run) {
        (Some(share), Some(run)) => format!("{:.3} %, runs {run:.2}", share * 100.0),
        _ => format!("{:.2} ± {:.2} ms", side.mean_ms, side.deviation_ms),
    }
}

pub(super) fn promised(row: &ImpairmentRow) -> String {
    match (row.model_share, row.model_run, row.model_deviation_ms) {
        (Some(share), Some(run), _) => format!("{:.3} %, runs {run:.2}", share * 100.0),
        (.., Some(deviation)) => format!("300.00 ± {deviation:.2} ms"),
        _ => String::new(),
    }
}

/// Text of the p-values: the probabilities that chance alone is as far from the model.
pub(super) fn tests(side: &Side) -> String {
    let main = match side.share {
        Some(_) => format!("z {:+.1}", side.test.statistic),
        None => format!("D {:.4}, p {:.3}", side.test.statistic, side.test.p),
    };
    side.runs
        .map_or(main.clone(), |runs| format!("{main}, runs p {:.3}", runs.p))
}

pub(super) fn verdict(side: &Side) -> &'static str {
    if side.as_model { "ok" } else { "OFF" }
}

fn cells(row: &ImpairmentRow) -> [String; 9] {
    [
        row.name.to_owned(),
        promised(row),
        measured(&row.emu),
        tests(&row.emu),
        verdict(&row.emu).to_owned(),
        measured(&row.netem),
        tests(&row.netem),
        verdict(&row.netem).to_owned(),
        if row.no_further { "yes" } else { "NO" }.to_owned(),
    ]
}

fn summary(outcome: &Outcome) -> String {
    let (model, further) = (
        outcome.rows.iter().filter(|r| r.emu.as_model).count(),
        outcome.rows.iter().filter(|r| r.no_further).count(),
    );
    let all = outcome.rows.len();
    format!(
        "{model} of {all} settings follow the model, {further} of {all} are no further from it than netem"
    )
}
