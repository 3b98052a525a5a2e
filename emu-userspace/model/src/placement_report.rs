//! Placement of a topology on its hosts, and the capacity that the hosts' links need for it.
//! Works on ranges, never on single vnodes.
use serde::Serialize;

use crate::topology::{AddrRange, GroupId, Rate, Topology, merge_adjacent, range_total};

/// Largest number of address ranges in the report of a host.
const MOST_RUNS: usize = 1_000;

/// The vnodes of one group on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupLoad {
    /// Name of the group.
    pub group: String,
    /// Number of its vnodes on the host.
    pub vnodes: u64,
}

/// The load of one host, and the capacity that its link needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostLoad {
    /// Name of the host.
    pub host: String,
    /// Interface towards the other hosts.
    pub interface: String,
    /// Number of vnodes.
    pub vnodes: u64,
    /// The load by group.
    pub groups: Vec<GroupLoad>,
    /// First and last address of each range; the first thousand ranges.
    pub runs: Vec<AddrRange>,
    /// Number of all ranges.
    pub run_count: usize,
    /// Largest rate at which its vnodes can send to vnodes of other hosts, in bits per
    /// second: bounded by their up pipes and by the down pipes of the others. `None` if both
    /// are unlimited.
    pub out_bits_per_sec: Option<u64>,
    /// Largest rate at which its vnodes can receive from other hosts.
    pub in_bits_per_sec: Option<u64>,
    /// Speed of its link, if known.
    pub link_bits_per_sec: Option<u64>,
    /// Whether the link can be the bottleneck, in addition to the emulated pipes.
    pub link_is_limit: bool,
}

/// Sum of the rates of pipes; `None` if one of them is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum(Option<u64>);

impl Sum {
    fn add(&mut self, rate: Option<Rate>, count: u64) {
        let more = rate.map(|rate| rate.0.saturating_mul(count));
        if count > 0 {
            self.0 = self.0.zip(more).map(|(sum, more)| sum.saturating_add(more));
        }
    }

    /// The smaller of both sums.
    fn meet(self, other: Self) -> Option<u64> {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// The load of every host; of this machine if the topology has no hosts. `link` is the speed
/// of links that the file does not state; without it, `speed` returns the speed of this
/// machine's interface of the same name, in bits per second.
pub fn host_loads(
    topology: &Topology,
    link: Option<Rate>,
    speed: impl Fn(&str) -> Option<u64>,
) -> Vec<HostLoad> {
    let slices = topology.slices();
    let counts: Vec<Vec<u64>> = slices
        .iter()
        .map(|parts| {
            let mut counts = vec![0u64; topology.groups.len()];
            for (group, spans) in parts {
                counts[*group] += range_total(spans) as u64;
            }
            counts
        })
        .collect();
    let sums = |count: &dyn Fn(GroupId) -> u64| {
        let (mut up, mut down) = (Sum(Some(0)), Sum(Some(0)));
        for (id, group) in topology.groups.iter().enumerate() {
            up.add(group.up.rate, count(id));
            down.add(group.down.rate, count(id));
        }
        (up, down)
    };
    let mut parts = Vec::with_capacity(slices.len());
    for (host, slice) in slices.into_iter().enumerate() {
        let here = |group: GroupId| counts[host][group];
        let away = |group: GroupId| topology.vnode_count(group) as u64 - counts[host][group];
        let ((up, down), (their_up, their_down)) = (sums(&here), sums(&away));
        let (to_others, from_others) = (up.meet(their_down), their_up.meet(down));
        let of = &topology.hosts[host];
        let speed = of
            .link
            .or(link)
            .map(|rate| rate.0)
            .or_else(|| speed(&of.interface));
        let exceeds = |need: Option<u64>| speed.is_some_and(|s| need.is_none_or(|n| n > s));
        let groups = topology.groups.iter().zip(&counts[host]);
        let mut runs = merge_adjacent(slice.into_iter().flat_map(|(_, spans)| spans).collect());
        let run_count = runs.len();
        runs.truncate(MOST_RUNS);
        parts.push(HostLoad {
            host: of.name.to_string(),
            interface: of.interface.clone(),
            vnodes: counts[host].iter().sum(),
            groups: groups
                .filter(|(_, count)| **count > 0)
                .map(|(group, count)| GroupLoad {
                    group: group.name.to_string(),
                    vnodes: *count,
                })
                .collect(),
            runs,
            run_count,
            out_bits_per_sec: to_others,
            in_bits_per_sec: from_others,
            link_bits_per_sec: speed,
            link_is_limit: topology.hosts.len() > 1 && (exceeds(to_others) || exceeds(from_others)),
        });
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::parse;

    /// This machine has no interface of that name.
    fn unknown(_: &str) -> Option<u64> {
        None
    }

    /// 30 pipes of 10 Mbit/s up here, and 50 of 2 Mbit/s down elsewhere: at most 100 Mbit/s
    /// can pass.
    #[test]
    fn a_link_must_carry_what_both_ends_allow() {
        let text = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 30, up: 10mbit, down: 1mbit}
  b: {prefix: 10.2.0.0/24, nodes: 50, up: 3mbit, down: 2mbit}
hosts:
  - {name: h1, interface: no-such-if, link: 99mbit, groups: [a]}
  - {name: h2, interface: no-such-if, groups: [b]}
";
        let topology = parse(text, "t").unwrap_or_else(|e| panic!("{e}"));
        let found = host_loads(&topology, None, unknown);
        assert_eq!(found[0].out_bits_per_sec, Some(100_000_000));
        assert_eq!(found[0].in_bits_per_sec, Some(30_000_000));
        assert_eq!(found[1].in_bits_per_sec, Some(100_000_000));
        assert!(found[0].link_is_limit && !found[1].link_is_limit);
        assert!(host_loads(&topology, Some(Rate(30_000_000)), unknown)[1].link_is_limit);
        assert_eq!(
            found[1].runs,
            [("10.2.0.1".parse().unwrap(), "10.2.0.50".parse().unwrap())]
        );
    }

    #[test]
    fn lines_without_a_rate_need_any_link() {
        let text = "
version: 1
placement: spread
groups: {a: {prefix: 10.1.0.0/24, nodes: 30}}
hosts: {count: 3, interface: no-such-if, link: 1gbit}
";
        let topology = parse(text, "t").unwrap_or_else(|e| panic!("{e}"));
        let found = host_loads(&topology, None, unknown);
        assert_eq!(found.iter().map(|p| p.vnodes).sum::<u64>(), 30);
        assert!(
            found
                .iter()
                .all(|p| p.out_bits_per_sec.is_none() && p.link_is_limit)
        );
    }
}
