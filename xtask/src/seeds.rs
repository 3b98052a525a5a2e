//! `cargo xtask run --seeds N`: runs one command in virtual time with several seeds, and
//! prints how much each figure of its result varies.
//!
//! One small swarm differs from the next by chance; the distribution over seeds shows what
//! holds for the network. Each VM has a seed of its own, and a processor of its own if there
//! are enough.
#![expect(clippy::print_stdout, reason = "the answer")]
use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, anyhow};
use serde_json::Value;

use crate::vm::{self, Request, virtual_time::VirtualTime};

/// Figures and verdicts of all seeds.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    /// Values by their path in the answer.
    numbers: BTreeMap<String, Vec<f64>>,
    /// Number of verdicts of each kind.
    verdicts: BTreeMap<String, usize>,
}

/// Runs a command of emu with each of the seeds. Its options `--json` and `--out` are set
/// here: each seed has its own result and folder of results.
pub fn run(argv: &[String], seeds: u64, clock: VirtualTime) -> anyhow::Result<u8> {
    let kernel = vm::quick_kernel();
    let folder = tempfile::tempdir()?;
    let next = AtomicU64::new(1);
    let lanes = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let work = || -> anyhow::Result<Vec<(u64, u8)>> {
        let mut statuses = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                return Ok(statuses);
            }
            eprintln!("xtask: seed {seed} of {seeds}");
            let answer = folder.path().join(format!("{seed}.json"));
            let request = Request {
                clock: Some(VirtualTime {
                    seed: Some(seed),
                    ..clock
                }),
                name: Some(format!("seed {seed}")),
                ..Request::new(with_answer(argv, seed, &answer.display().to_string()))
            };
            statuses.push((seed, vm::run(&kernel, &request)?));
        }
    };
    let statuses: Vec<(u64, u8)> = thread::scope(|scope| {
        let running: Vec<_> = (0..lanes.min(seeds)).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for lane in running {
            all.extend(lane.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        anyhow::Ok(all)
    })?;
    let mut figures = Figures::default();
    for seed in 1..=seeds {
        let text = fs::read_to_string(folder.path().join(format!("{seed}.json")))
            .with_context(|| format!("seed {seed} gave no answer"))?;
        let answer = serde_json::from_str(&text)
            .with_context(|| format!("the answer of seed {seed} is not JSON: {text}"))?;
        figures.add("", &answer);
    }
    print!("{}", figures.to_text(seeds));
    let failed: Vec<u64> = statuses
        .iter()
        .filter(|(_, status)| *status != 0)
        .map(|(seed, _)| *seed)
        .collect();
    if !failed.is_empty() {
        println!("failed with these seeds: {failed:?}");
    }
    Ok(u8::from(!failed.is_empty()))
}

/// The command with its JSON result in a file, and its folder of results for the seed.
fn with_answer(argv: &[String], seed: u64, answer: &str) -> Vec<String> {
    let mut argv = argv.to_vec();
    if let Some(at) = argv.iter().position(|word| word == "--out")
        && let Some(folder) = argv.get_mut(at + 1)
    {
        *folder = format!("{folder}-seed-{seed}");
    } else if argv.iter().any(|word| word == "run" || word == "bench") {
        argv.extend(["--out".to_owned(), format!("results-seed-{seed}")]);
    }
    if !argv.iter().any(|word| word == "--json") {
        argv.push("--json".to_owned());
    }
    // "$@" keeps each argument as it is.
    let shell = ["sh", "-c", "exec \"$@\" >\"$0\"", answer];
    shell.into_iter().map(str::to_owned).chain(argv).collect()
}

impl Figures {
    /// Adds the numbers and verdicts of a result. Lists of numbers are counted by their
    /// position; `verdicts` is a list of pairs of a verdict and a text.
    fn add(&mut self, path: &str, value: &Value) {
        match value {
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                self.numbers
                    .entry(path.to_owned())
                    .or_default()
                    .push(number);
            }
            Value::Array(list) if path == "verdicts" => {
                for word in list.iter().filter_map(|verdict| verdict[0].as_str()) {
                    *self.verdicts.entry(word.to_owned()).or_default() += 1;
                }
            }
            Value::Array(list) => {
                for (at, value) in list.iter().enumerate() {
                    self.add(&format!("{path}[{at}]"), value);
                }
            }
            Value::Object(entries) => {
                for (key, value) in entries {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.add(&format!("{path}{dot}{key}"), value);
                }
            }
            _ => {}
        }
    }

    /// A row for each figure that varies, with minimum, median and maximum.
    fn to_text(&self, seeds: u64) -> String {
        let mut text = format!(
            "{:<52} {:>12} {:>12} {:>12}\n",
            "figure", "least", "median", "most"
        );
        for (path, values) in &self.numbers {
            let mut sorted = values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
            if least < most {
                let median = sorted[sorted.len() / 2];
                text += &format!("{path:<52} {least:>12.4} {median:>12.4} {most:>12.4}\n");
            }
        }
        let verdicts: Vec<String> = self
            .verdicts
            .iter()
            .map(|(word, count)| format!("{count} {word}"))
            .collect();
        if !verdicts.is_empty() {
            text += &format!("verdicts over {seeds} seeds: {}\n", verdicts.join(", "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Figures, with_answer};

    #[test]
    fn what_varies_is_told_with_its_spread() {
        let mut figures = Figures::default();
        for apart in [0.5, 2.0, 1.0] {
            let verdicts = json!([
                ["holds", "a"],
                [if apart > 1.5 { "fails" } else { "holds" }, "b"]
            ]);
            let answer = json!({"same": 3, "runs": [{"apart": apart}], "verdicts": verdicts});
            figures.add("", &answer);
        }
        let text = figures.to_text(3);
        let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["runs[0].apart", "0.5000", "1.0000", "2.0000"]);
        assert!(!text.contains("same"), "{text}");
        assert!(
            text.ends_with("verdicts over 3 seeds: 1 fails, 5 holds\n"),
            "{text}"
        );
    }

    #[test]
    fn each_seed_has_results_of_its_own() {
        let argv = ["emu", "run", "e.yaml", "--out", "r"].map(str::to_owned);
        let argv = with_answer(&argv, 2, "/answer");
        assert_eq!(
            argv[3..],
            [
                "/answer", "emu", "run", "e.yaml", "--out", "r-seed-2", "--json"
            ]
        );
        let argv = with_answer(&["emu".to_owned(), "verify".to_owned()], 2, "/answer");
        assert_eq!(argv[4..], ["emu", "verify", "--json"]);
    }
}
