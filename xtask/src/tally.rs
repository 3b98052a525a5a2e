//! Runs a test program and counts its results.
use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::Context;
use serde::Serialize;

/// The results of a test program.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u32,
    /// Tests that failed.
    pub failed: u32,
    /// Tests that could not run, and printed why.
    pub skipped: u32,
    pub seconds: f64,
    /// Names of failed and unfinished tests, and other problems.
    pub failures: Vec<String>,
    /// The reasons for skipped tests.
    pub skips: Vec<String>,
    /// What failed tests printed, as the test program reports it at its end.
    #[serde(skip)]
    pub reports: Vec<String>,
    /// The slowest tests with their seconds, if the tests run one by one.
    pub slowest: Vec<(String, f64)>,
}

/// Number of tests in that list.
const SLOWEST: usize = 5;
/// Lines of the reports that are kept.
const MOST_REPORTED: usize = 400;

impl Tally {
    /// Runs a test program; each line goes to `print` immediately.
    pub fn run(mut command: Command, print: impl Fn(&str)) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        let mut tally = match child.stdout.take() {
            Some(stdout) => Self::read(stdout, print)?,
            None => Self::default(),
        };
        let status = child.wait()?;
        if !status.success() && tally.failed == 0 {
            tally.failures.push(format!("the run ended with {status}"));
        }
        tally.seconds = start.elapsed().as_secs_f64();
        Ok(tally)
    }

    /// The result of something that cannot run.
    pub fn skipped(why: &str, print: impl Fn(&str)) -> Self {
        let line = format!("SKIPPED {why}");
        print(&line);
        Self {
            skipped: 1,
            skips: vec![line],
            ..Self::default()
        }
    }

    /// Whether all tests that ran passed, and the run was complete.
    pub fn ok(&self) -> bool {
        self.failed == 0 && self.failures.is_empty()
    }

    fn read(lines: impl Read, print: impl Fn(&str)) -> anyhow::Result<Self> {
        let (mut tally, mut running) = (Self::default(), None);
        // Verdicts before the summary of a program.
        let mut so_far = (0, 0);
        let mut last = Instant::now();
        let mut in_reports = false;
        for line in BufReader::new(lines).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
            print(&line);
            // The reports stand between two such lines; the second one begins the list of names.
            if line == "failures:" {
                in_reports = !in_reports;
            } else if in_reports && tally.reports.len() < MOST_REPORTED {
                tally.reports.push(line.clone());
            }
            if line.starts_with("running ") {
                last = Instant::now();
            }
            if let Some((name, verdict)) = test_line(&line) {
                tally.took(name, last.elapsed().as_secs_f64());
                last = Instant::now();
                running = verdict.is_empty().then(|| name.to_owned());
                so_far.0 += u32::from(verdict == "ok");
                if verdict == "FAILED" {
                    so_far.1 += 1;
                    tally.failures.push(name.to_owned());
                }
            }
            if let Some(summary) = line.strip_prefix("test result: ") {
                (running, so_far) = (None, (0, 0));
                tally.passed += number_before(summary, "passed");
                tally.failed += number_before(summary, "failed");
            }
            if let Some(summary) = nextest_summary(&line) {
                (running, so_far) = (None, (0, 0));
                tally.passed += number_before(summary, "passed");
                tally.failed += number_before(summary, "failed");
                tally.failed += number_before(summary, "timed out");
            }
            if let Some(name) = nextest_failure(&line)
                && !tally.failures.iter().any(|other| other == name)
            {
                tally.failures.push(name.to_owned());
            }
            // The tests print it themselves: libtest has no such verdict. nextest indents the
            // output of tests.
            if line.trim_start().starts_with("SKIPPED") {
                tally.skipped += 1;
                tally.skips.push(line.trim_start().to_owned());
            }
        }
        tally.passed += so_far.0;
        tally.failed += so_far.1;
        if let Some(name) = running {
            tally.failures.push(format!("{name} (never ended)"));
        }
        Ok(tally)
    }

    fn took(&mut self, name: &str, seconds: f64) {
        let longer = |(_, other): &(String, f64)| *other >= seconds;
        let at = self.slowest.partition_point(longer);
        self.slowest.insert(at, (name.to_owned(), seconds));
        self.slowest.truncate(SLOWEST);
    }
}

/// Name and verdict in `test NAME ... VERDICT`; no verdict while it runs.
fn test_line(line: &str) -> Option<(&str, &str)> {
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ...")?;
    Some((name, verdict.trim()))
}

