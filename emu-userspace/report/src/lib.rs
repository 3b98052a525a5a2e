//! Reports of measurements: charts, tables and text from plain data. A report consists of
//! one self-contained HTML page, every chart as SVG and PNG, every table as CSV, and all
//! data as JSON. The crate measures nothing and depends on no other crate of emu: the
//! caller passes plain numbers.
//!
//! ```
//! use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};
//!
//! let mut report = Report::new("bench-walk", "How far a walk leads", &Environment::here());
//! report.section("Distance");
//! report.text("One step each second.");
//! report.figure(
//!     "distance",
//!     Chart::new("Distance against time")
//!         .x(Axis::new("time, s"))
//!         .y(Axis::new("distance, m").from_zero())
//!         .line("on foot", [(0.0, 0.0), (10.0, 14.0), (20.0, 28.0)])
//!         .line("by bicycle", [(0.0, 0.0), (10.0, 55.0), (20.0, 110.0)])
//!         .mark_y("the next town", 100.0),
//!     "The bicycle arrives, the walker does not.",
//! );
//! let mut table = Table::new(["", "speed, m/s"]);
//! table.row(["on foot".into(), "1.4".into()]);
//! report.table("speed", table);
//! report.verdict(Verdict::Holds, "the bicycle is faster");
//! let folder = std::env::temp_dir().join(format!("emu-walk-{}", std::process::id()));
//! let files = report.write(&folder, &serde_json::json!({"walker_m_per_s": 1.4}))?;
//! assert!(files.iter().any(|f| f.ends_with("bench-walk.html")));
//! # std::fs::remove_dir_all(folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod chart;
mod draw;
mod environment;
mod html;
mod page;
mod png;
mod scale;
mod table;

use std::{io, path::PathBuf};

pub use chart::{Axis, Chart, Point};
pub use environment::Environment;
pub use page::{Report, Verdict};
pub use png::png;
pub use table::Table;

/// Reasons why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or folder could not be written.
    #[error("write {path}: {source}")]
    Write {
        /// Path of the file or folder.
        path: PathBuf,
        /// The error that the operating system returned.
        source: io::Error,
    },
    /// A chart could not be drawn, or its picture not be rendered.
    #[error("draw `{chart}`: {message}")]
    Draw {
        /// Title of the chart.
        chart: String,
        /// Error message of the drawing library.
        message: String,
    },
    /// The data could not be serialised as JSON.
    #[error("write the data as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

#[cfg(test)]
mod tests;
