//! The documentation and the comments use plain English and the field's terms: the test finds
//! expressions of the dialect in which they were once written, and suggests better ones.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A word or phrase of the dialect.
struct Banned {
    /// What is looked for, by whole words, whatever the case.
    phrase: &'static str,
    /// What to write instead.
    better: &'static str,
    /// Longer phrases in which it is ordinary English or the field's own term.
    fine_in: &'static [&'static str],
}

const fn banned(phrase: &'static str, better: &'static str) -> Banned {
    Banned {
        phrase,
        better,
        fine_in: &[],
    }
}

/// The list. Commands, paths and output in code (`` `--anew` ``) are not looked at.
const DIALECT: &[Banned] = &[
    banned("access line", "access link"),
    banned("access lines", "access links"),
    banned("aloud", "with a message"),
    banned("anew", "again; full reload"),
    banned("as above", "repeat the noun"),
    banned("as said next", "name the section"),
    banned("at hand", "available"),
    banned(
        "beside",
        "besides, next to, in parallel with, compared with",
    ),
    banned("broken off", "aborted, interrupted"),
    banned("busy all over", "saturated"),
    banned("all over for", "saturated for"),
    banned("by the clock", "on a schedule, at set times"),
    banned("carrying a plan out", "apply a plan"),
    banned("dealt out", "distributed"),
    banned("deals its", "distributes its"),
    banned("deals out", "distributes"),
    banned("every so manyth", "every N-th"),
    banned("fell silent", "missed its heartbeats"),
    banned("gets on", "makes progress"),
    banned("in sight", "visible, accessible"),
    banned("in turns", "alternately, interleaved"),
    banned("it lacks", "is missing (name what)"),
    banned("its like", "similar (name the things)"),
    banned("little by little", "gradually"),
    banned("made real", "loaded"),
    banned("make it real", "load it"),
    banned("makes it real", "loads it"),
    banned("makes a topology real", "loads a topology"),
    banned("makes the file's events happen", "runs the file's events"),
    banned("makes up for", "catches up on, compensates"),
    banned("moods", "background load"),
    banned("none of none", "`None` if empty"),
    Banned {
        phrase: "of such",
        better: "name the thing",
        fine_in: &["number of such"],
    },
    banned("out of sight", "not visible, not accessible"),
    banned("put back", "restored, reverted"),
    banned("puts back", "restores"),
    banned("puts everything back", "restores everything"),
    banned("restless", "noisy, unstable"),
    banned("so many", "the number, N"),
    banned("so manyth", "N-th"),
    banned("taken back", "undone, reverted"),
    banned("takes back", "undoes, reverts"),
    banned("taking back", "undoing"),
    banned("that many", "the number"),
    banned("their like", "similar (name the things)"),
    banned("to its end", "to completion"),
    banned("what it lacks", "what is missing"),
    banned("who comes", "the client (node, process) that comes"),
    banned("who gets what", "the share of each"),
    banned("who holds what", "which host carries which vnodes"),
    banned("who is who", "each host's rank"),
    banned("who takes", "the process that takes"),
    banned("who there is", "the nodes"),
    banned("who waits", "which program waits"),
    banned("whose is whose", "which host carries which part"),
    Banned {
        phrase: "word",
        better: "message, status, text, field",
        fine_in: &["machine word", "bit word", "plain word"],
    },
    Banned {
        phrase: "words",
        better: "messages, text, wording, fields",
        fine_in: &["machine words", "bit words", "in other words"],
    },
    banned("yardstick", "reference, baseline"),
];

/// A place where a phrase of the list stands.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: usize,
    phrase: &'static str,
    better: &'static str,
}

/// A word of the prose in lower case, and its line; a break has no text: no phrase goes
/// across the end of a clause, a cell of a table or a piece of code.
#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

/// The words of a Markdown text outside code, with breaks.
fn tokens(markdown: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut in_fence = false;
    let mut in_code = false;
    for (index, text) in markdown.lines().enumerate() {
        let line = index + 1;
        let mut push = |text: &str| {
            tokens.push(Token {
                text: text.to_lowercase(),
                line,
            });
        };
        let trimmed = text.trim_start();
        if trimmed.starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence || trimmed.starts_with("```") || trimmed.is_empty() {
            in_code = false;
            push("");
            continue;
        }
        let mut word = String::new();
        for c in text.chars().chain([' ']) {
            let is_inside = c.is_alphanumeric() || c == '\'' || c == '_';
            if is_inside && !in_code {
                word.push(c);
                continue;
            }
            if !word.is_empty() {
                push(&word);
                word.clear();
            }
            match c {
                '`' => {
                    in_code = !in_code;
                    push("");
                }
                '.' | ',' | ';' | ':' | '!' | '?' | '(' | ')' | '[' | ']' | '|' => push(""),
                _ => {}
            }
        }
    }
    tokens
}

/// Whether the tokens from a place on are the words of a phrase.
fn is_at(tokens: &[Token], start: usize, phrase: &str) -> bool {
    let mut rest = tokens[start..].iter();
    phrase
        .split(' ')
        .all(|word| rest.next().is_some_and(|token| token.text == word))
}

