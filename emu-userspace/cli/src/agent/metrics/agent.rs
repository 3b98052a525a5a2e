//! Metrics of the agent itself.
use std::fmt;

use super::{
    Scrape,
    writer::{Labels, Writer},
};
use crate::agent::shared::{Outcome, unix_s};

fn one(value: f64) -> [(Labels, f64); 1] {
    [(Vec::new(), value)]
}

impl Scrape {
    pub fn agent(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        let facts = &self.facts;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        to.gauge("emu_build_info", "Version of the agent", [(version, 1.0)])?;
        let loaded = f64::from(u8::from(facts.loaded.is_some()));
        to.gauge("emu_loaded", "Whether a topology is loaded", one(loaded))?;
        let good = facts.problem.is_none()
            && facts.missing.is_empty()
            && facts.last.is_some_and(Outcome::is_good);
        to.gauge(
            "emu_agent_in_sync",
            "Whether the loaded topology matches the file",
            one(f64::from(u8::from(good))),
        )?;
        to.gauge(
            "emu_agent_missing",
            "Objects of the load that somebody took away and that are not in place again",
            one(facts.missing.len() as f64),
        )?;
        to.counter(
            "emu_agent_losses",
            "Objects of the load that somebody took away",
            [(Vec::new(), facts.losses)],
        )?;
        to.counter(
            "emu_agent_reloads",
            "Checks of the file that changed something or failed, by result",
            Outcome::ALL.map(|outcome| {
                let labels = vec![("result", outcome.name().to_owned())];
                (labels, facts.reloads[outcome as usize])
            }),
        )?;
        to.gauge(
            "emu_agent_last_good_timestamp_seconds",
            "Time when everything last matched the file",
            facts.good_at.map(|time| (Vec::new(), unix_s(time))),
        )?;
        to.gauge(
            "emu_agent_last_load_duration_seconds",
            "Duration of the last load",
            facts.took.map(|took| (Vec::new(), took.as_secs_f64())),
        )?;
        to.counter(
            "emu_agent_events",
            "Events that have run",
            ["done", "failed"]
                .into_iter()
                .zip(facts.events)
                .map(|(result, count)| (vec![("result", result.to_owned())], count)),
        )?;
        to.gauge(
            "emu_agent_event_lateness_seconds",
            "Delay of the last event's start against its due time",
            facts.late.map(|late| (Vec::new(), late.as_secs_f64())),
        )?;
        to.gauge(
            "emu_agent_events_start_timestamp_seconds",
            "Time origin of the events",
            facts.zero.map(|zero| (Vec::new(), unix_s(zero))),
        )
    }

    /// The agent's own HTTP server.
    pub fn http(&self, to: &mut Writer<'_, '_>) -> fmt::Result {
        let is_open = f64::from(u8::from(self.facts.is_open_to_all));
        to.gauge(
            "emu_agent_http_open_to_all",
            "Whether everybody who reaches the address can read the metrics",
            one(is_open),
        )?;
        to.gauge(
            "emu_agent_http_connections",
            "Open connections to the HTTP server",
            one(self.refusals.open() as f64),
        )?;
        to.counter(
            "emu_agent_http_refused",
            "Connections and requests that the HTTP server refused, by reason",
            self.refusals
                .counts()
                .map(|(why, count)| (vec![("reason", why.name().to_owned())], count)),
        )
    }
}
