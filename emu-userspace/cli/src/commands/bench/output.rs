//! Shared by all measurements: sizes, progress, and the destinations of the results.
use std::{
    io::{Write, stderr},
    marker::PhantomData,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use emu_bench::{Measurement, Observer, Preset};
use emu_report::{Environment, Report};
use indicatif::{ProgressBar, ProgressDrawTarget};

use crate::commands::{FAILED, OK, Outcome, print, print_json, table, watched};

/// Options of a measurement that has only a size.
#[derive(Args)]
pub(in crate::commands) struct Standard<M: Preset + Send + Sync + 'static> {
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    output: Output,
    #[arg(skip)]
    measurement: PhantomData<M>,
}

impl<M: Preset + Send + Sync + 'static> Standard<M> {
    pub(super) fn run(self) -> Outcome {
        self.output.measure(&self.effort.sizes::<M>())
    }
}

/// Options for the size of a measurement.
#[derive(Args)]
pub(super) struct Effort {
    /// Measure for about a minute; the default.
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Measure as much as for the figures in the documentation.
    #[arg(long)]
    pub full: bool,
}

impl Effort {
    /// The measurement of this size.
    pub fn sizes<M: Preset>(&self) -> M {
        if self.full { M::FULL } else { M::QUICK }
    }
}

/// Options for the destinations of the results.
#[derive(Args)]
pub(super) struct Output {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Write an HTML report, its pictures (SVG, PNG), tables (CSV) and data (JSON) into
    /// this folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl Output {
    /// Measures, prints and writes the results, and returns the exit code.
    pub fn measure<M: Measurement>(&self, measurement: &M) -> Outcome {
        self.measure_and(measurement, &mut Watcher::new(), |_| Ok(()))
    }

    /// As [`Output::measure`], with an observer; `also` gets the results first.
    pub fn measure_and<M: Measurement>(
        &self,
        measurement: &M,
        watcher: &mut Watcher,
        also: impl FnOnce(&M::Outcome) -> anyhow::Result<()>,
    ) -> Outcome {
        let outcome = measurement.run(watcher);
        watcher.clear();
        let Some(outcome) = outcome? else {
            return Ok(OK);
        };
        also(&outcome)?;
        let environment = Environment::here();
        let report = measurement.report(&outcome, &environment);
        let passes = measurement.passes(&outcome, &report);
        if self.json {
            print_json(&measurement.json(&outcome, &environment, passes)?)?;
        } else {
            print(&format!("{}; {}", environment.machine, environment.kernel))?;
            print_tables(&report)?;
            for line in measurement.remarks(&outcome) {
                print(&line)?;
            }
            for (verdict, text) in report.verdicts() {
                print(&format!("{:>9}: {text}", verdict.text()))?;
            }
        }
        if let Some(folder) = &self.out {
            let files = report.write(folder, &outcome)?;
            if let Some(page) = files.first() {
                eprintln!("emu: wrote {} and {} more", page.display(), files.len() - 1);
            }
        }
        Ok(if passes { OK } else { FAILED })
    }
}

fn print_tables(report: &Report) -> Outcome {
    for (_, cells) in report.tables() {
        let header: Vec<&str> = cells.header().iter().map(String::as_str).collect();
        let right: Vec<usize> = (0..header.len()).filter(|i| cells.is_numeric(*i)).collect();
        let mut table = table(&header, &right);
        for row in cells.rows() {
            table.add_row(row);
        }
        print(&format!("{table}\n"))?;
    }
    Ok(OK)
}

/// Shows the progress on a terminal, and the steps as lines of text elsewhere: minutes without
/// output would look like a hang.
pub(super) struct Watcher {
    bar: ProgressBar,
    is_terminal: bool,
    /// Whether a text stands on the terminal's line.
    has_text: bool,
    cancelled: Arc<AtomicBool>,
}

impl Watcher {
    pub fn new() -> Self {
        let bar = ProgressBar::new(0);
        let is_terminal = watched();
        if !is_terminal {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self {
            bar,
            is_terminal,
            has_text: false,
            cancelled: Arc::new(AtomicBool::new(false)),
        }
    }

    /// SIGINT and SIGTERM end the measurement in order.
    pub fn cancellable() -> std::io::Result<Self> {
        let watcher = Self::new();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&watcher.cancelled))?;
        }
        Ok(watcher)
    }

    fn clear(&mut self) {
        self.bar.finish_and_clear();
        if std::mem::take(&mut self.has_text) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

impl Observer for Watcher {
    fn step(&mut self, done: usize, all: usize, next: &str) {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(next.to_owned());
        if !self.is_terminal {
            eprintln!("{done} of {all} done, next: {next}");
        }
    }

    fn text(&mut self, text: &str) {
        if self.is_terminal {
            self.has_text = true;
            let _ = write!(stderr(), "\r\x1b[K{text}");
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}