/// Whether the phrase at a place is part of a longer one that is fine.
fn is_fine(tokens: &[Token], start: usize, entry: &Banned) -> bool {
    entry.fine_in.iter().any(|fine| {
        let length = fine.split(' ').count();
        (start.saturating_sub(length - 1)..=start).any(|from| is_at(tokens, from, fine))
    })
}

fn findings(markdown: &str) -> Vec<Finding> {
    let tokens = tokens(markdown);
    let mut found = Vec::new();
    for start in 0..tokens.len() {
        for entry in DIALECT {
            if is_at(&tokens, start, entry.phrase) && !is_fine(&tokens, start, entry) {
                found.push(Finding {
                    line: tokens[start].line,
                    phrase: entry.phrase,
                    better: entry.better,
                });
            }
        }
    }
    found
}

fn files_below(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                files_below(&path, extension, files);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
}

/// The comments of a source file as text; all other lines are empty, so that line numbers stay.
fn comments(source: &str) -> String {
    let comment = |line: &str| {
        let line = line.trim_start();
        let text = ["///", "//!", "//"]
            .iter()
            .find_map(|m| line.strip_prefix(m));
        format!("{}\n", text.unwrap_or_default())
    };
    source.lines().map(comment).collect()
}

/// The findings in files as text; `part` is the part of a file that counts.
fn report(root: &Path, files: &[PathBuf], part: impl Fn(&str) -> String) -> String {
    let mut report = String::new();
    for file in files {
        let text = part(&fs::read_to_string(file).unwrap());
        let name = file.strip_prefix(root).unwrap().display();
        for Finding {
            line,
            phrase,
            better,
        } in findings(&text)
        {
            report += &format!("{name}:{line}: {phrase:?}; write: {better}\n");
        }
    }
    report
}

/// Folders with all crates, whose comments are checked.
const CRATES: [&str; 6] = [
    "emu-common",
    "emu-ebpf",
    "emu-userspace",
    "experiments",
    "tests",
    "xtask/src",
];

#[test]
fn the_comments_are_in_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for folder in CRATES {
        files_below(&root.join(folder), "rs", &mut files);
    }
    // The list of the dialect is in this file.
    files.retain(|file| !file.ends_with("tests/plain_english.rs"));
    files.sort();
    files.dedup();
    assert!(files.len() > 100, "only {} files", files.len());
    let report = report(&root, &files, comments);
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn the_documentation_is_in_plain_english() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    files_below(&root.join("docs"), "md", &mut files);
    assert!(files.len() > 5, "docs/ has only {files:?}");
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
        "SECURITY.md",
    ] {
        let path = root.join(name);
        // Not all of them have to be there; those that have to are linked from others.
        if path.exists() {
            files.push(path);
        }
    }
    files.sort();
    let report = report(&root, &files, str::to_owned);
    assert!(report.is_empty(), "\n{report}");
}

#[cfg(test)]
mod matcher {
    use super::*;

    fn phrases(markdown: &str) -> Vec<(usize, &'static str)> {
        let found = findings(markdown);
        found.iter().map(|f| (f.line, f.phrase)).collect()
    }

    #[test]
    fn finds_whole_words_whatever_the_case() {
        assert_eq!(phrases("It starts Anew."), [(1, "anew")]);
        assert!(phrases("besides, renewed, passwords, wordy").is_empty());
    }

    #[test]
    fn finds_phrases_across_the_end_of_a_line() {
        assert_eq!(phrases("A title\n\nbusy\nall over"), [(3, "busy all over")]);
        assert_eq!(phrases("- in\n  sight of it"), [(1, "in sight")]);
    }

    #[test]
    fn no_phrase_goes_across_a_clause_a_cell_or_a_paragraph() {
        for text in [
            "it is so; many do",
            "| so | many |",
            "so\n\nmany",
            "so `x` many",
        ] {
            assert!(phrases(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn leaves_code_alone() {
        assert!(phrases("use `--anew`, and `words`").is_empty());
        assert!(phrases("```console\n# emu load --anew\n```\n").is_empty());
        assert_eq!(phrases("```\nx\n```\nanew"), [(4, "anew")]);
        assert_eq!(phrases("`a\nanew` b anew"), [(2, "anew")]);
    }

    #[test]
    fn leaves_ordinary_uses_alone() {
        assert!(phrases("one 64-bit word, in other words: two").is_empty());
        assert_eq!(phrases("a host's word"), [(1, "word")]);
    }

    #[test]
    fn every_phrase_of_the_list_is_found_and_has_a_better_one() {
        for entry in DIALECT {
            let text = format!("before {} after", entry.phrase);
            let found = findings(&text);
            assert!(
                found.iter().any(|f| f.phrase == entry.phrase),
                "{}",
                entry.phrase
            );
            assert!(!entry.better.is_empty());
            let better = findings(entry.better);
            assert!(better.is_empty(), "{}: {better:?}", entry.phrase);
        }
    }
}
