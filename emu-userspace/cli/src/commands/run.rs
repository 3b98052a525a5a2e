//! `emu run`.
use std::{
    ffi::OsString,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use emu_kernel::{clock::Stopwatch, user};
use emu_model::experiment::{Clock, Schedule, Slice};
use emu_model::name::printable;
use emu_runner::run::{
    self, EndReason, Input, Observer, Progress, RunError, RunOptions, RunOutcome, Summary,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{
    FAILED, OK, Outcome, USAGE,
    multi_host::{self, MultiHostArgs},
    netns::Namespace,
    print, print_json, table,
};
use crate::commands::error::failure;

/// Time between two lines of progress without a terminal.
const LINE: Duration = Duration::from_secs(10);

/// Arguments of `emu run`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu run experiment.yaml
  emu run experiment.yaml --dry-run           every start, stop and command line
  emu run experiment.yaml --out results/1 --json | jq .failed
  emu run experiment.yaml --host h1 --start-at 2026-03-01T12:00:00Z

Loads the topology of the experiment in a network namespace of its own, or uses it if it
is loaded already, and unloads what it has loaded. A topology with hosts is loaded in the
caller's network namespace, and so is each with --host-network. Ctrl-C stops all programs and still writes the results; a second one
ends their grace period.

Exit codes: 0 success, 1 a program failed or the run was aborted, 2 wrong usage
or file.")]
pub(super) struct Run {
    /// The experiment; `-` is the standard input.
    #[arg(value_name = "EXPERIMENT")]
    file: PathBuf,
    /// Folder of the results; default: NAME-TIME in this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run the part of this host of the topology.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Start at this time on all hosts: seconds since 1970, or as in
    /// 2026-03-01T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = start_time)]
    start_at: Option<SystemTime>,
    /// Fail if the topology is not loaded.
    #[arg(long)]
    no_load: bool,
    /// Load the topology in the caller's network namespace, and not in one of its own.
    #[arg(long)]
    host_network: bool,
    /// Run even if the machine cannot enforce `limits`.
    #[arg(long)]
    no_limits: bool,
    /// Keep the working folders.
    #[arg(long)]
    keep_work: bool,
    /// Fail unless the clock is an emulated one: that of a VM in virtual time.
    #[arg(long, conflicts_with = "real_time")]
    virtual_time: bool,
    /// Fail unless the clock is the machine's.
    #[arg(long)]
    real_time: bool,
    /// Run the programs as this user; default: the user who called sudo.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    multi_host: MultiHostArgs,
    /// Print the schedule, without running it.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn start_time(text: &str) -> Result<SystemTime, String> {
    let wrong = || "expected seconds since 1970, or a time as in 2026-03-01T12:00:00Z".to_owned();
    if let Ok(seconds) = text.parse::<f64>() {
        let since = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        return UNIX_EPOCH.checked_add(since).ok_or_else(wrong);
    }
    humantime::parse_rfc3339_weak(text).map_err(|_| wrong())
}

/// `emu check` of an experiment.
pub(super) fn check(file: &Path, text: String, as_json: bool) -> Outcome {
    let input = match Input::new(file, text) {
        Err(RunError::File(errors)) if as_json => {
            print_json(&errors)?;
            return Ok(USAGE);
        }
        read => read?,
    };
    let experiment = &input.experiment;
    let schedule = Schedule::new(experiment, input.seed, Slice::Whole).map_err(RunError::from)?;
    if as_json {
        return print_json(&json!({
            "ok": true, "name": experiment.name, "topology": experiment.topology.name,
            "programs": experiment.programs.len(), "processes": schedule.processes.len(),
        }));
    }
    let mut table = table(&["program", "vnodes", "sessions", "command"], &[1, 2]);
    for (index, program) in experiment.programs.iter().enumerate() {
        let of = || {
            let all = schedule.processes.iter();
            all.filter(|p| p.program_index == index)
        };
        let first = of().next().map(|p| p.command.join(" "));
        table.add_row([
            program.name.clone().into(),
            program.vnodes.len().to_string(),
            of().map(|p| p.sessions.len()).sum::<usize>().to_string(),
            first.unwrap_or_default(),
        ]);
    }
    print(&table.to_string())?;
    print(&format!(
        "{}: {} processes on {}",
        experiment.name,
        schedule.processes.len(),
        experiment.topology.name
    ))
}

/// `emu run-guardian`.
pub(super) fn guardian(run: &str, namespace: &Namespace) -> Outcome {
    if run::guard(run)? {
        namespace.after_death()?;
    }
    Ok(OK)
}

impl Run {
    pub(super) fn run(self, namespace: &mut Namespace) -> Outcome {
        let mut input = Input::read(&self.file)?;
        let host = self.host.clone().or_else(|| input.loaded_host.clone());
        if self.dry_run {
            let schedule = input.schedule(host.as_deref())?;
            return if self.json {
                print_json(&schedule)
            } else {
                print(&schedule.to_string())
            };
        }
        if !user::is_root() {
            return Err(failure!("run needs root: sudo emu run …"));
        }
        let person = match &self.user {
            Some(name) => Some(user::named(name)?),
            None => user::behind_sudo()?,
        };
        let alone = self.host.is_some() || self.start_at.is_some();
        let group = self.multi_host.host_group(alone)?;
        let out = match (self.out, &group) {
            (Some(out), _) => out,
            (None, None) => folder(&input.experiment.name),
            (None, Some(_)) => multi_host::folder_of_step(&input.experiment.name)
                .ok_or_else(|| failure!("several hosts need --out DIR, a folder that all share"))?,
        };
        let hosts = input.experiment.topology.hosts.len();
        if group.is_none() && hosts > 1 && !input.has_seed {
            return Err(RunError::NoSeed(hosts).into());
        }
        let own = hosts == 0 && group.is_none() && !self.host_network && !self.no_load;
        if own {
            namespace.for_run(&input.experiment.name)?;
        }
        let mut guardian: Vec<OsString> = vec![std::env::current_exe()?.into()];
        guardian.extend(namespace.arguments());
        guardian.push("run-guardian".into());
        let options = RunOptions {
            out,
            host: host.filter(|_| group.is_none()),
            start_at: self.start_at,
            may_load: !self.no_load,
            keep_limits: !self.no_limits,
            keep_work: self.keep_work,
            person,
            clock: match (self.virtual_time, self.real_time) {
                (true, _) => Some(Clock::Virtual),
                (_, true) => Some(Clock::Real),
                _ => None,
            },
            guardian: Some(guardian),
        };
        let mut watcher = Watcher::new(&input.experiment.name, input.experiment.duration);
        if let Some(group) = group {
            let outcome = run::together(&mut input, &options, &group, &mut watcher);
            watcher.finish();
            return match outcome? {
                RunOutcome::Whole(merged) => multi_host::show(&merged, self.json),
                RunOutcome::Part(summary) => Ok(if summary.is_good() { OK } else { FAILED }),
            };
        }
        let outcome = run::run(&input, &options, &mut watcher);
        watcher.finish();
        let removed = namespace.after_run();
        let summary = outcome?;
        removed?;
        if self.json {
            print_json(&summary)?;
        } else {
            print(&to_text(&summary))?;
        }
        Ok(if summary.is_good() { OK } else { FAILED })
    }
}

/// A folder named after the time that does not exist yet, since all emulated clocks start at
/// the same time.
fn folder(name: &str) -> PathBuf {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let first = format!("{name}-{}", now.replace(':', "-"));
    let further = (2_u32..).map(|n| format!("{first}-{n}"));
    let mut names = std::iter::once(first.clone()).chain(further);
    let free = names.find(|name| !Path::new(name).exists());
    PathBuf::from(free.unwrap_or(first))
}

/// Shows the progress of a run: one line that changes on a terminal, otherwise a line at
/// intervals.
struct Watcher {
    name: String,
    bar: Option<ProgressBar>,
    printed: Option<Instant>,
    stopwatch: Option<Stopwatch>,
    /// Time limit of the run.
    duration: Option<Duration>,
}

impl Watcher {
    fn new(name: &str, duration: Option<Duration>) -> Self {
        let style = ProgressStyle::with_template("{spinner} {msg}");
        let bar = std::io::stderr()
            .is_terminal()
            .then(ProgressBar::new_spinner);
        if let (Some(bar), Ok(style)) = (&bar, style) {
            bar.set_style(style);
        }
        Self {
            name: name.to_owned(),
            bar,
            printed: None,
            stopwatch: Stopwatch::start(),
            duration,
        }
    }

    /// Elapsed time: in virtual time by both clocks.
    fn clocks(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs();
        let Some(stopwatch) = &self.stopwatch else {
            return format!("{seconds} s");
        };
        let time = |seconds: u64| format!("{}:{:02}", seconds / 60, seconds % 60);
        let whole = self.duration.map(|whole| time(whole.as_secs()));
        let whole = whole.map_or(String::new(), |whole| format!(" of {whole}"));
        let used = stopwatch.elapsed();
        format!(
            "emulated {}{whole}, {:.0} s, {:.1} times real time",
            time(seconds),
            used.wall_s,
            used.speed()
        )
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Watcher {
    fn note(&mut self, words: &str) {
        match &self.bar {
            Some(bar) => bar.println(printable(&format!("{}: {words}", self.name))),
            None => eprintln!("{}", printable(&format!("{}: {words}", self.name))),
        }
    }

    fn progress(&mut self, progress: &Progress) {
        let line = format!(
            "{}: {}  {} running, {} waiting, {} done, {} failed  sent {}, received {}, {} drops",
            self.name,
            self.clocks(progress.elapsed),
            progress.running,
            progress.waiting,
            progress.done,
            progress.failed,
            rate(progress.sent_bits_per_s),
            rate(progress.received_bits_per_s),
            progress.drops,
        );
        if let Some(bar) = &self.bar {
            bar.set_message(line);
            bar.tick();
        } else if self.printed.is_none_or(|at| at.elapsed() >= LINE) {
            eprintln!("{line}");
            self.printed = Some(Instant::now());
        }
    }
}

fn rate(bits_per_s: f64) -> String {
    let (value, unit) = match bits_per_s {
        r if r >= 1e9 => (r / 1e9, "Gbit/s"),
        r if r >= 1e6 => (r / 1e6, "Mbit/s"),
        r => (r / 1e3, "kbit/s"),
    };
    format!("{value:.1} {unit}")
}

/// The summary as text.
fn to_text(s: &Summary) -> String {
    let why = match s.ended {
        EndReason::Complete => "complete",
        EndReason::Duration => "its duration is over",
        EndReason::Failures => "too many failures",
        EndReason::Interrupted => "interrupted",
        EndReason::Elsewhere => "ended with the other hosts",
        EndReason::Broken => "aborted",
    };
    let mut lines = vec![
        format!(
            "{}: {why} after {:.1} s (set up in {:.1} s, stopped in {:.1} s), seed {}",
            s.name, s.run_s, s.setup_s, s.stop_s, s.seed
        ),
        format!(
            "  {} processes: {} done, {} failed, {} stopped with the run, {} not started",
            s.processes, s.done, s.failed, s.running, s.not_started
        ),
        format!(
            "  {} starts, late by {:.1} ms (median) to {:.1} ms; {} needed SIGKILL",
            s.started, s.late_median_ms, s.late_max_ms, s.killed
        ),
        format!(
            "  {} sent, {} received, {} packets dropped in pipes; {:.1} s of CPU time",
            megabytes(s.traffic.sent_bytes),
            megabytes(s.traffic.received_bytes),
            s.traffic.drops,
            s.cpu_s
        ),
    ];
    for share in s.cpu_shares.iter().filter(|share| share.vnodes > 1) {
        lines.push(format!(
            "  {}: CPU time of a vnode {:.2} s (median), {:.2} to {:.2}; Jain's index {:.3}",
            share.program, share.median_s, share.least_s, share.most_s, share.jain_index
        ));
    }
    for failure in &s.failures {
        let said = match &failure.last_words {
            Some(last) => format!(": {last}"),
            None => String::new(),
        };
        lines.push(format!(
            "  FAILED: {} on {}: {}{said}",
            failure.program, failure.vnode, failure.what
        ));
    }
    if s.failed > s.failures.len() {
        lines.push(format!(
            "  and {} more in processes.csv",
            s.failed - s.failures.len()
        ));
    }
    for limit in &s.host_health.limits {
        lines.push(format!("  WARNING: the host was the bottleneck: {limit}"));
    }
    for warning in &s.warnings {
        lines.push(format!("  WARNING: {warning}"));
    }
    if let Some(time) = &s.virtual_time {
        lines.push(format!("  {time}"));
    }
    if let Some(digest) = &s.digest {
        lines.push(format!("  digest of the tables: {digest}"));
    }
    lines.push(format!("results: {}", s.folder.display()));
    lines.join("\n")
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
