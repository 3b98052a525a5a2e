//! Who holds what when a topology is spread over hosts, and what their links must
//! carry for it. Nothing is written out vnode by vnode.
use serde::Serialize;

use crate::topology::{GroupId, Rate, Span, Topology, joined, span_total};

/// Runs of vnodes that a host's part shows at most.
const MOST_RUNS: usize = 1_000;

/// A group's vnodes on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupPart {
    /// Name.
    pub group: String,
    /// Vnodes of it here.
    pub vnodes: u64,
}

/// What one host carries, and what its link needs for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPart {
    /// Name.
    pub host: String,
    /// Its interface towards the others.
    pub interface: String,
    /// Vnodes.
    pub vnodes: u64,
    /// By group.
    pub groups: Vec<GroupPart>,
    /// First and last address of each run; the first thousand.
    pub runs: Vec<Span>,
    /// All runs.
    pub run_count: usize,
    /// The most that its vnodes can send to those of other hosts in bits per
    /// second: no more than their up pipes give, and the down pipes of the others
    /// take. None: both are without a rate.
    pub out_bits_per_sec: Option<u64>,
    /// The same from other hosts.
    pub in_bits_per_sec: Option<u64>,
    /// Speed of its link, if it is known.
    pub link_bits_per_sec: Option<u64>,
    /// Whether the link can be the limit, and not the emulated lines alone.
    pub link_is_limit: bool,
}

/// Sum of the rates of pipes; none once one of them has no rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum(Option<u64>);

impl Sum {
    fn add(&mut self, rate: Option<Rate>, count: u64) {
        let more = rate.map(|rate| rate.0.saturating_mul(count));
        if count > 0 {
            self.0 = self.0.zip(more).map(|(sum, more)| sum.saturating_add(more));
        }
    }

    /// What both ends allow.
    fn meet(self, other: Self) -> Option<u64> {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// The part of every host; one part for this machine if the topology has no hosts.
/// `link` is the speed of hosts of which the file says none; without it, `speed` is asked
/// for that of this machine's interface of the same name, in bits per second.
pub fn parts(
    topology: &Topology,
    link: Option<Rate>,
    speed: impl Fn(&str) -> Option<u64>,
) -> Vec<HostPart> {
    let slices = topology.slices();
    let counts: Vec<Vec<u64>> = slices
        .iter()
        .map(|parts| {
            let mut counts = vec![0u64; topology.groups.len()];
            for (group, spans) in parts {
                counts[*group] += span_total(spans) as u64;
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
        let mut runs = joined(slice.into_iter().flat_map(|(_, spans)| spans).collect());
        let run_count = runs.len();
        runs.truncate(MOST_RUNS);
        parts.push(HostPart {
            host: of.name.to_string(),
            interface: of.interface.clone(),
            vnodes: counts[host].iter().sum(),
            groups: groups
                .filter(|(_, count)| **count > 0)
                .map(|(group, count)| GroupPart {
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

    /// The speed of an interface that this machine does not have.
    fn unknown(_: &str) -> Option<u64> {
        None
    }

    /// 30 lines of 10 Mbit/s up and 50 of 2 Mbit/s down elsewhere: 100 Mbit/s is what
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
        let found = parts(&topology, None, unknown);
        assert_eq!(found[0].out_bits_per_sec, Some(100_000_000));
        assert_eq!(found[0].in_bits_per_sec, Some(30_000_000));
        assert_eq!(found[1].in_bits_per_sec, Some(100_000_000));
        assert!(found[0].link_is_limit && !found[1].link_is_limit);
        assert!(parts(&topology, Some(Rate(30_000_000)), unknown)[1].link_is_limit);
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
        let found = parts(&topology, None, unknown);
        assert_eq!(found.iter().map(|p| p.vnodes).sum::<u64>(), 30);
        assert!(
            found
                .iter()
                .all(|p| p.out_bits_per_sec.is_none() && p.link_is_limit)
        );
    }
}
