//! `emu start`.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use emu_kernel::live::{EventClock, EventResult, Live};
use emu_model::topology;
use serde_json::json;

use super::{FAILED, OK, Outcome, print};
use crate::commands::error::failure;

/// Arguments of `emu start`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu start                  the events of the loaded topology, each one printed when it runs
  emu start --from 30s       begin at 30 s, and skip earlier events
  emu start --json           one line of JSON for each event

Ctrl-C stops the clock and leaves the network in its current state. `emu load` restores
the settings of the file.")]
pub(super) struct Start {
    /// Start of the clock.
    #[arg(long, value_name = "TIME", default_value = "0s")]
    from: String,
    /// Print JSON, one line for each event.
    #[arg(long)]
    json: bool,
}

impl Start {
    pub(super) fn run(self) -> Outcome {
        let from = topology::time(&self.from)
            .map_err(|e| failure!("--from: {}; expected {}", e.message, e.expected))?;
        let live = Live::open()?;
        let topology = live.topology().clone();
        if topology.events.is_empty() && topology.traces.is_empty() {
            return Err(failure!(
                "{} has no `events` and no `traces`",
                live.loaded().state.topology.display()
            ));
        }
        let clock = EventClock::new(live, from)?;
        if !self.json {
            print(&format!(
                "{}: {} events, from {} on; Ctrl-C stops the clock",
                topology.name,
                clock.events(),
                seconds(from)
            ))?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let mut failed = 0;
        let whole = clock.run(
            || stop.load(Ordering::Relaxed),
            |result| {
                failed += usize::from(result.outcome.is_err());
                // A reader that has closed the pipe does not stop the clock.
                let _ = print(&line(result, &topology, self.json));
            },
        )?;
        if !self.json {
            print(if whole {
                "all events have run"
            } else {
                "stopped; the network stays as it is"
            })?;
        }
        Ok(if failed == 0 { OK } else { FAILED })
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

/// Seconds since 1970, to compare with the logs of programs.
fn unix_s(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

fn line(result: &EventResult, topology: &topology::Topology, as_json: bool) -> String {
    let text = result.what.to_text(topology);
    if as_json {
        let mut value = json!({
            "at_s": result.at.as_secs_f64(),
            "unix_s": unix_s(result.done),
            "late_ms": result.late.as_secs_f64() * 1e3,
            "event": text,
            "ok": result.outcome.is_ok(),
        });
        match &result.outcome {
            Ok(changed) => value["changed"] = json!(changed),
            Err(error) => value["error"] = json!(error.to_string()),
        }
        return value.to_string();
    }
    let at = seconds(result.at);
    match &result.outcome {
        Ok(changed) => format!(
            "{at:>12}  {text}  ({} pipes, {} pairs of groups)",
            changed.pipes, changed.pairs
        ),
        Err(error) => format!("{at:>12}  {text}  FAILED: {error}"),
    }
}
