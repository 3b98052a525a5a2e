//! `cargo xtask test-vm`: runs the tests on several kernels, with a table at the end.
#![expect(clippy::print_stdout, reason = "the report of the tests")]
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::{
    suite::{self, Place},
    tally::Tally,
    verifier,
    vm::kernel::Kernel,
};

/// Arguments of `test-vm`.
#[derive(Args)]
#[command(after_help = "\
On this machine's own kernel (`host`): the verifier's counts and the tests of the bytecode.
In each VM these and the end-to-end tests. What a VM lacks is installed.

Examples:
  cargo xtask test-vm                        this machine and every kernel with a name
  cargo xtask test-vm 6.12 --filter latency  some tests on one kernel
  cargo xtask test-vm /boot/vmlinuz-6.6.1    any kernel that QEMU boots, with its modules")]
pub struct TestVm {
    /// Kernels: `host`, `uml`, `uml-testing`, `6.1`, `6.12`, or paths; all with a name if none.
    kernels: Vec<Place>,
    /// Run only tests with this in their name.
    #[arg(long)]
    filter: Option<String>,
    /// Print the table as JSON; the output of the tests goes to standard error.
    #[arg(long)]
    json: bool,
}

/// One suite on one kernel.
#[derive(Serialize)]
struct KernelRow {
    kernel: String,
    suite: &'static str,
    #[serde(flatten)]
    tally: Tally,
}

/// The test programs' command lines.
struct Suites {
    bytecode: Vec<String>,
    end_to_end: Vec<String>,
    real_time: Vec<String>,
}

impl TestVm {
    pub fn run(self) -> anyhow::Result<u8> {
        let places = if self.kernels.is_empty() {
            let vms = Kernel::named().into_iter().map(Place::Vm);
            [Place::Host].into_iter().chain(vms).collect()
        } else {
            self.kernels
        };
        let filter = self.filter.unwrap_or_default();
        let object = suite::object(false)?;
        let suites = Suites {
            bytecode: suite::bytecode(&object, &filter)?,
            end_to_end: suite::end_to_end(&object, &filter)?,
            real_time: suite::real_time(&object)?,
        };
        let print = if self.json { to_stderr } else { to_stdout };
        let mut rows = Vec::new();
        for place in &places {
            if filter.is_empty() {
                let check = || verifier::check(&object, place, print);
                rows.push(KernelRow::of(place, "verifier", check));
            }
            let run = |argv: &[String]| match place.unable() {
                Some(why) => Ok(Tally::skipped(&format!("{place}: {why}"), print)),
                None => Tally::run(place.command(argv), print),
            };
            rows.push(KernelRow::of(place, "bytecode", || run(&suites.bytecode)));
            match place {
                Place::Host => {}
                // In virtual time if the kernel supports it, and then the tests that need the
                // machine's clock.
                Place::Vm(kernel) if !kernel.is_emulated() => {
                    let place = &Place::VirtualTime(kernel.clone());
                    let argv = suite::for_place(place, suites.end_to_end.clone());
                    let run = || Tally::run(place.command(&argv), print);
                    rows.push(KernelRow::of(place, "end to end", run));
                }
                _ => rows.push(KernelRow::of(place, "end to end", || {
                    run(&suites.end_to_end)
                })),
            }
            if *place != Place::Host && filter.is_empty() {
                rows.push(KernelRow::of(place, "real time", || run(&suites.real_time)));
            }
        }
        let ran = rows.iter().any(|row| row.tally.passed > 0);
        let ok = ran && rows.iter().all(|row| row.tally.ok());
        if self.json {
            let report = serde_json::json!({ "ok": ok, "rows": rows });
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print_table(&rows);
        }
        Ok(u8::from(!ok))
    }
}

fn to_stdout(line: &str) {
    println!("{line}");
}

fn to_stderr(line: &str) {
    eprintln!("{line}");
}

impl KernelRow {
    /// Runs a suite; a suite that could not start has failed.
    fn of(
        place: &Place,
        suite: &'static str,
        work: impl FnOnce() -> anyhow::Result<Tally>,
    ) -> Self {
        let start = Instant::now();
        eprintln!("xtask: {suite} on {place}");
        let mut tally = work().unwrap_or_else(|error| {
            eprintln!("xtask: {suite} on {place}: {error:#}");
            Tally {
                failures: vec![format!("{error:#}")],
                ..Tally::default()
            }
        });
        tally.seconds = start.elapsed().as_secs_f64();
        Self {
            kernel: place.to_string(),
            suite,
            tally,
        }
    }
}

fn print_table(rows: &[KernelRow]) {
    println!(
        "\n{:<24} {:<12} {:>6} {:>6} {:>7} {:>6}",
        "kernel", "suite", "passed", "failed", "skipped", "time"
    );
    for KernelRow {
        kernel,
        suite,
        tally,
    } in rows
    {
        println!(
            "{kernel:<24} {suite:<12} {:>6} {:>6} {:>7} {:>4.0} s",
            tally.passed, tally.failed, tally.skipped, tally.seconds
        );
    }
    for row in rows {
        for failure in &row.tally.failures {
            println!("FAILED on {}: {}: {failure}", row.kernel, row.suite);
        }
        for skip in &row.tally.skips {
            println!("{skip} ({}, {})", row.kernel, row.suite);
        }
    }
}
