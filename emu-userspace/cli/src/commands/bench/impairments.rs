//! `emu bench impairments`.
use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::Context;
use clap::Args;
use emu_bench::impairments::{self, Report, Row, Side, Sizes};
use emu_report::{Environment, Verdict};

use super::output::{Effort, Output, with_progress};
use crate::commands::{FAILED, OK, Outcome, print, print_json, table};

/// Arguments of `emu bench impairments`.
#[derive(Args)]
#[command(after_help = "\
Works in network namespaces of its own and changes nothing else. Needs root, and fq and netem
in the kernel: `cargo xtask run -- bench impairments` finds a kernel that has them.

Examples:
  emu bench impairments                                  a minute or two
  emu bench impairments --full --out report             several minutes; report/impairments.html
  emu bench impairments --full --markdown accuracy.md    a page with tables")]
pub(in crate::commands) struct Impairments {
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    output: Output,
    /// Write a Markdown page with tables to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

impl Impairments {
    pub(super) fn run(self) -> Outcome {
        let full = self.effort.full;
        let sizes = if full { Sizes::FULL } else { Sizes::QUICK };
        let report = with_progress(|progress| impairments::run(&sizes, progress))?;
        if let Some(path) = &self.markdown {
            fs::write(path, markdown(&report, full))
                .with_context(|| format!("write {}", path.display()))?;
        }
        let environment = Environment::here();
        self.output.write(&page(&report, &environment), &report)?;
        if self.output.json {
            print_json(&report)?;
        } else {
            print_report(&report)?;
        }
        Ok(if report.ok { OK } else { FAILED })
    }
}

/// The HTML report with charts, tables and verdicts.
fn page(report: &Report, environment: &Environment) -> emu_report::Report {
    let title = "Each impairment compared with its formula and netem";
    let mut page = emu_report::Report::new("impairments", title, environment);
    let verdict = if report.ok {
        Verdict::Holds
    } else {
        Verdict::Fails
    };
    page.verdict(verdict, summary(report));
    let mut rows = emu_report::Table::new([
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
    for row in &report.rows {
        rows.row(cells(row));
    }
    page.table("settings", rows);
    page.section("Managed queues");
    let mut queues = emu_report::Table::new(["queue", "", "formula", "emu", "Linux's own"]);
    for q in &report.queues {
        let numbers = [q.model, q.emu, q.linux].map(|n| format!("{n:.1}"));
        queues.row(
            [q.name.to_owned(), q.quantity.to_owned()]
                .into_iter()
                .chain(numbers),
        );
    }
    page.table("queues", queues);
    page
}

/// Text of the measured quantity of one system.
fn measured(side: &Side) -> String {
    match (side.share, side.mean_run) {
        (Some(share), Some(run)) => format!("{:.3} %, runs {run:.2}", share * 100.0),
        _ => format!("{:.2} ± {:.2} ms", side.mean_ms, side.deviation_ms),
    }
}

fn promised(row: &Row) -> String {
    match (row.model_share, row.model_run, row.model_deviation_ms) {
        (Some(share), Some(run), _) => format!("{:.3} %, runs {run:.2}", share * 100.0),
        (.., Some(deviation)) => format!("300.00 ± {deviation:.2} ms"),
        _ => String::new(),
    }
}

/// Text of the p-values: the probabilities that chance alone is as far from the model.
fn tests(side: &Side) -> String {
    let main = match side.share {
        Some(_) => format!("z {:+.1}", side.test.statistic),
        None => format!("D {:.4}, p {:.3}", side.test.statistic, side.test.p),
    };
    side.runs
        .map_or(main.clone(), |runs| format!("{main}, runs p {:.3}", runs.p))
}

fn verdict(side: &Side) -> &'static str {
    if side.as_model { "ok" } else { "OFF" }
}

fn print_report(report: &Report) -> Outcome {
    let header = [
        "setting",
        "model",
        "emu",
        "test",
        "",
        "netem",
        "test",
        "",
        "no further",
    ];
    let mut rows = table(&header, &[]);
    for row in &report.rows {
        rows.add_row(cells(row));
    }
    print(&rows.to_string())?;
    let mut queues = table(
        &["queue", "", "formula", "emu", "Linux's own", "verdict"],
        &[2, 3, 4],
    );
    for queue in &report.queues {
        queues.add_row([
            queue.name.to_owned(),
            queue.quantity.to_owned(),
            format!("{:.1}", queue.model),
            format!("{:.1}", queue.emu),
            format!("{:.1}", queue.linux),
            if queue.as_model { "ok" } else { "OFF" }.to_owned(),
        ]);
    }
    print(&queues.to_string())?;
    print(&summary(report))
}

fn cells(row: &Row) -> [String; 9] {
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

fn summary(report: &Report) -> String {
    let (model, further) = (
        report.rows.iter().filter(|r| r.emu.as_model).count(),
        report.rows.iter().filter(|r| r.no_further).count(),
    );
    let all = report.rows.len();
    format!(
        "{model} of {all} settings follow the model, {further} of {all} are no further from it than netem"
    )
}

/// The Markdown page: the results, and how to read them.
fn markdown(report: &Report, full: bool) -> String {
    let size = if full { "--full" } else { "--quick" };
    let mut page = format!(
        "# Accuracy of the impairments

This page compares each impairment of emu with its formula and with netem at the same
setting. One run measures both alternately, with numbered UDP datagrams and the kernel's
receive timestamps. This command wrote the page:

    cargo xtask run -- bench impairments {size} --markdown docs/accuracy.md

Kernel: {}. Machine: {}.
Without impairments a datagram takes {:.3} ms (emu) and {:.3} ms (netem) beyond the
latency; the benchmark subtracts this time before it compares delays with the model. It
repeats a round of delays during which the machine stalled for more than 17 ms, at most
three times, regardless of the result.

## Results

`z`: difference between the measured share and the model's in standard errors, which include
the model's bursts. `D`, `p`: Kolmogorov-Smirnov distance of the delays, and the probability
of a distance at least as large by chance. `runs p`: the same probability for the lengths of
runs, by chi-squared. OFF: one of the probabilities is below 1 in 1000. The last column says
whether emu is no further from the model than netem, within the noise of samples of these
sizes.

| setting | model | n | emu | test | | netem | test | | no further |
|---|---|---|---|---|---|---|---|---|---|
",
        report.kernel, report.machine, report.path_ms[0], report.path_ms[1]
    );
    for row in &report.rows {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            promised(row),
            row.emu.sent,
            measured(&row.emu),
            tests(&row.emu),
            verdict(&row.emu),
            measured(&row.netem),
            tests(&row.netem),
            verdict(&row.netem),
            if row.no_further { "yes" } else { "NO" }
        );
    }
    page += "
## Managed queues

netem has no AQM, so the table compares emu with Linux's qdiscs of the same name, below a
token bucket of 1 Mbit/s. The load is an open loop that does not react to marks and drops.

| queue | n | | formula | emu | Linux | | topology | Linux's qdisc |
|---|---|---|---|---|---|---|---|---|
";
    for q in &report.queues {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {:.1} | {:.1} | {:.1} | {} | `{}` | `{}` |",
            q.name,
            q.sent,
            q.quantity,
            q.model,
            q.emu,
            q.linux,
            if q.as_model { "ok" } else { "OFF" },
            q.emu_setting,
            q.linux_setting
        );
    }
    page += "
## Everything else that arrived

| setting | emulator | mean ms | deviation ms | serial correlation | lost | twice | reordered |
|---|---|---|---|---|---|---|---|
";
    for row in &report.rows {
        for (line, side) in [("emu", &row.emu), ("netem", &row.netem)] {
            let _ = writeln!(
                page,
                "| {} | {line} | {:.3} | {:.3} | {:.3} | {:.3} % | {:.3} % | {:.3} % |",
                row.name,
                side.mean_ms,
                side.deviation_ms,
                side.serial_correlation,
                side.lost * 100.0,
                side.duplicated * 100.0,
                side.reordered * 100.0
            );
        }
    }
    page + "\n## Settings\n\n| setting | topology | netem |\n|---|---|---|\n"
        + &report
            .rows
            .iter()
            .map(|r| {
                format!(
                    "| {} | `{}` | `{}` |\n",
                    r.name, r.emu_setting, r.netem_setting
                )
            })
            .collect::<String>()
        + REMARKS
}

/// Explanation of the figures; the same for every run.
const REMARKS: &str = "
## Remarks

- **Correlated losses and overtaking** follow netem's formula: each random number is a mixture
  of a new number and the number before. This makes numbers near 0 rare, so 10 % with a
  correlation of 25 % loses under 2 %, with netem too. Use Gilbert-Elliott for bursts of a
  known length.
- **Correlated jitter** does not follow netem's formula: with the given probability a
  datagram has the offset of the datagram before, so the distribution stays as configured and
  the serial correlation is the configured one. netem mixes numbers and then takes the
  remainder of a division by the spread, or by the length of a table, which removes most of
  the correlation; netem's serial correlation in the table shows this.
- **Pareto** tables of netem end at 4 standard deviations, so netem's deviation is smaller
  than configured; in the middle, its Pareto table is wider than configured. emu's table
  extends to 22 standard deviations. The deviation of a sample of a Pareto distribution of
  shape 3 says little: the fourth moment is infinite, and most samples of some thousands fall
  short of the model's 50 ms.
- **Corruption**: emu changes a bit of the IP packet, and a checksum always detects this. netem
  changes a bit of the frame, and a few percent of these bits are in the Ethernet header: a
  changed source address there harms nothing.
- **CoDel**: the formula is RFC 8289 on the departures of an ideal pipe.
- **RED**: at this load one datagram in 21 exceeds the rate, and the formula is the average
  wait at which the drop probability is 1 in 21. Linux's qdisc spaces its drops evenly, as the
  paper of Floyd and Jacobson proposes, so it drops about twice as often at the same average
  and settles at a shorter wait; emu drops with the unmodified probability. Linux's RED does
  not have the gentle mode either: it drops everything above `max`.
- **Jitter** of emu keeps the order of packets unless the topology sets `overtake: true`;
  these measurements set it, because netem lets packets overtake. With order kept, delays
  follow the formula for packets whose distance in time exceeds the range of the jitter.
";