/// The number before a verdict in `ok. 3 passed; 0 failed; …`, or in nextest's
/// `3 tests run: 2 passed (1 slow), 1 failed, 0 skipped`.
fn number_before(line: &str, verdict: &str) -> u32 {
    line.split([';', '.', ',', ':', '('])
        .map(str::trim)
        .find_map(|part| part.strip_suffix(verdict)?.trim().parse().ok())
        .unwrap_or(0)
}

/// The counts in nextest's `Summary [   1.450s] 3 tests run: 3 passed, 0 skipped`.
fn nextest_summary(line: &str) -> Option<&str> {
    let (_, counts) = line
        .trim_start()
        .strip_prefix("Summary [")?
        .split_once(']')?;
    counts.contains(" run: ").then_some(counts)
}

/// The name in nextest's `FAIL [   0.014s] (1/3) emu-cli::packaging a_test`.
fn nextest_failure(line: &str) -> Option<&str> {
    let (verdict, rest) = line.trim_start().split_once(" [")?;
    let is_failure = ["FAIL", "SIGABRT", "SIGSEGV", "SIGKILL", "TIMEOUT"].contains(&verdict);
    let (_, name) = rest.split_once("] ")?;
    is_failure.then(|| name.split_once(") ").map_or(name, |(_, name)| name).trim())
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn nextest_s_verdicts_are_counted() {
        let text = "    Starting 3 tests across 1 binary\n\
             \x20       PASS [   0.014s] (1/3) emu-cli::packaging fits\n\
             \x20 stdout ───\n\n    running 1 test\n    SKIPPED: no systemd-analyze\n\
             \x20   test fits ... ok\n\n    test result: ok. 1 passed; 0 failed\n\n\
             \x20       FAIL [   0.045s] (2/3) emu-cli::packaging is_hardened\n\
             \x20       PASS [   1.449s] (3/3) emu-cli takes\n────────────\n\
             \x20    Summary [   1.450s] 3 tests run: 2 passed (1 slow), 1 failed, 0 skipped\n\
             \x20       FAIL [   0.045s] (2/3) emu-cli::packaging is_hardened\n";
        let tally = Tally::read(text.as_bytes(), |_| {}).unwrap();
        assert_eq!((tally.passed, tally.failed), (2, 1));
        assert_eq!(tally.failures, ["emu-cli::packaging is_hardened"]);
        assert_eq!(tally.skips, ["SKIPPED: no systemd-analyze"]);
    }

    #[test]
    fn a_whole_run_is_counted() {
        let text = "running 3 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... ok\n\
            SKIPPED d: no such kernel\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored\n";
        let tally = Tally::read(text.as_bytes(), |_| ()).unwrap();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 1, 1));
        assert_eq!(tally.failures, ["b::c"]);
        assert_eq!(tally.skips, ["SKIPPED d: no such kernel"]);
        assert_eq!(tally.slowest.len(), 3);
        assert!(!tally.ok());
    }

    #[test]
    fn reports_of_failed_tests_are_kept() {
        let text = "test a ... ok\ntest b ... FAILED\n\nsuccesses:\n\n---- a stdout ----\nfine\n\n\
            failures:\n\n---- b stdout ----\n\nthread panicked at b.rs:1:1:\nno\n\n\
            failures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n";
        let tally = Tally::read(text.as_bytes(), |_| ()).unwrap();
        let reports = tally.reports.join("\n");
        assert_eq!(
            reports.trim(),
            "---- b stdout ----\n\nthread panicked at b.rs:1:1:\nno"
        );
    }

    #[test]
    fn the_slowest_come_first() {
        let mut tally = Tally::default();
        for (i, seconds) in [3.0, 9.0, 1.0, 7.0, 5.0, 2.0, 8.0].into_iter().enumerate() {
            tally.took(&i.to_string(), seconds);
        }
        let names: Vec<&str> = tally
            .slowest
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["1", "6", "3", "4", "0"]);
    }

    #[test]
    fn a_run_that_breaks_off_counts_so_far_and_names_its_last_test() {
        let text = "test a ... ok\ntest b ... FAILED\ntest c ... ok\ntest d ... ";
        let tally = Tally::read(text.as_bytes(), |_| ()).unwrap();
        assert_eq!((tally.passed, tally.failed), (2, 1));
        assert_eq!(tally.failures, ["b", "d (never ended)"]);
        assert!(!tally.ok());
    }
}
