//! What is wrong with a file, and where.
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
