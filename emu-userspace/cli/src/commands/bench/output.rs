//! Shared by all measurements: sizes, progress, and the destinations of the results.
use std::path::PathBuf;

use clap::Args;
use emu_report::{Environment, Report, Verdict};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;
use serde_json::json;

use crate::commands::{FAILED, OK, Outcome, print, print_json, table, watched};

use crate::commands::error::CommandError;

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
    /// Prints the tables and verdicts, or JSON, and writes the files.
    pub fn finish<T: Serialize>(
        &self,
        report: &Report,
        environment: &Environment,
        data: &T,
    ) -> Outcome {
        if self.json {
            let mut value = serde_json::to_value(data)?;
            if let Some(object) = value.as_object_mut() {
                object.insert("environment".to_owned(), json!(environment));
            }
            print_json(&value)?;
        } else {
            print(&format!("{}; {}", environment.machine, environment.kernel))?;
            for (_, cells) in report.tables() {
                let header: Vec<&str> = cells.header().iter().map(String::as_str).collect();
                let right: Vec<usize> =
                    (0..header.len()).filter(|i| cells.is_numeric(*i)).collect();
                let mut table = table(&header, &right);
                for row in cells.rows() {
                    table.add_row(row);
                }
                print(&format!("{table}\n"))?;
            }
            for (verdict, text) in report.verdicts() {
                print(&format!("{:>9}: {text}", verdict.text()))?;
            }
        }
        self.write(report, data)?;
        let holds = report.verdicts().all(|(v, _)| v == Verdict::Holds);
        Ok(if holds { OK } else { FAILED })
    }

    /// Writes the files if `--out` is given.
    pub fn write<T: Serialize>(&self, report: &Report, data: &T) -> Result<(), CommandError> {
        if let Some(folder) = &self.out {
            let files = report.write(folder, data)?;
            if let Some(page) = files.first() {
                eprintln!("emu: wrote {} and {} more", page.display(), files.len() - 1);
            }
        }
        Ok(())
    }
}

/// Runs a measurement with a progress bar on a terminal and with lines of text elsewhere:
/// minutes without output would look like a hang.
pub(super) fn with_progress<T>(
    work: impl FnOnce(&mut (dyn FnMut(usize, usize, &str) + Send)) -> T,
) -> T {
    let bar = ProgressBar::new(0);
    if !watched() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let result = work(&mut |done, all, name| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(name.to_owned());
        if !watched() {
            eprintln!("{done} of {all} done, next: {name}");
        }
    });
    bar.finish_and_clear();
    result
}
