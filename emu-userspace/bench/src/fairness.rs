//! CPU fairness: P2PLab's experiment, which starts a computing program at regular intervals
//! and measures how long each program takes.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use emu_model::fairness::jain;
use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};
use serde::Serialize;
use serde_json::{Value, json};

use super::{BenchError, Measurement, Observer, namespace::Namespace};

/// Parameters of a fairness run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Number of programs.
    pub programs: u32,
    /// Time between the starts of two programs.
    pub interval: Duration,
    /// Running time of one program on an idle machine.
    pub alone: Duration,
}

/// The measurement.
#[derive(Debug, Clone)]
pub struct Fairness {
    /// The programs.
    pub settings: Settings,
    /// Jain's index that must be reached.
    pub at_least: f64,
    /// Folder of the experiment's files.
    pub folder: PathBuf,
}

/// Measurements of one program.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Program {
    /// Start, in seconds after the start of the first program.
    pub start_s: f64,
    /// Running time in seconds.
    pub took_s: f64,
    /// CPU time that the program got, in seconds.
    pub cpu_s: f64,
    /// Running time in seconds under ideal processor sharing.
    pub fair_s: f64,
}

/// Results of a fairness run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The programs, in the order of their starts.
    pub programs: Vec<Program>,
    /// Number of CPUs of the machine.
    pub processors: usize,
    /// Jain's fairness index of the ratios of ideal to actual running time; 1 if all
    /// programs got equal shares.
    pub jain_index: f64,
}

/// Number of loop iterations that are timed to calibrate [`Settings::alone`].
const TRIAL_ROUNDS: u32 = 200_000;

impl Measurement for Fairness {
    type Outcome = Outcome;

    fn run(&self, _: &mut dyn Observer) -> Result<Option<Outcome>, BenchError> {
        measure(&self.settings, &self.folder).map(Some)
    }

    fn report(&self, outcome: &Outcome, environment: &Environment) -> Report {
        report(outcome, self.at_least, environment)
    }

    fn json(&self, outcome: &Outcome, _: &Environment, passes: bool) -> serde_json::Result<Value> {
        Ok(json!({"ok": passes, "at_least": self.at_least, "outcome": outcome}))
    }
}

fn measure(settings: &Settings, folder: &Path) -> Result<Outcome, BenchError> {
    crate::make_folder(folder)?;
    let rounds = rounds(settings.alone)?;
    let count = settings.programs;
    let topology = format!(
        "version: 1\nname: fairness\nseed: 1\ngroups:\n  all: {{prefix: 10.21.0.0/16, nodes: {count}}}\n"
    );
    let experiment = format!(
        "name: fairness\ntopology: topology.yaml\nprograms:\n  - name: counter\n    on: all\n    \
         start: {{every: {}ms}}\n    shell: '{}'\n",
        settings.interval.as_millis(),
        counting(rounds)
    );
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).map_err(BenchError::system("write an experiment"))
    };
    write("topology.yaml", &topology)?;
    write("experiment.yaml", &experiment)?;
    let me = std::env::current_exe().map_err(BenchError::system("find the program of `emu`"))?;
    let (file, out) = (folder.join("experiment.yaml"), folder.join("run"));
    let namespace = Namespace::new()?;
    namespace.run(&format!(
        "{} run --json --user root --out {} {}",
        me.display(),
        out.display(),
        file.display()
    ))?;
    let table = fs::read_to_string(out.join("processes.csv"))
        .map_err(BenchError::system("read the results"))?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let programs = shares(&rows(&table), processors);
    let jain_index = jain(programs.iter().map(|p| p.fair_s / p.took_s));
    Ok(Outcome {
        programs,
        processors,
        jain_index,
    })
}

fn counting(rounds: u32) -> String {
    // Doubled braces would be a placeholder of the experiment file; this text has none.
    format!("i=0; while [ $i -lt {rounds} ]; do i=$((i+1)); done")
}

/// Number of loop iterations that take the time `alone` on an idle machine.
fn rounds(alone: Duration) -> Result<u32, BenchError> {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let begin = Instant::now();
        Command::new("/bin/sh")
            .args(["-c", &counting(TRIAL_ROUNDS)])
            .status()
            .map_err(BenchError::system("start /bin/sh"))?;
        best = best.min(begin.elapsed());
    }
    let rounds = alone.as_secs_f64() / best.as_secs_f64() * f64::from(TRIAL_ROUNDS);
    Ok(rounds.clamp(1_000.0, f64::from(u32::MAX)) as u32)
}

