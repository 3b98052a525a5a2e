//! The events of what is loaded, on a thread of their own.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use emu_kernel::live::{Clock, EventResult, Live, LiveError};

use super::{
    record::{LoadMark, Record},
    shared::Shared,
};

/// A running clock; it stops when dropped.
pub(super) struct Events {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    /// Makes the events of what is loaded happen, those of the past at once, without
    /// those that an earlier agent saw to.
    pub fn start(shared: Arc<Shared>, zero: SystemTime, record: Record) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        // Maps and recordings stay on the thread that opened them.
        let run = move || match go(&shared, zero, record, &stopped) {
            Ok(true) => tracing::info!("all events happened"),
            Ok(false) => {}
            Err(LiveError::Replaced) => {
                tracing::info!("events stopped: something else was loaded");
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
            // A thread that panicked has nothing to hand over.
            let _ = thread.join();
        }
    }
}

fn go(
    shared: &Shared,
    zero: SystemTime,
    mut record: Record,
    stop: &AtomicBool,
) -> Result<bool, LiveError> {
    let live = Live::open()?;
    let topology = live.topology().clone();
    let load = LoadMark::of(&live.loaded().state);
    let done = record.done(&load);
    record.load = Some(load);
    let clock = Clock::joining(live, zero, done)?;
    clock.run(
        || stop.load(Ordering::Relaxed),
        |happened: &EventResult| {
            let words = happened.what.to_text(&topology);
            let at_s = happened.at.as_secs_f64();
            let late_ms = happened.late.as_secs_f64() * 1e3;
            match &happened.outcome {
                Ok(_) => tracing::info!(at_s, late_ms, "{words}"),
                Err(error) => tracing::error!(at_s, late_ms, %error, "{words}"),
            }
            shared.change(|facts| {
                facts.events[usize::from(happened.outcome.is_err())] += 1;
                facts.late = Some(happened.late);
            });
            let done = happened
                .at
                .max(Duration::from_nanos(record.done_ns.unwrap_or(0)));
            record.done_ns = u64::try_from(done.as_nanos()).ok();
            if let Err(error) = record.write() {
                tracing::warn!(%error, "remember what happened");
            }
        },
    )
}
