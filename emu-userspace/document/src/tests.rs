use proptest::prelude::*;

use super::{Node, Value, document};

/// Plain scalars that a schema of YAML 1.1 or 1.2 makes something else of: booleans, nulls,
/// octal, hexadecimal, binary and sexagesimal numbers, floats, dates, merge and value
/// keys.
const TRAPS: &[&str] = &[
    "y",
    "Y",
    "n",
    "N",
    "yes",
    "Yes",
    "YES",
    "no",
    "No",
    "NO",
    "on",
    "On",
    "ON",
    "off",
    "Off",
    "OFF",
    "true",
    "True",
    "TRUE",
    "false",
    "False",
    "FALSE",
    "null",
    "Null",
    "NULL",
    "~",
    "012",
    "0o14",
    "0x10",
    "0b11",
    "1_000",
    "+5",
    "-5",
    "00",
    "-0",
    "1e2",
    "1e3",
    "1E3",
    "1.",
    ".5",
    "1.0",
    "1.10",
    "1.20",
    "+.5",
    ".inf",
    "-.inf",
    ".Inf",
    ".nan",
    ".NaN",
    "12:30:45",
    "190:20:30",
    "2001-01-01",
    "2001-12-14t21:59:43.10-05:00",
    "=",
    "0",
    "1",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "1e400",
    "0.1e-400",
    "123456789012345678901.10",
];

fn scalar(node: &Node) -> &str {
    match &node.value {
        Value::Scalar(text) | Value::Nothing(text) => text,
        other => panic!("{} is no scalar", other.kind()),
    }
}

fn map(text: &str) -> Vec<(String, String)> {
    match document(text)
        .unwrap_or_else(|e| panic!("{text}: {e:?}"))
        .value
    {
        Value::Map(entries) => entries
            .iter()
            .map(|e| (e.key.clone(), scalar(&e.value).to_owned()))
            .collect(),
        other => panic!("{} is no map", other.kind()),
    }
}

#[test]
fn every_trap_is_the_text_that_stands_there() {
    for trap in TRAPS {
        for text in [
            format!("{trap}: {trap}"),
            format!("{{{trap}: {trap}}}"),
            format!("\"{trap}\": '{trap}'"),
            format!("{trap}: !!str {trap}"),
            format!("? {trap}\n: {trap}\n"),
        ] {
            let expected = vec![((*trap).to_owned(), (*trap).to_owned())];
            assert_eq!(map(&text), expected, "{text}");
        }
        let Value::List(list) = document(&format!("[{trap}, {trap}]"))
            .expect("a list")
            .value
        else {
            panic!("no list");
        };
        assert!(list.iter().all(|node| scalar(node) == *trap), "{trap}");
    }
}

#[test]
fn only_a_missing_scalar_is_without_text() {
    for text in ["a:", "{a: }", "{a}", "a: # nothing\n", "a: !!null"] {
        assert_eq!(map(text), [("a".to_owned(), String::new())], "{text}");
    }
    assert_eq!(map("a: ~")[0].1, "~");
    let quoted = document("a: \"\"").expect("a map").value;
    let Value::Map(entries) = quoted else {
        panic!("no map")
    };
    assert!(matches!(&entries[0].value.value, Value::Scalar(text) if text.is_empty()));
}

#[test]
fn aliases_and_merged_maps_are_expanded() {
    assert_eq!(
        map("{x: 1, <<: {x: 2, y: no}, z: 3}"),
        [("x", "1"), ("z", "3"), ("y", "no")].map(|(k, v)| (k.to_owned(), v.to_owned()))
    );
    let Value::Map(entries) = document("a: &a {k: 012}\nb: *a\nc: {<<: [*a, {k: 2, l: 3}]}")
        .expect("a map")
        .value
    else {
        panic!("no map")
    };
    let inner = |i: usize| match &entries[i].value.value {
        Value::Map(entries) => entries
            .iter()
            .map(|e| format!("{}={}", e.key, scalar(&e.value)))
            .collect::<Vec<_>>()
            .join(" "),
        other => panic!("{} is no map", other.kind()),
    };
    assert_eq!(inner(0), "k=012");
    assert_eq!(inner(1), "k=012");
    assert_eq!(inner(2), "k=012 l=3");
    assert_eq!(entries[1].value.at.line, 2);
}

#[test]
fn what_is_no_document_is_refused_with_its_place() {
    for (text, line, message) in [
        ("a: 1\n---\nb: 2\n", 2, "a second document begins here"),
        ("a: !!binary aGk=", 1, "the tag `!!binary` is not known"),
        ("a: !x 1", 1, "the tag `!x` is not known"),
        ("{[a]: 1}", 1, "a list where a key should be"),
        (
            "a: &a [*a]",
            1,
            "this alias refers to a part of the file that contains it: a cycle",
        ),
        ("a: 1\n<<: 2", 2, "`<<` merges maps, and this is none"),
    ] {
        let problem = document(text).expect_err(text);
        assert_eq!(
            (problem.at.line, &*problem.message),
            (line, message),
            "{text}"
        );
    }
}

/// Quotes a text as YAML's double-quoted style.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out + "\""
}

proptest! {
    /// Any plain word, in any place.
    #[test]
    fn plain_words_are_kept(word in "[A-Za-z0-9+.~_=][A-Za-z0-9+.~_=:/-]{0,15}[A-Za-z0-9+._=/-]") {
        for text in [format!("k: {word}"), format!("k: [{word}]"), format!("- {{{word}: {word}}}")] {
            let mut node = document(&text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            loop {
                node = match node.value {
                    Value::Map(mut entries) => {
                        let entry = entries.remove(0);
                        if entry.key != "k" {
                            prop_assert_eq!(&entry.key, &word);
                        }
                        entry.value
                    }
                    Value::List(mut list) => list.remove(0),
                    Value::Scalar(text) | Value::Nothing(text) => {
                        prop_assert_eq!(&text, &word);
                        break;
                    }
                };
            }
        }
    }

    /// Any text at all, quoted.
    #[test]
    fn quoted_texts_are_kept(text in any::<String>()) {
        let quoted = quoted(&text);
        if quoted.len() < 1000 {
            prop_assert_eq!(map(&format!("{{{quoted}: {quoted}}}")), vec![(text.clone(), text)]);
        }
    }

    /// Nothing that is not YAML ends the process.
    #[test]
    fn no_text_panics(text in "[-a&*!|>'\"%@`{}\\[\\],:?#<~\\n\\t 0-9]{0,60}") {
        let _ = document(&text);
    }
}
