//! The report of a run on several hosts, from its merged tables.
use std::collections::BTreeMap;

use emu_kernel::beneath::Folder;
use emu_report::{Axis, Chart, Environment, Report, Table};

use super::{HostOutcome, MergeError, Merged};

/// Largest number of points of a curve.
const POINTS: usize = 200;

/// Writes `report.html` and its parts below `report/`.
pub(super) fn write(merged: &Merged, out: &Folder) -> Result<(), MergeError> {
    let title = format!("{}: a run over {} hosts", merged.name, merged.hosts.len());
    let mut report = Report::new("report", title, &Environment::here());
    report.section("Hosts");
    report.text(format!(
        "Ended: {}, after {:.1} s. The hosts started within {:.1} ms.",
        merged.ended, merged.run_s, merged.starts_apart_ms
    ));
    for warning in &merged.warnings {
        report.text(warning.clone());
    }
    report.table("hosts", hosts(merged));
    report.section("Over time");
    let running = running(out);
    if !running.is_empty() {
        let chart = Chart::new("Processes that run")
            .x(Axis::new("time, s"))
            .y(Axis::new("processes").from_zero())
            .step("all hosts", running);
        report.figure("processes", chart, "From the first start on.");
    }
    let received = received(out, merged.run_s);
    if !received.is_empty() {
        let mut chart = Chart::new("What vnodes have received")
            .x(Axis::new("time, s"))
            .y(Axis::new("received, MB").from_zero());
        for (host, line) in received {
            chart = chart.line(host, line);
        }
        report.figure("received", chart, "Summed over the vnodes of each host.");
    }
    let path = out.path().join("report");
    let folder = out.make_folder("report");
    let folder = folder.map_err(MergeError::system("make", &path))?;
    for (name, bytes) in report.files(merged)? {
        let replaced = folder.replace(&name, &bytes);
        replaced.map_err(MergeError::system("write", &path.join(name)))?;
    }
    Ok(())
}

fn hosts(merged: &Merged) -> Table {
    let mut table = Table::new(["host", "machine", "state", "processes", "clock ahead, ms"]);
    for host in &merged.hosts {
        let state = match host.state {
            HostOutcome::Done => "done",
            HostOutcome::Failed => "failed",
            HostOutcome::Lost => "lost",
        };
        let ahead = host
            .clock
            .map(|c| format!("{:.3}", c.ahead_ns as f64 / 1e6));
        table.row([
            host.host.clone(),
            host.machine.clone().unwrap_or_default(),
            state.to_owned(),
            host.processes.to_string(),
            ahead.unwrap_or_default(),
        ]);
    }
    table
}

/// Rows of a table as maps; empty if the table cannot be read.
fn rows(folder: &Folder, name: &str) -> impl Iterator<Item = BTreeMap<String, String>> {
    let reader = folder.file(name).ok().map(csv::Reader::from_reader);
    reader
        .into_iter()
        .flat_map(csv::Reader::into_deserialize)
        .flatten()
}

fn number(row: &BTreeMap<String, String>, name: &str) -> Option<f64> {
    row.get(name)?.parse().ok()
}

/// Number of running processes, at each change.
fn running(out: &Folder) -> Vec<(f64, f64)> {
    let mut changes: Vec<(f64, f64)> = rows(out, "processes.csv")
        .filter_map(|row| {
            Some([
                (number(&row, "start_s")?, 1.0),
                (number(&row, "stop_s")?, -1.0),
            ])
        })
        .flatten()
        .collect();
    changes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut count = 0.0;
    for (_, change) in &mut changes {
        count += *change;
        *change = count;
    }
    changes
}

/// Megabytes that each host's vnodes have received over time.
fn received(out: &Folder, run_s: f64) -> BTreeMap<String, Vec<(f64, f64)>> {
    let step_s = (run_s / POINTS as f64).max(0.1);
    let mut vnodes: BTreeMap<(String, String), f64> = BTreeMap::new();
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    let mut lines: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows(out, "counters.csv") {
        let (Some(time_s), Some(bytes)) = (number(&row, "time_s"), number(&row, "received_bytes"))
        else {
            continue;
        };
        let field = |name: &str| row.get(name).cloned().unwrap_or_default();
        let host = field("host");
        let before = vnodes
            .insert((host.clone(), field("vnode")), bytes)
            .unwrap_or(0.0);
        let sum = sums.entry(host.clone()).or_default();
        *sum += (bytes - before) / 1e6;
        let line = lines.entry(host).or_default();
        match line.last_mut() {
            // Many vnodes have a row at nearly the same time.
            Some((at, megabytes)) if time_s - *at < step_s => *megabytes = *sum,
            _ => line.push((time_s, *sum)),
        }
    }
    lines
}