/// Start, stop and CPU time of each row, in the order of the starts.
fn rows(table: &str) -> Vec<[f64; 3]> {
    let mut lines = table.lines().map(|l| l.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap_or_default();
    let places = ["start_s", "stop_s", "cpu_s"].map(|name| header.iter().position(|h| *h == name));
    let mut rows: Vec<[f64; 3]> = lines
        .map(|row| {
            places.map(|place| {
                let cell = place.and_then(|p| row.get(p));
                cell.and_then(|cell| cell.parse().ok()).unwrap_or(0.0)
            })
        })
        .collect();
    rows.sort_unstable_by(|a, b| a[0].total_cmp(&b[0]));
    rows
}

fn shares(rows: &[[f64; 3]], processors: usize) -> Vec<Program> {
    let work: Vec<(f64, f64)> = rows.iter().map(|[start, _, cpu]| (*start, *cpu)).collect();
    let first = rows.first().map_or(0.0, |row| row[0]);
    rows.iter()
        .zip(fair(&work, processors))
        .map(|([start, stop, cpu], fair_s)| Program {
            start_s: start - first,
            took_s: stop - start,
            cpu_s: *cpu,
            fair_s,
        })
        .collect()
}

/// Stop times under ideal processor sharing: all running programs get equal shares, and no
/// program gets more than one CPU. Each entry of `work` is a start and the required CPU
/// seconds; the entries are ordered by start.
fn fair(work: &[(f64, f64)], processors: usize) -> Vec<f64> {
    let mut left: Vec<f64> = work.iter().map(|(_, cpu_s)| *cpu_s).collect();
    let mut took = vec![0.0; work.len()];
    let mut now = work.first().map_or(0.0, |(start, _)| *start);
    let mut running: Vec<usize> = Vec::new();
    let mut next = 0;
    while next < work.len() || !running.is_empty() {
        let share = (processors as f64 / running.len().max(1) as f64).min(1.0);
        let ends = running.iter().map(|i| now + left[*i] / share);
        let end = ends.fold(f64::INFINITY, f64::min);
        let start = work.get(next).map_or(f64::INFINITY, |(start, _)| *start);
        let then = end.min(start);
        for i in &running {
            left[*i] -= (then - now) * share;
        }
        now = then;
        if start <= end {
            running.push(next);
            next += 1;
        }
        running.retain(|i| {
            let is_done = left[*i] <= 1e-9;
            if is_done {
                took[*i] = now - work[*i].0;
            }
            !is_done
        });
    }
    took
}

fn report(outcome: &Outcome, at_least: f64, environment: &Environment) -> Report {
    let mut report = Report::new("bench-fairness", "Fairness of the processors", environment);
    let verdict = if outcome.jain_index >= at_least {
        Verdict::Holds
    } else {
        Verdict::Fails
    };
    report.verdict(
        verdict,
        format!(
            "Jain's index of fair time to time taken is {:.4}, at least {at_least} expected",
            outcome.jain_index
        ),
    );
    let points = |value: fn(&Program) -> f64| {
        let programs = outcome.programs.iter().enumerate();
        programs
            .map(|(i, p)| (i as f64, value(p)))
            .collect::<Vec<_>>()
    };
    let chart = Chart::new("Time that each program needs to complete")
        .x(Axis::new("program, in the order of their starts"))
        .y(Axis::new("time, s").from_zero())
        .points("measured", points(|p| p.took_s))
        .line("equal shares at all times", points(|p| p.fair_s));
    report.figure(
        "time",
        chart,
        "Programs that only compute, started one after another. The line is what each would \
         take if the processors were shared equally, for the processor time that it used.",
    );
    let mut rows = Table::new([
        "program",
        "start, s",
        "took, s",
        "CPU, s",
        "fair, s",
        "took/fair",
    ]);
    for (number, p) in outcome.programs.iter().enumerate() {
        let numbers = [p.start_s, p.took_s, p.cpu_s, p.fair_s, p.took_s / p.fair_s];
        let numbers = numbers.map(|n| format!("{n:.3}"));
        rows.row(std::iter::once(number.to_string()).chain(numbers));
    }
    report.table("programs", rows);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_run_together_share() {
        assert_eq!(fair(&[(0.0, 2.0)], 1), [2.0]);
        assert_eq!(fair(&[(0.0, 2.0), (0.0, 2.0)], 1), [4.0, 4.0]);
        assert_eq!(fair(&[(0.0, 2.0), (0.0, 2.0)], 2), [2.0, 2.0]);
        // The second program starts when the first has half of its work left.
        assert_eq!(fair(&[(0.0, 2.0), (1.0, 2.0)], 1), [3.0, 3.0]);
        assert_eq!(fair(&[(0.0, 1.0), (5.0, 1.0)], 1), [1.0, 1.0]);
        assert!(fair(&[], 1).is_empty());
    }

    #[test]
    fn tables_are_read_by_their_header() {
        let rows = rows("vnode,stop_s,start_s,cpu_s\na,3.5,2,1\nb,2,1,0.5\n");
        assert_eq!(rows, [[1.0, 2.0, 0.5], [2.0, 3.5, 1.0]]);
    }
}
