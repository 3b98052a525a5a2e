//! What a report says, and its files.
use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Chart, Environment, ReportError, Table, png};

/// What a measurement shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as it should be.
    Holds,
    /// It is not.
    Fails,
    /// The machine was in the way: this run shows nothing.
    Undecided,
}

impl Verdict {
    /// The word for a table or a line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "FAILS",
            Self::Undecided => "undecided",
        }
    }
}

/// A part of a report.
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

/// A report in the making. Names of tables and figures become file names.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) environment: Environment,
    pub(super) parts: Vec<Part>,
}

impl Report {
    /// An empty report; `name` is that of its files: `NAME.html`, `NAME.json`,
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

    /// Begins a section.
    pub fn section(&mut self, title: impl Into<String>) {
        self.parts.push(Part::Section(title.into()));
    }

    /// A paragraph.
    pub fn text(&mut self, text: impl Into<String>) {
        self.parts.push(Part::Text(text.into()));
    }

    /// What was found, in one line.
    pub fn verdict(&mut self, verdict: Verdict, text: impl Into<String>) {
        self.parts.push(Part::Verdict(verdict, text.into()));
    }

    /// A table.
    pub fn table(&mut self, name: impl Into<String>, table: Table) {
        self.parts.push(Part::Table(name.into(), table));
    }

    /// A chart with a sentence below it.
    pub fn figure(&mut self, name: impl Into<String>, chart: Chart, caption: impl Into<String>) {
        self.parts.push(Part::Figure {
            name: name.into(),
            chart: Box::new(chart),
            caption: caption.into(),
        });
    }

    /// Its tables, with their names, for a terminal.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &Table)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Table(name, table) => Some((name.as_str(), table)),
            _ => None,
        })
    }

    /// Its verdicts, with their words.
    pub fn verdicts(&self) -> impl Iterator<Item = (Verdict, &str)> {
        self.parts.iter().filter_map(|part| match part {
            Part::Verdict(verdict, text) => Some((*verdict, text.as_str())),
            _ => None,
        })
    }

    /// Writes the page, its pictures and tables, and `data` as JSON with the
    /// environment beside it. Makes the folder; gives the files, the page first.
    ///
    /// # Errors
    /// [`ReportError`]; files that were written stay.
    pub fn write<T: Serialize>(
        &self,
        folder: &Path,
        data: &T,
    ) -> Result<Vec<PathBuf>, ReportError> {
        let mut files = Files {
            folder,
            written: Vec::new(),
        };
        fs::create_dir_all(folder).map_err(|source| ReportError::Write {
            path: folder.to_path_buf(),
            source,
        })?;
        let name = &self.name;
        files.write(format!("{name}.html"), self.html()?.as_bytes())?;
        let json = serde_json::to_string_pretty(&Json {
            environment: &self.environment,
            data,
        })?;
        files.write(format!("{name}.json"), (json + "\n").as_bytes())?;
        for part in &self.parts {
            match part {
                Part::Table(table, cells) => {
                    files.write(format!("{name}-{table}.csv"), cells.csv().as_bytes())?;
                }
                Part::Figure {
                    name: figure,
                    chart,
                    ..
                } => {
                    let svg = chart.svg()?;
                    let picture = png(&svg).map_err(|words| ReportError::Draw {
                        chart: chart.title().to_owned(),
                        words,
                    })?;
                    files.write(format!("{name}-{figure}.svg"), svg.as_bytes())?;
                    files.write(format!("{name}-{figure}.png"), &picture)?;
                }
                Part::Section(_) | Part::Text(_) | Part::Verdict(..) => {}
            }
        }
        Ok(files.written)
    }
}

/// Data with where it comes from.
#[derive(Serialize)]
struct Json<'a, T> {
    environment: &'a Environment,
    #[serde(flatten)]
    data: &'a T,
}

struct Files<'a> {
    folder: &'a Path,
    written: Vec<PathBuf>,
}

impl Files<'_> {
    fn write(&mut self, name: String, bytes: &[u8]) -> Result<(), ReportError> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).map_err(|source| ReportError::Write {
            path: path.clone(),
            source,
        })?;
        self.written.push(path);
        Ok(())
    }
}
