//! The state that the next agent continues from: the time origin of the events, and the last
//! event that has run. It outlives loads, but not the network namespace.
use std::time::Duration;

use emu_kernel::state::{State, StateDir};
use serde::{Deserialize, Serialize};

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct AgentRecord {
    /// Zero of the events' clock, in nanoseconds since 1970.
    pub zero_unix_ns: Option<u64>,
    /// Time of the last event that has run, in nanoseconds since the origin.
    pub done_ns: Option<u64>,
    /// The load in which it ran.
    pub load: Option<LoadMark>,
}

/// Identifies a load.
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

impl AgentRecord {
    /// The record of the last agent; an empty one if there is none.
    pub fn read() -> Self {
        let bytes = StateDir::here().ok().and_then(|dir| dir.agent_record());
        let record = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        record.unwrap_or_default()
    }

    /// Time up to which events have run in a load.
    pub fn done(&self, load: &LoadMark) -> Option<Duration> {
        let done = self.done_ns.filter(|_| self.load.as_ref() == Some(load));
        done.map(Duration::from_nanos)
    }

    pub fn write(&self) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        Ok(StateDir::here()?.store_agent_record(&bytes)?)
    }

    /// Removes the record, when the network is unloaded.
    pub fn remove() {
        if let Ok(dir) = StateDir::here() {
            dir.remove_agent_record();
        }
    }
}
