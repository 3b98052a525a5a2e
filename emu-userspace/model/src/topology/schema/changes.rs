//! The form of events and traces.
use schemars::JsonSchema;

use super::{Impairments, PipeRecord, Queue, Rate, Size, Time};

/// A change at a time; exactly one of set, ramp, partition, heal, down, up and flap.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Event {
    /// Time since `emu start`.
    at: Time,
    /// Settings that change at once.
    set: Option<Set>,
    /// Settings that change gradually.
    ramp: Option<Set>,
    /// How long the ramp takes.
    over: Option<Time>,
    /// Two groups to be partitioned.
    partition: Option<[String; 2]>,
    /// Two groups whose partition is healed.
    heal: Option<[String; 2]>,
    /// A group or a vnode that goes down.
    down: Option<String>,
    /// A group or a vnode that comes up again.
    up: Option<String>,
    /// A group or a vnode that goes down repeatedly.
    flap: Option<String>,
    /// Time from one failure to the next.
    period: Option<Time>,
    /// Length of each down time.
    down_for: Option<Time>,
    /// End of the flapping, since `emu start`.
    until: Option<Time>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Beginning {
    Clock,
    FirstPacket,
}

/// A recording, and the access links or the link that follow it.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Trace {
    /// The access links of a group's vnodes, including nested groups.
    group: Option<String>,
    /// The access link of one vnode.
    vnode: Option<String>,
    /// The link between two groups, both directions.
    between: Option<[String; 2]>,
    /// Source of one direction.
    from: Option<String>,
    /// Destination of one direction.
    to: Option<String>,
    /// File for both directions: mahimahi's delivery opportunities, or CSV with the
    /// columns time, rate, latency, loss.
    file: Option<String>,
    /// File for the direction from the vnode into the network.
    up: Option<String>,
    /// File for the direction from the network to the vnode.
    down: Option<String>,
    /// Start, since `emu start`.
    at: Option<Time>,
    /// `clock` (at that time), or `first-packet` (with the first packet after that time).
    begin: Option<Beginning>,
    /// Whether the trace repeats.
    r#loop: Option<bool>,
    /// Time over which delivery opportunities are counted as a rate, 100ms.
    window: Option<Time>,
}

/// A rate, `unlimited`, or a pipe in its long form.
#[derive(JsonSchema)]
#[serde(untagged)]
enum ChangedPipe {
    None(Unlimited),
    Short(Rate),
    Long(PipeRecord),
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Unlimited {
    Unlimited,
}

/// The new settings; as in a group for `group` and `vnode`, as in a link for `between`,
/// `from` and `to`.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Set {
    /// The access links of a group's vnodes, including nested groups.
    group: Option<String>,
    /// The access link of one vnode.
    vnode: Option<String>,
    /// The link between two groups, both directions.
    between: Option<[String; 2]>,
    /// Source of one direction.
    from: Option<String>,
    /// Destination of one direction.
    to: Option<String>,
    up: Option<ChangedPipe>,
    down: Option<ChangedPipe>,
    latency: Option<Time>,
    /// Capacity of a link.
    rate: Option<Rate>,
    queue: Option<Queue>,
    burst: Option<Size>,
    #[serde(flatten)]
    impairments: Impairments,
}
