//! The common form of all measurements: they run, they report, and they pass or fail.
use emu_report::{Environment, Report, Verdict};
use serde::Serialize;
use serde_json::{Value, json};

use super::BenchError;

/// A measurement with its settings.
pub trait Measurement {
    /// The results, which are also written as the report's data.
    type Outcome: Serialize;

    /// Measures. Returns `None` on a host that only takes part in the measurement of another.
    ///
    /// # Errors
    /// [`BenchError`] if the measurement could not be completed. Bad results are no error.
    fn run(&self, observer: &mut dyn Observer) -> Result<Option<Self::Outcome>, BenchError>;

    /// The report with verdicts, tables and charts.
    fn report(&self, outcome: &Self::Outcome, environment: &Environment) -> Report;

    /// Whether the results are as they must be, which decides the exit code.
    fn passes(&self, _outcome: &Self::Outcome, report: &Report) -> bool {
        report.verdicts().all(|(v, _)| v == Verdict::Holds)
    }

    /// The results as JSON, with the environment or with `passes`.
    ///
    /// # Errors
    /// The results are no JSON.
    fn json(
        &self,
        outcome: &Self::Outcome,
        environment: &Environment,
        _passes: bool,
    ) -> serde_json::Result<Value> {
        let mut value = serde_json::to_value(outcome)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("environment".to_owned(), json!(environment));
        }
        Ok(value)
    }

    /// Lines for the terminal below the tables.
    fn remarks(&self, _outcome: &Self::Outcome) -> Vec<String> {
        Vec::new()
    }
}

/// A measurement that needs no options but its size.
pub trait Preset: Measurement + Sized {
    /// About a minute.
    const QUICK: Self;
    /// As much as for the figures in the documentation.
    const FULL: Self;
    /// What the measurement needs, examples, and when it fails.
    const HELP: &'static str;
}

/// Receives the progress of a measurement.
pub trait Observer: Send {
    /// `done` steps of `all` are done, and this is the next one.
    fn step(&mut self, done: usize, all: usize, next: &str);

    /// The state of a long step.
    fn text(&mut self, text: &str);

    /// Whether the measurement is to end early. Measurements of less than a few minutes do not
    /// ask.
    fn is_cancelled(&self) -> bool {
        false
    }
}
