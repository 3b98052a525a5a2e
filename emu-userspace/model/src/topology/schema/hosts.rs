//! Hosts and the vnodes that they carry.
use schemars::JsonSchema;

use super::{Name, Rate};

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Placement {
    Block,
    Spread,
    RoundRobin,
    ByGroup,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Hosts {
    Listed(Vec<Host>),
    Alike(HostsAlike),
}

/// Hosts with a common template, numbered from 0.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HostsAlike {
    /// Number of hosts.
    #[schemars(range(min = 1, max = 4_096))]
    count: u32,
    /// Name with `{rank}` for the number; `h{rank}` when left out.
    name: Option<String>,
    /// Interface towards the other hosts.
    interface: String,
    /// Address of the first host; each following host has the next address.
    address: Option<OneOrTwo>,
    /// Speed of each host's link.
    link: Option<Rate>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Host {
    name: Name,
    /// Interface towards the other hosts.
    interface: String,
    /// Address there, to which the other hosts route packets for this host's vnodes; a list
    /// has one of each family.
    address: Option<OneOrTwo>,
    /// Speed of its link; `emu plan` reports whether it is sufficient.
    link: Option<Rate>,
    /// Groups of which it carries all vnodes.
    groups: Option<Vec<String>>,
    /// Vnodes by address (`10.1.0.1`) or range (`10.1.0.1-10.1.0.80`).
    nodes: Option<Vec<String>>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum OneOrTwo {
    One(String),
    Two(Vec<String>),
}
