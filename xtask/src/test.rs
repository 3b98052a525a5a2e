//! `cargo xtask test`: everything CI runs, one summary at the end.
#![expect(clippy::print_stdout, reason = "the report of the tests")]
use std::{cell::RefCell, path::Path, thread, time::Instant};

use anyhow::{Context, anyhow};
use clap::Args;

use crate::{
    bpf, check, joined, packaging, repeat, slurm, ssh,
    suite::{self, Place},
    tally::Tally,
    verifier,
    vm::{self, kernel::Kernel},
    workloads,
};

/// Arguments of `test`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask test                  everything
  cargo xtask test --quick          in minutes: host, bytecode and end-to-end tests in virtual
                                    time, with the committed BPF object
  cargo xtask test --e2e tcp        only end-to-end tests whose name has `tcp`
  cargo xtask test --e2e tcp --real-time
                                    the same with the machine's clock
  cargo xtask test --repeat 10      ten runs of each workload in virtual time are the same
  cargo xtask test --host           only what needs no VM")]
pub struct Test {
    /// Run only the end-to-end tests in the VM, or those with this in their name.
    #[arg(long, value_name = "FILTER", num_args = 0..=1, default_missing_value = "")]
    e2e: Option<String>,
    /// Run these end-to-end tests with the machine's clock.
    #[arg(long, requires = "e2e")]
    real_time: bool,
    /// Compile the BPF programs even if the committed object belongs to the sources.
    #[arg(long, conflicts_with = "quick")]
    fresh_object: bool,
    /// Use the committed BPF object; of the tests in a VM, run only the end-to-end tests in
    /// virtual time.
    #[arg(long, conflicts_with_all = ["e2e", "host", "ssh"])]
    quick: bool,
    /// Only the comparison of repeated runs in virtual time: N runs of each workload, with
    /// different background loads.
    #[arg(long, value_name = "N", conflicts_with_all = ["e2e", "quick", "host", "ssh"],
          value_parser = clap::value_parser!(u16).range(2..=1_000))]
    repeat: Option<u16>,
    /// Run only the tests that need no VM.
    #[arg(long, conflicts_with = "e2e")]
    host: bool,
    /// Run only the tests of hosts that are reached by ssh.
    #[arg(long, conflicts_with_all = ["e2e", "host"])]
    ssh: bool,
}

/// The User-Mode Linux of this machine's own Debian release.
const INSTALLED: Place = Place::Vm(Kernel::Uml);
/// Steps that take longer list their slowest tests.
const LONG_S: f64 = 120.0;

/// The step without tests.
const STYLE: &str = "style";
/// A step that runs on the second processor if there is one.
const VERIFIER: &str = "verifier on this kernel";

/// Fetches what later steps need, while the tests are compiled. What is missing afterwards is
/// the matter of the step that needs it.
fn fetch() {
    let missing = [
        suite::install().err(),
        workloads::fetch().err(),
        ssh::unpacked().err(),
        slurm::unpacked().err(),
    ];
    for error in missing.into_iter().flatten() {
        eprintln!("xtask: {error:#}");
    }
    vm::quick_kernel();
}

/// Whether steps can run in two lanes.
fn has_second_processor() -> bool {
    thread::available_parallelism().is_ok_and(|n| n.get() > 1)
}

/// The results of the steps and the test runners.
#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
    failed_steps: Vec<&'static str>,
    /// What failed tests printed. It is repeated at the end, where it is looked for.
    reports: Vec<String>,
    /// Each step, whether it passed, and its seconds.
    lanes: Vec<(&'static str, bool, f64)>,
}

