//! The errors of a topology file, each with its position and a fix.
use std::{fmt, path::PathBuf};

pub use emu_document::{Position, Problem};
use serde::Serialize;

use crate::name::printable;

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

/// Problems of one file that are shown; the others are counted.
const SHOWN_PROBLEMS: usize = 50;

/// Problems of one file that are looked for.
pub(crate) const MOST_PROBLEMS: usize = 10_000;

impl fmt::Display for TopologyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        let file = printable(&file);
        let shown = self.problems.iter().take(SHOWN_PROBLEMS);
        let mut lines = lines(&self.source);
        let mut passed = 0;
        let mut line: Option<(u32, &str)> = None;
        for problem in shown {
            // The problems are in the order of their lines, so each line is read once.
            while passed < problem.at.line {
                passed += 1;
                line = lines.next().map(|text| (passed, text));
            }
            let text = line.filter(|(number, _)| *number == problem.at.line);
            write_problem(f, &file, text.map(|(_, text)| text), problem)?;
        }
        let count = self.problems.len();
        if count > SHOWN_PROBLEMS {
            let more = count - SHOWN_PROBLEMS;
            writeln!(f, "and {more} more, which --json lists\n")?;
        }
        let least = if count < MOST_PROBLEMS {
            ""
        } else {
            "at least "
        };
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{file}: {least}{count} error{plural}")
    }
}

/// The lines of a text as YAML counts them (YAML 1.2.2, 5.4): a carriage return alone ends one,
/// too.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.filter(|text| !text.is_empty())?;
        let Some(end) = text.find(['\r', '\n']) else {
            rest = None;
            return Some(text);
        };
        let (line, after) = text.split_at(end);
        rest = Some(after.strip_prefix("\r\n").unwrap_or(&after[1..]));
        Some(line)
    })
}

fn write_problem(
    f: &mut fmt::Formatter<'_>,
    file: &str,
    text: Option<&str>,
    problem: &Problem,
) -> fmt::Result {
    let Position { line, column } = problem.at;
    writeln!(f, "error: {}", printable(&problem.message))?;
    let path = if problem.path.is_empty() {
        String::new()
    } else {
        format!(" ({})", printable(&problem.path))
    };
    if line == 0 {
        writeln!(f, "  --> {file}{path}")?;
    } else {
        writeln!(f, "  --> {file}:{line}:{column}{path}")?;
    }
    if let Some(text) = text {
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        let shown: String = text.chars().take(SHOWN_COLUMNS).collect();
        let before = (column as usize).saturating_sub(1).min(SHOWN_COLUMNS);
        let before: String = text.chars().take(before).collect();
        // Tabs stay tabs, so that the caret lines up in a terminal.
        let indent: String = printable(&before)
            .chars()
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(f, " {gutter} |")?;
        writeln!(f, " {number} | {}", printable(&shown))?;
        writeln!(f, " {gutter} | {indent}^")?;
    }
    if let Some(expected) = &problem.expected {
        writeln!(f, "   = expected: {}", printable(expected))?;
    }
    if let Some(hint) = &problem.hint {
        writeln!(f, "   = hint: {}", printable(hint))?;
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

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn lines_are_counted_as_the_parser_counts_them() {
        let counted = |text| lines(text).collect::<Vec<_>>();
        assert_eq!(counted("a\nb\r\nc\rd"), ["a", "b", "c", "d"]);
        assert_eq!(counted("\r\r\n\n"), ["", "", ""]);
        let error = crate::topology::parse("version: 1\r\rgroups: [\rx: 'y' z\r", "t.yaml");
        let text = error.expect_err("no YAML").to_string();
        assert!(text.contains("x: 'y' z"), "{text}");
    }
}
