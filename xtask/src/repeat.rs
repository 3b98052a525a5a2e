//! The same run twice in virtual time is the same run: a step of `cargo xtask test`.
use std::{
    collections::BTreeSet,
    fs,
    hint::black_box,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Instant,
};

use anyhow::Context;
use serde_json::Value;

use crate::{
    suite,
    tally::Tally,
    vm::{self, Request, virtual_time::VirtualTime},
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
/// Number of runs in CI; other steps run at the same time.
pub const IN_CI: usize = 2;
/// Run number K has K modulo this many busy threads of this process as background load.
const LOADS: usize = 4;

/// Runs each workload `times` times, with different background loads, and compares the
/// digests of what happened.
pub fn run(object: &Path, times: usize, print: impl Fn(&str)) -> anyhow::Result<Tally> {
    let emu = suite::measurements(object)?;
    let mut tally = Tally::default();
    for (name, words) in RUNS {
        let mut seconds = Vec::new();
        let outcomes: Vec<Outcome> = (0..times)
            .map(|number| {
                let start = Instant::now();
                let outcome = under_load(number % LOADS, || once(&emu, words));
                seconds.push(start.elapsed().as_secs_f64());
                outcome.with_context(|| name)
            })
            .collect::<anyhow::Result<_>>()?;
        let different: BTreeSet<&str> = outcomes.iter().map(|o| o.digest.as_str()).collect();
        let spins: u64 = outcomes.iter().map(|o| o.spins).sum();
        print(&format!(
            "{name}: {times} runs of {:.1} to {:.1} s, {} different, {spins} spins, digest {}",
            seconds.iter().copied().fold(f64::INFINITY, f64::min),
            seconds.iter().copied().fold(0.0, f64::max),
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

/// Does `work` while this number of threads compute.
fn under_load<T>(threads: usize, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut number = 0_u64;
                while !done.load(Relaxed) {
                    number = black_box(number.wrapping_add(1));
                }
            });
        }
        let outcome = work();
        done.store(true, Relaxed);
        outcome
    })
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
    let status = vm::run(
        &vm::quick_kernel(),
        &Request {
            clock: Some(VirtualTime::default()),
            ..Request::new(argv)
        },
    )?;
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

/// An argument, quoted for a shell.
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
