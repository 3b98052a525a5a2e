//! Reports of measurements: charts, tables and words from plain data, written as one
//! self-contained HTML page, with every chart as SVG and PNG and every table as CSV
//! beside it, and all of the data as JSON. It measures nothing, and depends on no
//! other crate of emu: whoever measured hands plain numbers in.
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

/// A report did not come about.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file.
    #[error("write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A chart that the drawing library refuses, or its picture.
    #[error("draw `{chart}`: {words}")]
    Draw {
        /// The chart's title.
        chart: String,
        /// What the library said.
        words: String,
    },
    /// The data as JSON.
    #[error("write the data as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

#[cfg(test)]
mod tests;
