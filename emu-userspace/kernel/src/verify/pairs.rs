//! Selects the pairs of vnodes that are probed.
use std::{collections::BTreeSet, net::IpAddr};

use emu_model::{
    plan::Plan,
    topology::{GroupId, Part, Topology, addresses},
};

/// Largest number of vnodes of another host's group that are probed.
const MOST_REMOTE: usize = 64;

/// One prober and one responder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Group of the prober, which has vnodes on this host.
    pub from: GroupId,
    /// Group of the responder.
    pub to: GroupId,
    /// A local vnode.
    pub src: IpAddr,
    /// A vnode, here or on another host.
    pub dst: IpAddr,
}

/// Iterates over the vnodes of each group in turn, so that probes of different pairs share as
/// few pipes as possible.
struct Turns {
    vnodes: Vec<Vec<IpAddr>>,
    next: Vec<usize>,
}

impl Turns {
    fn take(&mut self, group: GroupId) -> Option<IpAddr> {
        let vnodes = &self.vnodes[group];
        let address = *vnodes.get(self.next[group] % vnodes.len().max(1))?;
        self.next[group] += 1;
        Some(address)
    }
}

/// Every pair of groups of one family of which one has vnodes on this host, once with the
/// other end here and once with it on another host, as far as it has vnodes there; at most
/// `most`, evenly spread.
///
/// The second value counts pairs that no probe can pass: of two vnodes behind
/// filters neither lets the other's probe in.
pub fn choose(topology: &Topology, plan: &Plan, most: usize) -> (Vec<Pair>, usize) {
    let mut local: Vec<Vec<IpAddr>> = vec![Vec::new(); plan.groups.len()];
    for vnode in &plan.vnodes {
        local[vnode.group].push(vnode.address);
    }
    let here: BTreeSet<GroupId> = (0..local.len()).filter(|g| !local[*g].is_empty()).collect();
    let away = away(topology, plan);
    let (mut wanted, mut filtered) = (Vec::new(), 0);
    for from in &here {
        for (to, elsewhere) in away.iter().enumerate() {
            let twice = here.contains(&to) && to < *from;
            let one_family = plan.is_ipv4(*from) == plan.is_ipv4(to);
            if !one_family {
                continue;
            }
            if here.contains(&to) && !twice {
                if plan.filters(to) && plan.filters(*from) {
                    filtered += 1;
                } else {
                    wanted.push((*from, to, false));
                }
            }
            if !elsewhere.is_empty() {
                if plan.filters(to) {
                    filtered += 1;
                } else {
                    wanted.push((*from, to, true));
                }
            }
        }
    }
    let step = wanted.len().div_ceil(most.max(1)).max(1);
    let turns = |vnodes: Vec<Vec<IpAddr>>| Turns {
        next: vec![0; vnodes.len()],
        vnodes,
    };
    let (mut local, mut away) = (turns(local), turns(away));
    let pairs = wanted
        .into_iter()
        .step_by(step)
        .filter_map(|(from, to, is_away)| {
            // A filter lets in the answers to its vnode's packets, so the probes start there.
            let (from, to) = if plan.filters(to) && !is_away {
                (to, from)
            } else {
                (from, to)
            };
            let src = local.take(from)?;
            let dst = if is_away {
                away.take(to)?
            } else {
                local.take(to)?
            };
            // A group of one vnode has no pair within itself.
            (src != dst).then_some(Pair { from, to, src, dst })
        })
        .collect();
    (pairs, filtered)
}

/// Some vnodes of each group that are on other hosts, taken from these hosts in turn.
fn away(topology: &Topology, plan: &Plan) -> Vec<Vec<IpAddr>> {
    let mut away: Vec<Vec<IpAddr>> = vec![Vec::new(); topology.groups.len()];
    let others: Vec<Vec<Part>> = topology
        .hosts
        .iter()
        .zip(topology.slices())
        .filter(|(host, _)| Some(host.name.as_str()) != plan.host.as_deref())
        .map(|(_, parts)| parts)
        .collect();
    let each = MOST_REMOTE.div_ceil(others.len().max(1));
    for nth in 0..each {
        for (group, spans) in others.iter().flatten() {
            let address = spans.iter().flat_map(|span| addresses(*span)).nth(nth);
            away[*group].extend(address);
        }
    }
    away
}

/// Splits pairs into rounds in which no vnode takes part twice, by index.
pub fn rounds(pairs: &[Pair]) -> Vec<Vec<usize>> {
    let mut rounds: Vec<(Vec<usize>, BTreeSet<IpAddr>)> = Vec::new();
    for (index, pair) in pairs.iter().enumerate() {
        let free = rounds
            .iter_mut()
            .find(|(_, busy)| !busy.contains(&pair.src) && !busy.contains(&pair.dst));
        match free {
            Some((round, busy)) => {
                round.push(index);
                busy.extend([pair.src, pair.dst]);
            }
            None => rounds.push((vec![index], BTreeSet::from([pair.src, pair.dst]))),
        }
    }
    rounds.into_iter().map(|(round, _)| round).collect()
}
