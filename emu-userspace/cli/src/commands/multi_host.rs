//! `emu run` on several hosts, and `emu results merge`.
use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use emu_kernel::{beneath::Folder, machine};
use emu_runner::{
    rendezvous::OnLoss,
    results::{self, HostOutcome, HostResults, Merged},
    run::HostGroup,
};

use super::{FAILED, OK, Outcome, print, print_json, table};

/// What happens if a host is lost during the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnFailure {
    /// The other hosts stop.
    End,
    /// The other hosts go on, and the results name the lost host.
    Mark,
}

/// Arguments of `emu run` for several hosts.
#[derive(Args)]
#[command(next_help_heading = "Several hosts, which share the folder --out")]
pub(super) struct MultiHostArgs {
    /// Rank of this host, from 0; `srun` provides it.
    #[arg(long, value_name = "R", requires = "size", conflicts_with_all = ["host", "start_at"])]
    rank: Option<usize>,
    /// Number of hosts.
    #[arg(long, value_name = "N", requires = "rank")]
    size: Option<usize>,
    /// What happens when a host is lost in mid-run.
    #[arg(long, value_enum, default_value = "end", value_name = "end|mark")]
    on_node_failure: OnFailure,
    /// Time limit for the other hosts to join, and then to load.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    meet_within: Duration,
    /// A host is lost if its heartbeat does not change for this time.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    lost_after: Duration,
    /// Interface towards the other hosts, if the topology has no `hosts`; default: the only
    /// one with an address, or that of the default route.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

impl MultiHostArgs {
    /// This host among the hosts of the run, if there are several: by --rank, or by srun
    /// unless the user starts the run in another way (`alone`).
    pub(super) fn host_group(&self, alone: bool) -> anyhow::Result<Option<HostGroup>> {
        let by_srun = || {
            // A batch script also has a node number, but only srun starts steps.
            env::var_os("SLURM_STEP_NUM_NODES")?;
            machine::host_hints().slurm.filter(|(_, size)| *size > 1)
        };
        let Some((rank, size)) = self.rank.zip(self.size).or_else(|| {
            let found = by_srun();
            found.filter(|_| !alone)
        }) else {
            return Ok(None);
        };
        if self.rank.is_none() && env::var("SLURM_LOCALID").is_ok_and(|id| id != "0") {
            bail!(
                "several tasks on one node, but emu needs one task per node: srun --ntasks-per-node=1 emu run …"
            );
        }
        Ok(Some(HostGroup {
            rank,
            size,
            on_loss: match self.on_node_failure {
                OnFailure::End => OnLoss::End,
                OnFailure::Mark => OnLoss::Mark,
            },
            within: self.meet_within,
            lost_after: self.lost_after,
            interface: self.interface.clone(),
        }))
    }
}

/// The folder of results, with the same name on all hosts of a Slurm step.
pub(super) fn folder_of_step(name: &str) -> Option<PathBuf> {
    let [job, step] = ["SLURM_JOB_ID", "SLURM_STEP_ID"].map(|key| env::var(key).ok());
    Some(Path::new(&format!("{name}-{}.{}", job?, step?)).to_owned())
}

/// `emu results`.
#[derive(Subcommand)]
pub(super) enum Results {
    /// Merge the results of several hosts in one folder.
    #[command(after_help = "\
Examples:
  emu results merge results/             a run over several hosts, that was not merged at its end
  emu results merge h1/ h2/ --out both/  results that were copied from the hosts

Tables get a column `host`. Exit codes: 0 merged, 1 failed.")]
    Merge {
        /// The folder that the hosts shared, or one folder of each host.
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Folder of the merged results; default: the shared folder.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Results {
    pub(super) fn run(self) -> Outcome {
        let Results::Merge { folders, out, json } = self;
        let open = |path: &PathBuf| {
            Folder::open(path).map_err(|e| anyhow!("open {}: {e}", path.display()))
        };
        let (mut parts, mut statuses) = (Vec::new(), Vec::new());
        let mut shared = None;
        for path in &folders {
            let folder = open(path)?;
            if folder.folder("hosts").is_ok() {
                let (more, said) = results::shared(&folder)?;
                parts.extend(more);
                statuses.extend(said);
                shared = Some(folder);
            } else {
                parts.push(HostResults::read(folder)?);
            }
        }
        let shared = shared.filter(|_| folders.len() == 1);
        let (to, take) = match (&out, shared) {
            (Some(out), _) => {
                let made = Folder::make(out);
                let made = made.map_err(|e| anyhow!("make {}: {e}", out.display()));
                (made?.0, false)
            }
            (None, Some(shared)) => (shared, true),
            (None, None) => bail!("name the folder of the merged results with --out DIR"),
        };
        let merged = results::merge(&parts, &statuses, &to, take)?;
        show(&merged, json)?;
        Ok(OK)
    }
}

/// Prints the merged summary.
pub(super) fn show(merged: &Merged, json: bool) -> Outcome {
    if json {
        print_json(merged)?;
    } else {
        print(&to_text(merged))?;
    }
    Ok(if merged.is_good() { OK } else { FAILED })
}

fn to_text(m: &Merged) -> String {
    let mut lines = vec![
        format!(
            "{}: {} after {:.1} s on {} hosts, which started within {:.1} ms; seed {}",
            m.name,
            m.ended,
            m.run_s,
            m.hosts.len(),
            m.starts_apart_ms,
            m.seed
        ),
        format!(
            "  {} processes: {} done, {} failed, {} stopped with the run, {} not started, {} unknown",
            m.processes, m.done, m.failed, m.running, m.not_started, m.unknown
        ),
        hosts(m),
    ];
    for failure in &m.failures {
        let field = |name: &str| failure[name].as_str().unwrap_or_default().to_owned();
        lines.push(format!(
            "  FAILED: {} on {} ({}): {}",
            field("program"),
            field("vnode"),
            field("host"),
            field("what")
        ));
    }
    lines.extend(m.warnings.iter().map(|w| format!("  WARNING: {w}")));
    lines.push(format!("results: {}", m.folder.display()));
    lines.join("\n")
}

fn hosts(merged: &Merged) -> String {
    let header = ["host", "machine", "state", "processes", "clock ahead", "±"];
    let mut table = table(&header, &[3, 4, 5]);
    let ms = |ns: f64| format!("{:.3} ms", ns / 1e6);
    for (index, part) in merged.hosts.iter().enumerate() {
        let state = match part.state {
            HostOutcome::Done => "done",
            HostOutcome::Failed => "FAILED",
            HostOutcome::Lost => "LOST",
        };
        let (ahead, bound) = match part.clock {
            Some(c) => (ms(c.ahead_ns as f64), ms(c.round_trip_ns as f64 / 2.0)),
            None if index == 0 => ("the reference".to_owned(), String::new()),
            None => ("not known".to_owned(), String::new()),
        };
        table.add_row([
            part.host.clone(),
            part.machine.clone().unwrap_or_default(),
            state.to_owned(),
            part.processes.to_string(),
            ahead,
            bound,
        ]);
    }
    table.to_string()
}
