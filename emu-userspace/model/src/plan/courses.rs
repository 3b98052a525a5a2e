//! Rates that events give to pipes.
//!
//! Events are known before they happen, so the kernel programs can follow their rates as they
//! follow a trace: a packet that waits through a change departs by the rates of both times, and
//! no process has to be punctual.
use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use emu_common::layout::Direction;

use super::PlanVnode;
use crate::{
    recording::{Recording, RecordingRow},
    topology::{EventAction, GroupId, PipeChange, Rate, Target, Topology},
};

/// Time between two rates of a ramp, of which it has at least [`LEAST_STEPS`] and at most
/// [`MOST_STEPS`].
const STEP: Duration = Duration::from_millis(10);
const LEAST_STEPS: u128 = 10;
const MOST_STEPS: u128 = 1_000;

/// The pipes that follow the same rates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followers {
    /// Access links of these vnodes, by their index in the plan, in one direction.
    Vnodes(Vec<usize>, Direction),
    /// The capacity between two groups, in both directions unless the flag says from the first
    /// to the second only.
    Link((GroupId, GroupId), bool),
}

/// Rates at the times of events, and the pipes that have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// The pipes.
    pub followers: Followers,
    /// A row for each rate, the first that of the file.
    pub recording: Recording,
}

/// A change of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RateChange {
    at: Duration,
    over: Duration,
    rate: Option<Rate>,
}

/// The rate at each time; none if it is not known beforehand, or if the programs cannot follow
/// it: without a limit there is no schedule, and of a ramp that another event interrupts the
/// later steps count.
fn recording<'a>(
    initial: Option<Rate>,
    changes: impl Iterator<Item = &'a RateChange>,
) -> Option<Recording> {
    let mut now = initial?;
    let mut rates: BTreeMap<Duration, Rate> = BTreeMap::from([(Duration::ZERO, now)]);
    let mut busy_until = Duration::ZERO;
    for change in changes {
        let to = change.rate?;
        if change.at < busy_until {
            return None;
        }
        let steps = (change.over.as_nanos() / STEP.as_nanos()).clamp(LEAST_STEPS, MOST_STEPS);
        let steps = if change.over.is_zero() {
            0
        } else {
            steps as u32
        };
        for step in 0..steps {
            // The mean of the step, so that the work is that of the ramp.
            let part = (f64::from(step) + 0.5) / f64::from(steps);
            let bits = now.0 as f64 + (to.0 as f64 - now.0 as f64) * part;
            let at = change.at + change.over * step / steps;
            rates.insert(at, Rate(bits.round() as u64));
        }
        busy_until = change.at + change.over;
        rates.insert(busy_until, to);
        now = to;
    }
    let row = |(at, rate): (&Duration, &Rate)| RecordingRow {
        at: *at,
        change: PipeChange {
            rate: Some(Some(*rate)),
            ..PipeChange::default()
        },
    };
    Some(Recording {
        rows: rates.iter().map(row).collect(),
        end: busy_until,
    })
}

/// Changes with their places among all events.
type Placed = Vec<(usize, RateChange)>;

/// The changes of rates in the events of a topology.
#[derive(Default)]
struct Changes {
    /// By group and direction.
    groups: BTreeMap<(GroupId, usize), Placed>,
    /// Those of a vnode alone.
    vnodes: BTreeMap<(IpAddr, usize), Placed>,
    /// By the groups at the ends, and whether one direction is meant.
    links: Vec<((GroupId, GroupId), bool, Placed)>,
}

