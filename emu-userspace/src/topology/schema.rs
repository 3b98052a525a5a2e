//! The form of a topology file as types, for the JSON Schema that editors use.
//!
//! The file itself is read through a located tree (see `node`), which reports
//! every mistake at once; a test holds the keys of both equal.
#![expect(dead_code, reason = "the fields exist for the schema alone")]
use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};

/// A topology: groups of virtual nodes, their access lines, the latencies between
/// them, and the hosts that carry them.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Version of this form.
    #[schemars(range(min = 1, max = 1))]
    version: u32,
    /// Name, for people.
    name: Option<String>,
    /// `alias`: an address on lo for each vnode; `anyip`: a local route for each
    /// run of vnodes.
    addressing: Option<Addressing>,
    /// Which bytes of a packet a pipe charges: `ip` (default), `ethernet` (+38
    /// bytes), or an explicit overhead.
    accounting: Option<Accounting>,
    /// Largest IP packet on the interfaces that carry vnodes, in bytes.
    #[schemars(range(min = 576, max = 65_535))]
    mtu: Option<u32>,
    /// Settings of the fq qdiscs; computed from the pipes when left out.
    fq: Option<Fq>,
    /// Named access lines to reuse.
    profiles: Option<BTreeMap<String, Profile>>,
    /// Groups by name.
    groups: BTreeMap<String, Group>,
    /// Latencies between groups.
    latencies: Option<Vec<Link>>,
    /// Latencies between groups as a matrix; row: source, column: destination.
    latency_matrix: Option<Matrix>,
    /// Machines that carry vnodes; this one carries all when left out.
    hosts: Option<Vec<Host>>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Addressing {
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
}

/// Bytes added to the IP length of each packet.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Overhead {
    #[schemars(range(min = -64, max = 1_024))]
    overhead: i32,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fq {
    /// Packets in the qdisc.
    limit: Option<u32>,
    /// Packets in one flow.
    flow_limit: Option<u32>,
    /// Farthest delivery time ahead.
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

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct PipeRecord {
    rate: Option<Rate>,
    latency: Option<Time>,
    queue: Option<Queue>,
    burst: Option<Size>,
}

/// An access line.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Profile {
    /// From the vnode into the network.
    up: Option<Pipe>,
    /// From the network to the vnode.
    down: Option<Pipe>,
    /// Latency of the line, one way, in both directions.
    latency: Option<Time>,
    /// Queue limit of both pipes; 50 packets when left out.
    queue: Option<Queue>,
    /// Bytes that may pass at once after the line was idle.
    burst: Option<Size>,
}

/// A prefix with its vnodes.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Group {
    /// Addresses of the group, for example 10.1.0.0/16.
    prefix: String,
    /// Vnodes: the first usable addresses of the prefix.
    nodes: Option<u32>,
    /// Vnodes by address.
    addresses: Option<Vec<String>>,
    /// Access line to start from.
    profile: Option<String>,
    up: Option<Pipe>,
    down: Option<Pipe>,
    latency: Option<Time>,
    queue: Option<Queue>,
    burst: Option<Size>,
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
    latency: Time,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Matrix {
    /// Names of the rows and columns.
    groups: Vec<String>,
    /// One row for each source.
    rows: Vec<Vec<Time>>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Host {
    name: String,
    /// Interface towards the other hosts.
    interface: String,
    /// Address there, which the other hosts route this one's vnodes to; a list has
    /// one of each family.
    address: Option<OneOrTwo>,
    /// Groups of which it carries all vnodes.
    groups: Option<Vec<String>>,
    /// Vnodes by address (`10.1.0.1`) or run (`10.1.0.1-10.1.0.80`).
    nodes: Option<Vec<String>>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
enum OneOrTwo {
    One(String),
    Two(Vec<String>),
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
    use crate::topology::{hosts, parse, sections};

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
        assert_eq!(keys(&definitions["Link"]), read(sections::LINK_KEYS));
        assert_eq!(keys(&definitions["Matrix"]), read(sections::MATRIX_KEYS));
        assert_eq!(keys(&definitions["Host"]), read(hosts::HOST_KEYS));
    }
}