impl Test {
    pub fn run(self) -> anyhow::Result<u8> {
        let mut counts = Counts::default();
        if let Some(times) = self.repeat {
            let object = suite::committed_object()?;
            counts.tests("the same run several times", || {
                repeat::run(&object, times.into(), print)
            })?;
            return Ok(counts.finish());
        }
        let all = self.e2e.is_none() && !self.host && !self.ssh && !self.quick;
        if all && !has_second_processor() {
            counts.step(STYLE, || Ok(check::run()? == 0))?;
        }
        let quick = self.quick;
        let mut fetching = None;
        let mut object = None;
        counts.step("BPF object", || {
            let found = if quick {
                suite::committed_object()?
            } else {
                suite::object(self.fresh_object)?
            };
            println!("xtask: the BPF object is {}", found.display());
            object = Some(found);
            Ok(true)
        })?;
        let object = object.context("no BPF object")?;
        // The bytecode runs on this kernel as root, otherwise in the VM.
        let here = if nix::unistd::geteuid().is_root() {
            Place::Host
        } else {
            INSTALLED
        };
        if all || self.host || quick {
            counts.step("committed BPF object is current", || match bpf::check() {
                Ok(()) => Ok(true),
                Err(error) => {
                    eprintln!("{error:#}");
                    Ok(false)
                }
            })?;
            packaging::prepare();
            if all {
                fetching = Some(thread::spawn(fetch));
            }
            for (name, tests) in suite::host_tests(&object) {
                counts.tests(name, || Tally::run(tests, print))?;
            }
            if self.host {
                counts.tests(VERIFIER, || verifier::check(&object, &Place::Host, print))?;
            }
            let argv = suite::bytecode(&object, "")?;
            counts.tests("programs on this kernel", || {
                Tally::run(here.command(&argv), print)
            })?;
        }
        if let Some(fetching) = fetching.map(thread::JoinHandle::join) {
            fetching.map_err(|_| anyhow!("fetching panicked"))?;
        }
        if self.ssh {
            counts.tests("over ssh in the VM", || ssh::run(&object, print))?;
        }
        if !self.host && !self.ssh {
            let clock = if self.real_time {
                Place::Vm
            } else {
                Place::VirtualTime
            };
            let place = clock(vm::quick_kernel());
            println!("xtask: the end-to-end tests run on {place}");
            if all {
                counts.in_vms(&object, &place)?;
            } else {
                let argv = suite::end_to_end(&object, &self.e2e.unwrap_or_default())?;
                let argv = suite::for_place(&place, argv);
                counts.tests("end to end in the VM", || {
                    Tally::run(place.command(&argv), print)
                })?;
            }
        }
        Ok(counts.finish())
    }
}

fn slow((name, seconds): &(String, f64)) -> String {
    format!("{name} ({seconds:.0} s)")
}

fn print(line: &str) {
    println!("{line}");
}

/// The result of a step that ran in parallel with another one; it is reported afterwards.
struct StepResult {
    name: &'static str,
    lines: Vec<String>,
    tally: anyhow::Result<Tally>,
    seconds: f64,
}

impl StepResult {
    fn of(name: &'static str, work: impl FnOnce(&dyn Fn(&str)) -> anyhow::Result<Tally>) -> Self {
        let (start, lines) = (Instant::now(), RefCell::new(Vec::new()));
        let tally = work(&|line| lines.borrow_mut().push(line.to_owned()));
        Self {
            name,
            lines: lines.into_inner(),
            tally,
            seconds: start.elapsed().as_secs_f64(),
        }
    }
}

/// The module of the end-to-end tests that run on the second processor.
const ON_SECOND: &str = "in_parallel::";

/// Runs the steps of the second processor, while the end-to-end tests run on the first.
fn second_lane(object: &Path, place: &Place, real_time: &[String]) -> Vec<StepResult> {
    let kernel = vm::quick_kernel();
    vec![
        StepResult::of(VERIFIER, |print| {
            verifier::check(object, &Place::Host, print)
        }),
        StepResult::of("end to end in parallel, in virtual time", |print| {
            let argv = suite::for_place(place, suite::end_to_end(object, ON_SECOND)?);
            Tally::run(place.command(&argv), print)
        }),
        StepResult::of("what needs the machine's clock, in the VM", |print| {
            Tally::run(Place::Vm(kernel).command(real_time), print)
        }),
        StepResult::of("verifier in the VM", |print| {
            verifier::check(object, &INSTALLED, print)
        }),
        StepResult::of("over ssh in the VM", |print| ssh::run(object, print)),
        // A workaround that newer kernels do not need is tested on an older one; and both
        // methods by which User-Mode Linux intercepts system calls are tested with the
        // emulated clock.
        StepResult::of("latencies on an older kernel in virtual time", |print| {
            let place = Place::VirtualTime(Kernel::Uml);
            let argv = suite::for_place(&place, suite::end_to_end(object, "latency::")?);
            Tally::run(place.command(&argv), print)
        }),
        StepResult::of("the same run twice", |print| {
            repeat::run(object, repeat::IN_CI, print)
        }),
        StepResult::of("under Slurm in the VM", |print| {
            slurm::run(object, &slurm::SMALL, print)
        }),
    ]
}

