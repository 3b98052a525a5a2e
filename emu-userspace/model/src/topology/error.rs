//! The errors of a topology file, each with its position and a fix.
use std::{fmt, path::PathBuf};

use serde::Serialize;

/// A position in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Position {
    /// Line, from 1; 0 when unknown.
    pub line: u32,
    /// Column in characters, from 1; 0 when unknown.
    pub column: u32,
}

/// One problem of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Its position.
    #[serde(flatten)]
    pub at: Position,
    /// Path in the document, for example `groups.modem.nodes`.
    pub path: String,
    /// Description of the problem.
    pub message: String,
    /// What would be valid.
    pub expected: Option<String>,
    /// A suggestion.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without expectation or hint.
    pub fn new(at: Position, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            at,
            path: path.into(),
            message: message.into(),
            expected: None,
            hint: None,
        }
    }

    /// Adds what would be valid.
    #[must_use]
    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = Some(text.into());
        self
    }

    /// Adds a suggestion.
    #[must_use]
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }

    /// Adds a suggestion if there is one.
    #[must_use]
    pub fn maybe_hint(mut self, text: Option<String>) -> Self {
        self.hint = self.hint.or(text);
        self
    }
}

/// All problems of a file, in the order of their positions. Printed as a compiler prints
/// errors, with the line and a caret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopologyErrors {
    /// The file, by the name that the user gave.
    pub file: PathBuf,
    /// The problems, at least one.
    pub problems: Vec<Problem>,
    #[serde(skip)]
    source: String,
}

impl std::error::Error for TopologyErrors {}

impl TopologyErrors {
    /// Sorts the problems by position and removes duplicates.
    pub(crate) fn new(file: &str, source: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| (a.at, &a.message).cmp(&(b.at, &b.message)));
        problems.dedup();
        Self {
            file: file.into(),
            problems,
            source: source.to_owned(),
        }
    }

    /// The problems as a JSON object `{"file", "problems": [...]}`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// Longest piece of a source line in the output.
const SHOWN_COLUMNS: usize = 160;

impl fmt::Display for TopologyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            write_problem(f, &self.file.display().to_string(), &self.source, problem)?;
        }
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{}: {count} error{plural}", self.file.display())
    }
}

fn write_problem(
    f: &mut fmt::Formatter<'_>,
    file: &str,
    source: &str,
    problem: &Problem,
) -> fmt::Result {
    let Position { line, column } = problem.at;
    writeln!(f, "error: {}", problem.message)?;
    let path = if problem.path.is_empty() {
        String::new()
    } else {
        format!(" ({})", problem.path)
    };
    if line == 0 {
        writeln!(f, "  --> {file}{path}")?;
    } else {
        writeln!(f, "  --> {file}:{line}:{column}{path}")?;
    }
    let text = source.lines().nth((line as usize).wrapping_sub(1));
    if let Some(text) = text {
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        let shown: String = text.chars().take(SHOWN_COLUMNS).collect();
        let before = (column as usize).saturating_sub(1).min(SHOWN_COLUMNS);
        // Tabs stay tabs, so that the caret lines up in a terminal.
        let indent: String = text
            .chars()
            .take(before)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(f, " {gutter} |")?;
        writeln!(f, " {number} | {shown}")?;
        writeln!(f, " {gutter} | {indent}^")?;
    }
    if let Some(expected) = &problem.expected {
        writeln!(f, "   = expected: {expected}")?;
    }
    if let Some(hint) = &problem.hint {
        writeln!(f, "   = hint: {hint}")?;
    }
    writeln!(f)
}

/// "did you mean" for a name that is similar to a known one.
pub(crate) fn similar<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(name.len()) + 1) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}
