//! A strict parser of the OpenMetrics text format (version 1.0.0), which panics with the
//! offending line.
use std::collections::{BTreeMap, BTreeSet};

/// A sample with its name, labels and value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name including the suffix, for example `_total`.
    pub name: String,
    /// Values of the labels by their names.
    pub labels: BTreeMap<String, String>,
    /// Value; timestamps are not kept.
    pub value: f64,
}

/// A parsed scrape.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Type of each metric family by its name.
    pub types: BTreeMap<String, String>,
    /// All samples, in their order.
    pub samples: Vec<Sample>,
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next();
    first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Parses label pairs; also returns the text after the closing brace.
fn labels(text: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.starts_with('}') {
        let (key, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        assert!(is_name(key), "label {key:?} in {text}");
        let mut end = None;
        let (mut plain, mut escaped) = (String::new(), false);
        for (at, c) in value.char_indices() {
            match (escaped, c) {
                (true, 'n') => plain.push('\n'),
                (true, '"' | '\\') => plain.push(c),
                (true, _) => panic!("escape \\{c} in {text}"),
                (false, '\\') => {}
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (false, c) => plain.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        let end = end.unwrap_or_else(|| panic!("unterminated value of {key} in {text}"));
        assert!(
            labels.insert(key.to_owned(), plain).is_none(),
            "twice {key} in {text}"
        );
        rest = &value[end + 1..];
        rest = match rest.strip_prefix(',') {
            Some(more) if !more.starts_with('}') => more,
            Some(_) => panic!("comma before the brace: {text}"),
            None => {
                assert!(rest.starts_with('}'), "{text}");
                rest
            }
        };
    }
    (labels, &rest[1..])
}

/// Suffixes of the samples of a metric type.
fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "counter" => &["_total", "_created"],
        "gauge" => &[""],
        "histogram" => &["_bucket", "_count", "_sum", "_created"],
        "info" => &["_info"],
        other => panic!("type {other}"),
    }
}

/// Parses a scrape.
///
/// # Panics
/// If the text violates the format.
pub fn parse(text: &str) -> Scrape {
    let mut scrape = Scrape::default();
    assert!(
        text.ends_with("# EOF\n"),
        "no EOF: {:?}",
        text.lines().last()
    );
    let (mut family, mut seen) = (String::new(), BTreeSet::new());
    let mut described: BTreeSet<(String, String)> = BTreeSet::new();
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[..lines.len() - 1] {
        assert!(!line.is_empty() && !line.starts_with(' '), "{line:?}");
        if let Some(comment) = line.strip_prefix("# ") {
            let mut fields = comment.splitn(3, ' ');
            let (what, name) = (fields.next().unwrap(), fields.next().unwrap());
            assert!(
                ["HELP", "TYPE", "UNIT"].contains(&what) && is_name(name),
                "{line}"
            );
            assert!(
                described.insert((what.into(), name.into())),
                "twice: {line}"
            );
            if name != family {
                assert!(
                    seen.insert(name.to_owned()),
                    "family {name} is in two places"
                );
                name.clone_into(&mut family);
            }
            if what == "TYPE" {
                scrape
                    .types
                    .insert(name.into(), fields.next().unwrap().into());
            }
            continue;
        }
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
        let (name, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest),
            None => (BTreeMap::new(), rest),
        };
        let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let kind = scrape
            .types
            .get(&family)
            .unwrap_or_else(|| panic!("no type: {line}"));
        let suffix = name
            .strip_prefix(family.as_str())
            .unwrap_or_else(|| panic!("{line}"));
        assert!(
            is_name(name) && suffixes(kind).contains(&suffix),
            "{line} in a {kind}"
        );
        assert!(
            kind == "gauge" || value >= 0.0 && value.is_finite(),
            "{line}"
        );
        let sample = Sample {
            name: name.into(),
            labels,
            value,
        };
        let same = |s: &Sample| s.name == sample.name && s.labels == sample.labels;
        assert!(
            !scrape.samples.iter().rev().take(4_000).any(same),
            "twice: {line}"
        );
        scrape.samples.push(sample);
    }
    scrape
}

impl Scrape {
    /// Sum of all samples with this name and these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |s: &&Sample| {
            s.name == name
                && labels
                    .iter()
                    .all(|(k, v)| s.labels.get(*k).is_some_and(|have| have == v))
        };
        self.samples.iter().filter(has).map(|s| s.value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn refuses(text: &str) -> bool {
        let text = text.to_owned();
        std::panic::catch_unwind(move || parse(&text)).is_err()
    }

    #[test]
    fn invalid_text_is_refused() {
        let good = "# HELP a A.\n# TYPE a counter\na_total{x=\"1,\\\"2\\\"}\u{20}3\n# EOF\n";
        assert_eq!(parse(good).sum("a_total", &[("x", "1,\"2\"")]), 3.0);
        for bad in [
            "# TYPE a counter\na_total 3\n",
            "# TYPE a counter\na 3\n# EOF\n",
            "a_total 3\n# EOF\n",
            "# TYPE a counter\na_total 3\n\n# EOF\n",
            "# TYPE a counter\na_total 3\na_total 4\n# EOF\n",
            "# TYPE a counter\na_total{x=1} 3\n# EOF\n",
            "# TYPE a counter\na_total{x=\"1\",} 3\n# EOF\n",
            "# TYPE a counter\na_total -3\n# EOF\n",
            "# TYPE a gauge\n# TYPE b gauge\nb 1\n# TYPE a gauge\n# EOF\n",
        ] {
            assert!(refuses(bad), "{bad}");
        }
    }
}
