//! What the next agent must know of this one: when events began, and how far they
//! are. It outlives loads, not the network namespace.
use std::time::Duration;

use emu_kernel::state::{State, StateDir};
use serde::{Deserialize, Serialize};

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Zero of the events' clock, in nanoseconds since 1970.
    pub zero_unix_ns: Option<u64>,
    /// The last event that happened, in nanoseconds since that zero.
    pub done_ns: Option<u64>,
    /// The load that it happened to.
    pub load: Option<LoadMark>,
}

/// Tells one load from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LoadMark {
    at_unix_s: u64,
    copy: String,
    maps: Vec<(String, u32)>,
}

impl LoadMark {
    pub fn of(state: &State) -> Self {
        Self {
            at_unix_s: state.loaded_at_unix_s,
            copy: state.copy.clone(),
            maps: state.map_ids.clone(),
        }
    }
}

impl Record {
    /// The last agent's; an empty one if there is none.
    pub fn read() -> Self {
        let bytes = StateDir::here().ok().and_then(|dir| dir.agent_record());
        let record = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        record.unwrap_or_default()
    }

    /// Until when events happened to a load.
    pub fn done(&self, load: &LoadMark) -> Option<Duration> {
        let done = self.done_ns.filter(|_| self.load.as_ref() == Some(load));
        done.map(Duration::from_nanos)
    }

    pub fn write(&self) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        Ok(StateDir::here()?.store_agent_record(&bytes)?)
    }

    /// Forgets it, when the network is taken back.
    pub fn remove() {
        if let Ok(dir) = StateDir::here() {
            dir.remove_agent_record();
        }
    }
}
