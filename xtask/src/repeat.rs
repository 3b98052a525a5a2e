//! The same run twice in virtual time is the same run: a step of `cargo xtask test`.
use std::{collections::BTreeSet, fs, path::Path};

use anyhow::Context;
use serde_json::Value;

use crate::{
    suite,
    tally::Tally,
    vm::{Request, kernel::Kernel, virtual_time::VirtualTime},
};

/// What runs, with `OUT` for the folder of its results.
const RUNS: [(&str, &str); 4] = [
    ("load", "load topologies/p2plab.yaml --json"),
    ("http", "run experiments/http.yaml --json --out OUT"),
    ("dht", "run experiments/dht.yaml --json --out OUT"),
    (
        "bittorrent",
        "run experiments/bittorrent.yaml --json --out OUT",
    ),
];
/// How often, while other steps keep the machine busy more or less.
const TIMES: usize = 2;

/// Runs each of them some times and compares what they say happened.
pub fn run(object: &Path, print: impl Fn(&str)) -> anyhow::Result<Tally> {
    let emu = suite::measurements(object)?;
    let mut tally = Tally::default();
    for (name, words) in RUNS {
        let outcomes: Vec<Outcome> = (0..TIMES)
            .map(|_| once(&emu, words).with_context(|| name))
            .collect::<anyhow::Result<_>>()?;
        let different: BTreeSet<&str> = outcomes.iter().map(|o| o.digest.as_str()).collect();
        let spins: u64 = outcomes.iter().map(|o| o.spins).sum();
        print(&format!(
            "{name}: {TIMES} runs, {} different, {spins} spins, digest {}",
            different.len(),
            outcomes[0].digest.chars().take(16).collect::<String>()
        ));
        if different.len() == 1 && spins == 0 {
            tally.passed += 1;
        } else {
            tally.failed += 1;
            let failure = format!("the same run twice: {name}: {different:?}, {spins} spins");
            tally.failures.push(failure);
        }
    }
    Ok(tally)
}

/// What a run says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    digest: String,
    spins: u64,
}

fn once(emu: &[String], words: &str) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out").display().to_string();
    let answer = folder.path().join("answer");
    let words = words.replace("OUT", &out);
    // The answer goes to a file: standard output is that of the tests.
    let script = format!(
        "{} {words} >{}",
        emu.iter()
            .map(|word| quoted(word))
            .collect::<Vec<_>>()
            .join(" "),
        quoted(&answer.display().to_string())
    );
    let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let status = Kernel::quick().run(&Request {
        clock: Some(VirtualTime::default()),
        ..Request::new(argv)
    })?;
    anyhow::ensure!(status == 0, "it ended with {status}");
    let text = fs::read_to_string(&answer).context("read the answer")?;
    outcome(&serde_json::from_str(&text)?, &text)
}

/// Of a run its digest; of a load, which has none, all that it says.
fn outcome(answer: &Value, text: &str) -> anyhow::Result<Outcome> {
    let used = &answer["virtual_time"];
    Ok(match answer["digest"].as_str() {
        Some(digest) => Outcome {
            digest: digest.to_owned(),
            spins: used["spins"].as_u64().context("no count of spins")?,
        },
        None => Outcome {
            digest: text.to_owned(),
            spins: 0,
        },
    })
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{outcome, quoted};

    #[test]
    fn runs_are_told_by_their_digest_and_loads_by_all_they_say() {
        let run = json!({"digest": "ab", "virtual_time": {"spins": 3}, "wall": 1});
        let found = outcome(&run, "text").unwrap();
        assert_eq!((found.digest.as_str(), found.spins), ("ab", 3));
        assert_eq!(
            outcome(&json!({"ok": true}), "text").unwrap().digest,
            "text"
        );
        assert!(outcome(&json!({"digest": "ab"}), "").is_err());
    }

    #[test]
    fn quoted_words_stay_one() {
        assert_eq!(quoted("a b'c"), r"'a b'\''c'");
    }
}