impl Counts {
    /// Runs the steps in VMs: in two lanes if there are two processors.
    fn in_vms(&mut self, object: &Path, place: &Place) -> anyhow::Result<()> {
        // Everything is built before anything is measured.
        let mut end_to_end = suite::for_place(place, suite::end_to_end(object, "")?);
        end_to_end.extend(["--skip", ON_SECOND].map(str::to_owned));
        let real_time = suite::real_time(object)?;
        let second = || second_lane(object, place, &real_time);
        let (results, style) = thread::scope(|scope| {
            let running = has_second_processor().then(|| {
                scope.spawn(|| {
                    let results = second();
                    // Behind the tests with the machine's clock, which it would disturb.
                    let start = Instant::now();
                    let style = check::run();
                    (results, Some((style, start.elapsed().as_secs_f64())))
                })
            });
            self.tests("end to end in virtual time", || {
                Tally::run(place.command(&end_to_end), print)
            })?;
            match running {
                Some(running) => running.join().map_err(|_| anyhow!("a step panicked")),
                None => Ok((second(), None)),
            }
        })?;
        if let Some((style, seconds)) = style {
            self.report(STYLE, style.context(STYLE)? == 0, seconds);
        }
        for step in results {
            step.lines.iter().for_each(|line| print(line));
            self.tally(step.name, &step.tally.context(step.name)?, step.seconds);
        }
        self.tests("peers over two VMs in one virtual time", || {
            joined::run(object, print)
        })
    }

    fn step(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let ok = work().with_context(|| name)?;
        self.report(name, ok, start.elapsed().as_secs_f64());
        Ok(())
    }

    fn tests(
        &mut self,
        name: &'static str,
        work: impl FnOnce() -> anyhow::Result<Tally>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let tally = work().with_context(|| name)?;
        self.tally(name, &tally, start.elapsed().as_secs_f64());
        Ok(())
    }

    fn tally(&mut self, name: &'static str, tally: &Tally, seconds: f64) {
        self.passed += tally.passed;
        self.failed += tally.failed;
        self.skipped += tally.skipped;
        self.reports.extend_from_slice(&tally.reports);
        // A filter that matches no test is an error.
        let ran = tally.passed + tally.skipped > 0;
        let slowest: Vec<String> = tally.slowest.iter().map(slow).collect();
        if tally.seconds >= LONG_S && !slowest.is_empty() {
            println!("xtask: slowest: {}", slowest.join(", "));
        }
        self.report(name, tally.ok() && ran, seconds);
    }

    fn report(&mut self, name: &'static str, ok: bool, seconds: f64) {
        if !ok {
            self.failed_steps.push(name);
        }
        self.lanes.push((name, ok, seconds));
        let verdict = if ok { "ok" } else { "FAILED" };
        println!("xtask: {name}: {verdict} ({seconds:.0} s)");
    }

    fn finish(self) -> u8 {
        if !self.reports.is_empty() {
            println!("xtask: what the failed tests printed:");
            self.reports.iter().for_each(|line| print(line));
        }
        for name in &self.failed_steps {
            println!("xtask: FAILED: {name}");
        }
        println!("xtask: steps and their seconds:");
        for (name, ok, seconds) in &self.lanes {
            let mark = if *ok { "" } else { "  FAILED" };
            println!("xtask: {seconds:6.0}  {name}{mark}");
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        );
        u8::from(self.failed > 0 || !self.failed_steps.is_empty())
    }
}
