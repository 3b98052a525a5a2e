//! The contents of a report, and writing its files.
use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Chart, Environment, ReportError, Table, png};

/// Result of one check of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The property holds.
    Holds,
    /// The property does not hold.
    Fails,
    /// The machine disturbed the measurement, so this run proves neither.
    Undecided,
}

impl Verdict {
    /// Text of the verdict in tables and terminal output.
    pub fn text(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "FAILS",
            Self::Undecided => "undecided",
        }
    }
}

/// A section, paragraph, table or figure of a report.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    Section(String),
    Text(String),
    Verdict(Verdict, String),
    Table(String, Table),
    Figure {
        name: String,
        chart: Box<Chart>,
        caption: String,
    },
}

/// A report under construction. Names of tables and figures become parts of file names.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) environment: Environment,
    pub(super) parts: Vec<Part>,
}

impl Report {
    /// An empty report. `name` is the prefix of its files: `NAME.html`, `NAME.json`,
    /// `NAME-TABLE.csv`, `NAME-FIGURE.svg`, `NAME-FIGURE.png`.
    pub fn new(
        name: impl Into<String>,
        title: impl Into<String>,
        environment: &Environment,
    ) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            environment: environment.clone(),
            parts: Vec::new(),
        }
    }

    /// Starts a section with a heading.
    pub fn section(&mut self, title: impl Into<String>) {
        self.parts.push(Part::Section(title.into()));
    }

    /// Adds a paragraph.
    pub fn text(&mut self, text: impl Into<String>) {
        self.parts.push(Part::Text(text.into()));
    }

    /// Adds a verdict with a sentence on one line.
    pub fn verdict(&mut self, verdict: Verdict, text: impl Into<String>) {
        self.parts.push(Part::Verdict(verdict, text.into()));
    }

    /// Adds a table, which is also written as `NAME-TABLE.csv`.
    pub fn table(&mut self, name: impl Into<String>, table: Table) {
        self.parts.push(Part::Table(name.into(), table));
    }

    /// Adds a chart with a caption below it.
    pub fn figure(&mut self, name: impl Into<String>, chart: Chart, caption: impl Into<String>) {
        self.parts.push(Part::Figure {
            name: name.into(),
            chart: Box::new(chart),
            caption: caption.into(),
        });
    }

    /// The tables with their names, for output on a terminal.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &Table)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Table(name, table) => Some((name.as_str(), table)),
            _ => None,
        })
    }

    /// The verdicts with their sentences.
    pub fn verdicts(&self) -> impl Iterator<Item = (Verdict, &str)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Verdict(verdict, text) => Some((*verdict, text.as_str())),
            _ => None,
        })
    }

    /// Writes the page, its pictures and tables, and a JSON file with `data` and the
    /// environment. Creates the folder; returns the paths of the files, the page first.
    ///
    /// # Errors
    /// [`ReportError`]; files that were already written remain.
    pub fn write<T: Serialize>(
        &self,
        folder: &Path,
        data: &T,
    ) -> Result<Vec<PathBuf>, ReportError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            |source| ReportError::Write { path, source }
        };
        fs::create_dir_all(folder).map_err(failed(folder))?;
        let mut written = Vec::new();
        for (name, bytes) in self.files(data)? {
            let path = folder.join(name);
            fs::write(&path, bytes).map_err(failed(&path))?;
            written.push(path);
        }
        Ok(written)
    }

    /// Names and contents of the files that [`Report::write`] writes, the page first.
    ///
    /// # Errors
    /// [`ReportError`] if a chart cannot be drawn, or the data not be serialised.
    pub fn files<T: Serialize>(&self, data: &T) -> Result<Vec<(String, Vec<u8>)>, ReportError> {
        let name = &self.name;
        let json = serde_json::to_string_pretty(&Json {
            environment: &self.environment,
            data,
        })?;
        let mut files = vec![
            (format!("{name}.html"), self.html()?.into_bytes()),
            (format!("{name}.json"), (json + "\n").into_bytes()),
        ];
        for part in &self.parts {
            match part {
                Part::Table(table, cells) => {
                    files.push((format!("{name}-{table}.csv"), cells.csv().into_bytes()));
                }
                Part::Figure {
                    name: figure,
                    chart,
                    ..
                } => {
                    let svg = chart.svg()?;
                    let picture = png(&svg).map_err(|message| ReportError::Draw {
                        chart: chart.title().to_owned(),
                        message,
                    })?;
                    files.push((format!("{name}-{figure}.svg"), svg.into_bytes()));
                    files.push((format!("{name}-{figure}.png"), picture));
                }
                Part::Section(_) | Part::Text(_) | Part::Verdict(..) => {}
            }
        }
        Ok(files)
    }
}

/// Contents of the JSON file: the data and the environment.
#[derive(Serialize)]
struct Json<'a, T> {
    environment: &'a Environment,
    #[serde(flatten)]
    data: &'a T,
}
