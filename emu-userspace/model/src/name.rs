//! Names, and text that is safe to print.
//!
//! Names of hosts, groups, programs, topologies and runs become names of folders and
//! files, columns of tables and labels of metrics. All of them follow one rule.
use std::{borrow::Cow, fmt, ops::Deref};

use serde::{Deserialize, Serialize};

/// The rule as text for errors.
pub const RULE: &str =
    "1 to 63 letters, digits, `.`, `_` and `-`, and no `.` or `-` at the beginning";

/// What stands for a number in a [`NameTemplate`].
const RANK: &str = "{rank}";

/// A name that follows the rule: 1 to 63 ASCII letters, digits, `.`, `_` and `-`. It does
/// not begin with `.`, since it is the name of a folder, nor with `-`, since it is an
/// argument of commands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// A text that is no [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a name: expected {RULE}", printable(.0))]
pub struct NameError(String);

impl Name {
    /// Checks a text.
    ///
    /// # Errors
    /// The text does not follow the rule.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let fits = (1..=63).contains(&text.len())
            && !text.starts_with(['.', '-'])
            && text.chars().all(good);
        if fits {
            Ok(Self(text))
        } else {
            Err(NameError(text))
        }
    }

    /// A name that stands in emu's own code.
    pub(crate) fn fixed(text: &'static str) -> Self {
        debug_assert!(Self::new(text).is_ok(), "{text} is not a name");
        Self(text.to_owned())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name with `{rank}` for a number, as in `node-{rank}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameTemplate(String);

impl NameTemplate {
    /// Checks a text: with every number it must be a [`Name`].
    ///
    /// # Errors
    /// It has no `{rank}`, or the names do not follow the rule.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if !text.contains(RANK) {
            return Err(NameError(text));
        }
        // The rule does not depend on the digits, and no number is longer.
        match Name::new(text.replace(RANK, &u32::MAX.to_string())) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err(NameError(text)),
        }
    }

    /// The name with this number.
    pub fn name(&self, rank: u32) -> Name {
        Name(self.0.replace(RANK, &rank.to_string()))
    }
}

/// `h{rank}`.
impl Default for NameTemplate {
    fn default() -> Self {
        Self(format!("h{RANK}"))
    }
}

/// Reads a text that must be a [`Name`], for a field of a file that another host wrote.
///
/// # Errors
/// The text is not a name.
pub fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Name::deserialize(deserializer).map(String::from)
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<String> for Name {
    fn eq(&self, other: &String) -> bool {
        self.0 == *other
    }
}

impl PartialEq<Name> for String {
    fn eq(&self, other: &Name) -> bool {
        *self == other.0
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

/// Whether a character would control a terminal, or change the order in which it shows
/// others.
fn is_control(c: char) -> bool {
    let reorders =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders
}

/// The text with control characters as escapes (`\u{1b}`); line feeds and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    let escaped = |c: char| is_control(c) && c != '\n' && c != '\t';
    if !text.contains(escaped) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if escaped(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// JSON with the control characters that its strings may hold as escapes.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let escaped = |c: char| is_control(c) && !c.is_ascii_whitespace();
    if !json.contains(escaped) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if escaped(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in [
            "a",
            "no",
            "1e3",
            "0",
            "_x",
            "a.b-c_d",
            "null",
            &"x".repeat(63),
        ] {
            assert_eq!(Name::new(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "a/b",
            "a b",
            "é",
            "a\n",
            "a\0",
            "\u{1b}[31m",
            &"x".repeat(64),
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?} was taken for a name");
        }
    }

    #[test]
    fn names_with_a_rank_are_names_for_every_rank() {
        let long = format!("{}{RANK}", "x".repeat(53));
        for good in ["{rank}", "node-{rank}", "{rank}.{rank}", &long] {
            let template = NameTemplate::new(good).unwrap_or_else(|e| panic!("{e}"));
            for rank in [0, 9, 4_095, u32::MAX] {
                let name = template.name(rank);
                assert_eq!(Name::new(name.as_str()), Ok(name));
            }
        }
        for bad in ["node", "-{rank}", "a/{rank}", "{rank", &format!("x{long}")] {
            assert!(NameTemplate::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_checked_when_they_are_read_from_a_file() {
        assert!(serde_json::from_str::<Name>("\"../../x\"").is_err());
        assert!(serde_json::from_str::<Name>("\"h1\"").is_ok_and(|n| n == "h1"));
    }

    proptest! {
        #[test]
        fn no_error_and_no_printable_text_controls_the_terminal(text in "\\PC*|[\\x00-\\x7f\u{80}-\u{9f}\u{202e}]*") {
            let shown = printable(&text);
            prop_assert!(!shown.contains(|c| is_control(c) && c != '\n' && c != '\t'));
            let json = serde_json::to_string(&text).expect("JSON");
            let safe = printable_json(&json);
            prop_assert!(!safe.contains(is_control));
            prop_assert_eq!(serde_json::from_str::<String>(&safe).expect("JSON"), text.clone());
            if let Err(e) = Name::new(text) {
                prop_assert!(!e.to_string().contains(|c| is_control(c) && c != '\n' && c != '\t'));
            }
        }
    }
}