impl Changes {
    fn of(topology: &Topology) -> Self {
        let mut all = Self::default();
        for (place, event) in topology.events.iter().enumerate() {
            let change = |change: &PipeChange, over: &Duration| {
                let (at, over) = (event.at, *over);
                let rate = change.rate?;
                Some((place, RateChange { at, over, rate }))
            };
            match &event.what {
                EventAction::AccessLink {
                    target,
                    change: line,
                    over,
                } => {
                    for (direction, side) in [&line.up, &line.down].into_iter().enumerate() {
                        if let Some(change) = change(side, over) {
                            all.line(topology, *target, direction, change);
                        }
                    }
                }
                EventAction::Link {
                    ends,
                    one_way,
                    change: link,
                    over,
                } => {
                    if let Some(change) = change(link, over) {
                        let known = |l: &&mut (_, _, _)| (l.0, l.1) == (*ends, *one_way);
                        match all.links.iter_mut().find(known) {
                            Some((_, _, changes)) => changes.push(change),
                            None => all.links.push((*ends, *one_way, vec![change])),
                        }
                    }
                }
                EventAction::Cut { .. } | EventAction::Down { .. } | EventAction::Trace { .. } => {}
            }
        }
        all
    }

    fn line(
        &mut self,
        topology: &Topology,
        target: Target,
        direction: usize,
        change: (usize, RateChange),
    ) {
        match target {
            Target::Group(group) => {
                for inside in topology.tree(group) {
                    let changes = self.groups.entry((inside, direction)).or_default();
                    changes.push(change);
                }
            }
            Target::Vnode(address) => {
                let changes = self.vnodes.entry((address, direction)).or_default();
                changes.push(change);
            }
            Target::Pair(..) => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.vnodes.is_empty() && self.links.is_empty()
    }
}

impl Course {
    /// The courses of a topology's events, in an order that does not depend on which vnodes
    /// there are.
    pub(super) fn all(topology: &Topology, vnodes: &[PlanVnode]) -> Vec<Self> {
        let changes = Changes::of(topology);
        // Most topologies have none, and each command of emu plans.
        if changes.is_empty() {
            return Vec::new();
        }
        let mut single: BTreeMap<(IpAddr, usize), usize> = BTreeMap::new();
        let mut members: HashMap<(GroupId, usize), Vec<usize>> = HashMap::new();
        for (index, vnode) in vnodes.iter().enumerate() {
            for direction in 0..2 {
                let own = (vnode.address, direction);
                if changes.vnodes.contains_key(&own) {
                    single.insert(own, index);
                } else if changes.groups.contains_key(&(vnode.group, direction)) {
                    let of_group = members.entry((vnode.group, direction)).or_default();
                    of_group.push(index);
                }
            }
        }
        let initial = |group: GroupId, direction: usize| {
            let group = &topology.groups[group];
            [group.up.rate, group.down.rate][direction]
        };
        let of_groups = changes.groups.iter().map(|(key, list)| {
            let members = members.remove(key).unwrap_or_default();
            let followers = Followers::Vnodes(members, DIRECTIONS[key.1]);
            Self::new(followers, initial(key.0, key.1), list)
        });
        // The events of one vnode stand among those of its group.
        let of_vnodes = single.iter().map(|((address, direction), index)| {
            let group = vnodes[*index].group;
            let mut list = changes.vnodes[&(*address, *direction)].clone();
            list.extend(
                changes
                    .groups
                    .get(&(group, *direction))
                    .into_iter()
                    .flatten(),
            );
            list.sort_by_key(|(place, _)| *place);
            let followers = Followers::Vnodes(vec![*index], DIRECTIONS[*direction]);
            Self::new(followers, initial(group, *direction), &list)
        });
        let ways = match changes.links.is_empty() {
            true => Vec::new(),
            false => topology.pair_links(),
        };
        let of_links = changes.links.iter().map(|((a, b), one_way, list)| {
            let way = ways[a * topology.groups.len() + b];
            let initial = way.and_then(|way| topology.links[way.link].rate);
            Self::new(Followers::Link((*a, *b), *one_way), initial, list)
        });
        of_groups
            .chain(of_vnodes)
            .chain(of_links)
            .flatten()
            .collect()
    }

