//! The form of a topology file as types, for the JSON Schema that editors use.
//!
//! The file itself is read through a located tree (see `node`), which reports
//! every mistake at once; a test holds the keys of both equal.
#![expect(
    dead_code,
    clippy::large_enum_variant,
    reason = "the types exist for the schema alone"
)]
mod changes;
mod hosts;
mod impair;

use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};

use self::{
    changes::{Event, Trace},
    hosts::{Hosts, Placement},
    impair::{Filtering, Impairments},
};

/// A name of a host, a group, a program, a topology or a run.
#[derive(JsonSchema)]
pub(crate) struct Name(#[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,62}$"))] String);

/// A topology: groups of virtual nodes, their access links, the latencies between them, and
/// the hosts that carry them.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Version of the format.
    #[schemars(range(min = 1, max = 1))]
    version: u32,
    /// Name, for users.
    name: Option<Name>,
    /// What vnodes are: `process` (default): an address that processes of one network namespace
    /// have; `machine`: a network namespace of its own.
    kind: Option<Kind>,
    /// `alias`: an address on lo for each vnode; `anyip`: a local route for each range of
    /// vnodes; `auto` (default): aliases for up to 4,096 vnodes of a host, otherwise routes.
    addressing: Option<Addressing>,
    /// Loopback of the programs of a vnode: `own` (default): 127.0.0.1 and ::1 are the vnode's;
    /// `shared`: they are the machine's, and all vnodes share their ports.
    loopback: Option<Loopback>,
    /// Which bytes of a packet a pipe charges: `ip` (default), `ethernet` (+38
    /// bytes), a DSL or cable encapsulation, or an explicit overhead.
    accounting: Option<Accounting>,
    /// Largest IP packet on the interfaces that carry vnodes, in bytes.
    #[schemars(range(min = 576, max = 65_535))]
    mtu: Option<u32>,
    /// Seed of all random decisions; default: a new one for each load.
    #[schemars(range(min = 0, max = 9_223_372_036_854_775_807i64))]
    seed: Option<i64>,
    /// The file's own jitter distributions: name and file of quantiles, in the form of
    /// iproute2's .dist files.
    distributions: Option<BTreeMap<String, String>>,
    /// Settings of the fq qdiscs; default: computed from the pipes.
    fq: Option<Fq>,
    /// Named access links to reuse.
    profiles: Option<BTreeMap<String, Profile>>,
    /// Groups by name.
    groups: BTreeMap<String, Group>,
    /// Latencies between groups.
    latencies: Option<Vec<Link>>,
    /// Latencies between groups as a matrix; row: source, column: destination.
    latency_matrix: Option<Matrix>,
    /// Distribution of vnodes to the hosts that name none: `block` (in the order of the file,
    /// the default of hosts with a template), `spread` (a block of each group to every host),
    /// `round-robin`, `by-group`.
    placement: Option<Placement>,
    /// Machines that carry vnodes; default: this machine carries all.
    hosts: Option<Hosts>,
    /// One-way latency of the network between the hosts, which is deducted from the
    /// latency between vnodes of different hosts; default: nothing.
    host_latency: Option<String>,
    /// Changes after `emu start`.
    events: Option<Vec<Event>>,
    /// Recordings that access links and links follow after `emu start`.
    traces: Option<Vec<Trace>>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Loopback {
    Own,
    Shared,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Addressing {
    Auto,
    Alias,
    Anyip,
}

#[derive(JsonSchema)]
#[serde(untagged)]
enum Accounting {
    Named(AccountingName),
    Explicit(Overhead),
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AccountingName {
    Ip,
    Ethernet,
    Docsis,
    #[serde(rename = "pppoe-ptm")]
    PppoePtm,
    #[serde(rename = "bridged-ptm")]
    BridgedPtm,
    #[serde(rename = "pppoa-vcmux")]
    PppoaVcmux,
    #[serde(rename = "pppoa-llc")]
    PppoaLlc,
    #[serde(rename = "pppoe-vcmux")]
    PppoeVcmux,
    #[serde(rename = "pppoe-llcsnap")]
    PppoeLlcsnap,
}

/// Bytes added to the IP length of each packet.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Overhead {
    #[schemars(range(min = -64, max = 1_024))]
    overhead: i32,
    /// Whether packets travel in whole ATM cells.
    cells: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fq {
    /// Packets in the qdisc.
    limit: Option<u32>,
    /// Packets in one flow.
    flow_limit: Option<u32>,
    /// Largest delay until the delivery time.
    horizon: Option<Time>,
    /// Hash buckets, a power of two.
    buckets: Option<u32>,
    /// Bits of the flow identifier that are used.
    orphan_mask: Option<u32>,
}

/// A rate with its unit.
#[derive(JsonSchema)]
struct Rate(#[schemars(regex(pattern = r"^[0-9][0-9_.]* ?(bit|kbit|mbit|gbit)$"))] String);

/// A time with its unit.
#[derive(JsonSchema)]
struct Time(#[schemars(regex(pattern = r"^[0-9][0-9_.]* ?(ns|us|µs|ms|s|min)$"))] String);

/// A size with its unit.
#[derive(JsonSchema)]
struct Size(#[schemars(regex(pattern = r"^[0-9][0-9_.]* ?(B|KB|MB|KiB|MiB)$"))] String);

/// A queue limit in packets, bytes or time.
#[derive(JsonSchema)]
struct Queue(
    #[schemars(regex(pattern = r"^[0-9][0-9_.]* ?(packets?|B|KB|MB|KiB|MiB|ns|us|µs|ms|s|min)$"))]
    String,
);

/// A rate, or a pipe in its long form.
#[derive(JsonSchema)]
#[serde(untagged)]
enum Pipe {
    Short(Rate),
    Long(PipeRecord),
}

/// One direction of an access link.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct PipeRecord {
    rate: Option<Rate>,
    latency: Option<Time>,
    queue: Option<Queue>,
    burst: Option<Size>,
    #[serde(flatten)]
    impairments: Impairments,
}

/// An access link.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Profile {
    /// From the vnode into the network.
    up: Option<Pipe>,
    /// From the network to the vnode.
    down: Option<Pipe>,
    /// Latency of the access link, one way, in both directions.
    latency: Option<Time>,
    /// Queue limit of both pipes; default: 50 packets.
    queue: Option<Queue>,
    /// Bytes that may pass at once after the pipe was idle.
    burst: Option<Size>,
    #[serde(flatten)]
    impairments: Impairments,
    /// Which unsolicited packets the filter lets in.
    filtering: Option<Filtering>,
}

/// What a vnode is.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Process,
    Machine,
}

/// A prefix with its vnodes.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Group {
    /// Addresses of the group, for example 10.1.0.0/16.
    prefix: String,
    /// What its vnodes are; default: as the group around it.
    kind: Option<Kind>,
    /// Vnodes: the first usable addresses of the prefix.
    nodes: Option<u32>,
    /// Vnodes by address.
    addresses: Option<Vec<String>>,
    /// Access link to start from.
    profile: Option<String>,
    up: Option<Pipe>,
    down: Option<Pipe>,
    latency: Option<Time>,
    queue: Option<Queue>,
    burst: Option<Size>,
    #[serde(flatten)]
    impairments: Impairments,
    filtering: Option<Filtering>,
    /// Nested groups, with longer prefixes inside this one's.
    groups: Option<BTreeMap<String, Group>>,
}

/// Latency between two groups.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Link {
    /// Both directions.
    between: Option<[String; 2]>,
    /// Source of a one-way link.
    from: Option<String>,
    /// Destination of a one-way link.
    to: Option<String>,
    /// One-way latency.
    latency: Option<Time>,
    /// Capacity of each direction, which all vnodes of a host share.
    rate: Option<Rate>,
    /// Limit of the queue in front of it.
    queue: Option<Queue>,
    #[serde(flatten)]
    impairments: Impairments,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Matrix {
    /// Names of the rows and columns.
    groups: Vec<String>,
    /// One row for each source.
    rows: Vec<Vec<Time>>,
}

/// The JSON Schema of a topology file.
pub fn json_schema() -> String {
    let mut schema = serde_json::to_string_pretty(&schema_for!(File)).unwrap_or_default();
    schema.push('\n');
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{events, hosts, impair, links, parse, sections, traces};

    #[test]
    fn the_schema_has_the_keys_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
        let keys = |definition: &serde_json::Value| -> Vec<String> {
            let mut keys: Vec<String> = definition["properties"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect();
            keys.sort();
            keys
        };
        let read = |keys: &[&str]| {
            let mut keys: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
            keys.sort();
            keys
        };
        let definitions = &schema["$defs"];
        assert_eq!(keys(&schema), read(parse::TOP_KEYS));
        assert_eq!(keys(&definitions["Fq"]), read(parse::FQ_KEYS));
        assert_eq!(keys(&definitions["Profile"]), read(sections::LINE_KEYS));
        assert_eq!(keys(&definitions["PipeRecord"]), read(sections::PIPE_KEYS));
        assert_eq!(keys(&definitions["Group"]), read(sections::GROUP_KEYS));
        assert_eq!(keys(&definitions["Link"]), read(links::LINK_KEYS));
        assert_eq!(keys(&definitions["Matrix"]), read(links::MATRIX_KEYS));
        assert_eq!(keys(&definitions["Host"]), read(hosts::HOST_KEYS));
        assert_eq!(keys(&definitions["HostsAlike"]), read(hosts::ALIKE_KEYS));
        assert_eq!(keys(&definitions["Event"]), read(events::EVENT_KEYS));
        assert_eq!(keys(&definitions["Trace"]), read(traces::TRACE_KEYS));
        assert_eq!(keys(&definitions["Set"]), read(&events::set_keys()));
        for (name, expected) in [
            ("Overhead", parse::OVERHEAD_KEYS),
            ("JitterRecord", impair::JITTER_KEYS),
            ("LossRecord", impair::LOSS_KEYS),
            ("GilbertElliott", impair::GILBERT_KEYS),
            ("Markov", impair::MARKOV_KEYS),
            ("ChanceRecord", impair::CHANCE_KEYS),
            ("ReorderRecord", impair::REORDER_KEYS),
            ("AqmRecord", impair::AQM_KEYS),
            ("Codel", impair::CODEL_KEYS),
            ("Red", impair::RED_KEYS),
            ("FilteringRecord", impair::FILTER_KEYS),
        ] {
            assert_eq!(keys(&definitions[name]), read(expected), "{name}");
        }
        for keys in [sections::LINE_KEYS, sections::PIPE_KEYS, links::LINK_KEYS] {
            assert!(impair::IMPAIR_KEYS.iter().all(|key| keys.contains(key)));
        }
    }
}
