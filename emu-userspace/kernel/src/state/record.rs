//! The content of `identity.json`: the programs that are attached for processes.
use serde::{Deserialize, Serialize};

/// Facts about the attached programs that later commands need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRecord {
    /// Identifier of the namespace's cgroup.
    pub cgroup_id: u64,
    /// Identifier of the map of identities.
    pub map_id: u32,
    /// Identifier of the map of counters.
    pub events_map_id: u32,
    /// Whether vnodes can have a `::1` of their own.
    #[serde(default)]
    pub has_loopback_v6: bool,
}