    /// A course, if the programs can follow these changes.
    fn new(
        followers: Followers,
        initial: Option<Rate>,
        changes: &[(usize, RateChange)],
    ) -> Option<Self> {
        let recording = recording(initial, changes.iter().map(|(_, change)| change))?;
        Some(Self {
            followers,
            recording,
        })
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::Up, Direction::Down];
const _: () = assert!(Direction::Up as usize == 0 && Direction::Down as usize == 1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::Plan, topology};

    fn courses(events: &str) -> Vec<(Followers, Vec<(u64, u64)>)> {
        let text = format!(
            "version: 1\ngroups:\n  \
             a: {{prefix: 10.1.0.0/24, nodes: 3, up: 1mbit, down: 8mbit}}\n  \
             b: {{prefix: 10.2.0.0/24, nodes: 1, up: 5mbit}}\n\
             latencies: [{{between: [a, b], latency: 1ms, rate: 50mbit}}]\nevents:\n{events}"
        );
        let topology = topology::parse(&text, "t.yaml").unwrap_or_else(|e| panic!("{e}"));
        let plan = Plan::new(&topology, None).unwrap();
        let row = |row: &RecordingRow| {
            let kbit = row.change.rate.flatten().unwrap().0 / 1_000;
            (row.at.as_millis() as u64, kbit)
        };
        let course = |c: &Course| {
            let rows = c.recording.rows.iter().map(row).collect();
            (c.followers.clone(), rows)
        };
        plan.courses.iter().map(course).collect()
    }

    #[test]
    fn a_vnode_has_its_own_events_among_those_of_its_group() {
        let found = courses(
            "  - {at: 2s, set: {group: a, down: 100kbit, latency: 9ms}}\n  \
             - {at: 3s, set: {vnode: 10.1.0.2, down: 200kbit}}\n  \
             - {at: 4s, set: {group: a, down: 8mbit}}\n",
        );
        let down = |vnodes: &[usize]| Followers::Vnodes(vnodes.to_vec(), Direction::Down);
        let of_group = (
            down(&[0, 2]),
            vec![(0, 8_000), (2_000, 100), (4_000, 8_000)],
        );
        let of_vnode = (
            down(&[1]),
            vec![(0, 8_000), (2_000, 100), (3_000, 200), (4_000, 8_000)],
        );
        assert_eq!(found, [of_group, of_vnode]);
    }

    #[test]
    fn a_ramp_has_the_mean_of_each_step() {
        let found = courses("  - {at: 1s, ramp: {group: b, up: 1mbit}, over: 50ms}\n");
        let [(followers, rows)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(*followers, Followers::Vnodes(vec![3], Direction::Up));
        assert_eq!(rows.len(), 12);
        assert_eq!(rows[..3], [(0, 5_000), (1_000, 4_800), (1_005, 4_400)]);
        assert_eq!(rows[10..], [(1_045, 1_200), (1_050, 1_000)]);
    }

    #[test]
    fn a_capacity_has_its_events() {
        let found = courses("  - {at: 1s, set: {from: a, to: b, rate: 1mbit}}\n");
        let rows = vec![(0, 50_000), (1_000, 1_000)];
        assert_eq!(found, [(Followers::Link((0, 1), true), rows)]);
    }

    #[test]
    fn what_no_schedule_can_say_is_left_to_the_process() {
        for events in [
            // Without a limit, before or after.
            "  - {at: 1s, set: {group: a, up: unlimited}}\n",
            "  - {at: 1s, set: {group: b, down: 1mbit}}\n",
            // In the middle of a ramp.
            "  - {at: 1s, ramp: {group: a, up: 2mbit}, over: 10s}\n  \
             - {at: 5s, set: {group: a, up: 3mbit}}\n",
            // No rate.
            "  - {at: 1s, set: {group: a, latency: 20ms}}\n",
        ] {
            assert_eq!(courses(events), [], "{events}");
        }
    }
}
