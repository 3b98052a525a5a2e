//! The events of the loaded topology, on a thread of their own.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use emu_kernel::live::{EventClock, EventResult, Live, LiveError};

use super::{
    record::{AgentRecord, LoadMark},
    shared::Shared,
};

/// A running clock; dropping it stops the clock.
pub(super) struct Events {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    /// Runs the events of the loaded topology. Events that are due run at once, except those
    /// that an earlier agent has run.
    pub fn start(shared: Arc<Shared>, zero: SystemTime, record: AgentRecord) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // Maps and recordings belong to the thread that opened them.
        let run = move || match go(&shared, zero, record, &stopped) {
            Ok(true) => tracing::info!("all events have run"),
            Ok(false) => {}
            Err(LiveError::Replaced) => {
                tracing::info!("events stopped: another topology was loaded");
            }
            Err(error) => {
                tracing::error!(%error, "events cannot run");
                shared.change(|facts| facts.problem = Some(format!("events: {error}")));
            }
        };
        let thread = thread::Builder::new().name("events".to_owned()).spawn(run);
        if let Err(error) = &thread {
            tracing::error!(%error, "start the thread of the events");
        }
        Self {
            stop,
            thread: thread.ok(),
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has no result.
            let _ = thread.join();
        }
    }
}

fn go(
    shared: &Shared,
    zero: SystemTime,
    mut record: AgentRecord,
    stop: &AtomicBool,
) -> Result<bool, LiveError> {
    let live = Live::open()?;
    let topology = live.topology().clone();
    let load = LoadMark::of(&live.loaded().state);
    let done = record.done(&load);
    record.load = Some(load);
    let clock = EventClock::joining(live, zero, done)?;
    clock.run(
        || stop.load(Ordering::Relaxed),
        |result: &EventResult| {
            let text = result.what.to_text(&topology);
            let at_s = result.at.as_secs_f64();
            let late_ms = result.late.as_secs_f64() * 1e3;
            match &result.outcome {
                Ok(_) => tracing::info!(at_s, late_ms, "{text}"),
                Err(error) => tracing::error!(at_s, late_ms, %error, "{text}"),
            }
            shared.change(|facts| {
                facts.events[usize::from(result.outcome.is_err())] += 1;
                facts.late = Some(result.late);
            });
            let done = result
                .at
                .max(Duration::from_nanos(record.done_ns.unwrap_or(0)));
            record.done_ns = u64::try_from(done.as_nanos()).ok();
            if let Err(error) = record.write() {
                tracing::warn!(%error, "store the record of the events");
            }
        },
    )
}
