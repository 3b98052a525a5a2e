//! The `events` section of a file: the schedule of changes after `emu start`.
use std::{net::IpAddr, time::Duration};

use super::{
    AccessLinkChange, CapacityFault, GroupId, LinkWay, Loss, PipeChange, Target, Topology,
    change::{LINE_CHANGE_KEYS, LINK_CHANGE_KEYS},
    reader::{Field, Record},
    sections::Groups,
    units,
};

/// Keys of an event.
pub(super) const EVENT_KEYS: &[&str] = &[
    "at",
    "set",
    "ramp",
    "over",
    "partition",
    "heal",
    "down",
    "up",
    "flap",
    "period",
    "down_for",
    "until",
];
/// Keys that name the target of a change.
pub(super) const TARGET_KEYS: &[&str] = &["group", "vnode", "between", "from", "to"];
/// Actions of an event; each event has exactly one.
const DEEDS: [&str; 7] = ["set", "ramp", "partition", "heal", "down", "up", "flap"];
/// Largest number of times that one `flap` takes its target down.
const MOST_FLAPS: u128 = 100_000;

/// An action at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Time since the start of the clock.
    pub at: Duration,
    /// The action.
    pub what: EventAction,
}

/// The action of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a file has few events")]
pub enum EventAction {
    /// Changes access links.
    AccessLink {
        /// A group or a vnode.
        target: Target,
        /// The new settings.
        change: AccessLinkChange,
        /// Duration of the ramp; zero: at once.
        over: Duration,
    },
    /// Changes a link between groups.
    Link {
        /// The groups at its ends.
        ends: (GroupId, GroupId),
        /// Whether only the direction from the first to the second group changes.
        one_way: bool,
        /// The new settings.
        change: PipeChange,
        /// Duration of the ramp; zero: at once.
        over: Duration,
    },
    /// Partitions two groups, or heals the partition.
    Cut {
        /// The groups.
        ends: (GroupId, GroupId),
        /// Whether the groups are partitioned.
        cut: bool,
    },
    /// Takes vnodes down, or brings them up again.
    Down {
        /// A group or a vnode.
        target: Target,
        /// Whether they go down.
        down: bool,
    },
    /// Starts a trace, or ends it.
    Trace {
        /// Its index in [`Topology::traces`].
        index: usize,
        /// Whether it starts.
        begins: bool,
    },
}

impl EventAction {
    /// Time from the start of the action to its completion.
    pub fn lasts(&self) -> Duration {
        match self {
            EventAction::AccessLink { over, .. } | EventAction::Link { over, .. } => *over,
            EventAction::Cut { .. } | EventAction::Down { .. } | EventAction::Trace { .. } => {
                Duration::ZERO
            }
        }
    }
}

/// The target of a change or a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTarget {
    /// Access links.
    AccessLink(Target),
    /// A link between groups: its ends, and whether only the direction from the first to the
    /// second is meant.
    Link((GroupId, GroupId), bool),
}

/// All keys of `set` and `ramp`.
pub(super) fn set_keys() -> Vec<&'static str> {
    let mut keys: Vec<&str> = TARGET_KEYS.to_vec();
    keys.extend(LINE_CHANGE_KEYS);
    keys.extend(
        LINK_CHANGE_KEYS
            .iter()
            .filter(|k| !LINE_CHANGE_KEYS.contains(k)),
    );
    keys
}

/// Reads the section; `topology` is the rest of the file.
pub(super) fn events(
    record: &Record<'_>,
    groups: &Groups<'_>,
    topology: &Topology,
    own: &[&str],
) -> Vec<Event> {
    let Some(list) = record.get("events").and_then(|f| f.list()) else {
        return Vec::new();
    };
    let mut reader = Reader::new(groups, topology, own);
    // A link with an error would look like a missing one.
    reader.links_are_known = record.field().is_sound_so_far();
    for field in list {
        reader.event(&field);
    }
    // In the order of time, and for equal times in the order of the file.
    reader.events.sort_by_key(|event| event.at);
    reader.events
}

pub(super) struct Reader<'a, 'b> {
    groups: &'a Groups<'b>,
    topology: &'a Topology,
    own: &'a [&'a str],
    /// The link that applies to each pair of groups, computed on first use.
    ways: Option<Vec<Option<LinkWay>>>,
    links_are_known: bool,
    events: Vec<Event>,
}

impl<'a, 'b> Reader<'a, 'b> {
    pub fn new(groups: &'a Groups<'b>, topology: &'a Topology, own: &'a [&'a str]) -> Self {
        Self {
            groups,
            topology,
            own,
            ways: None,
            links_are_known: false,
            events: Vec::new(),
        }
    }

    fn event(&mut self, field: &Field<'_>) -> Option<()> {
        let record = field.record(EVENT_KEYS)?;
        let at = record.need("at", "60s").and_then(|f| f.unit(units::time));
        let deeds: Vec<&str> = DEEDS
            .into_iter()
            .filter(|key| record.get(key).is_some())
            .collect();
        let [deed] = deeds[..] else {
            field.report(
                field
                    .problem(match deeds.len() {
                        0 => "this event has no action".to_owned(),
                        _ => format!(
                            "this event has more than one action: {}",
                            deeds.join(" and ")
                        ),
                    })
                    .expected(format!("one of {}", DEEDS.join(", "))),
            );
            return None;
        };
        for (key, owner) in [
            ("over", "ramp"),
            ("period", "flap"),
            ("down_for", "flap"),
            ("until", "flap"),
        ] {
            if let Some(field) = record.get(key).filter(|_| deed != owner) {
                field.report(field.problem(format!("`{key}` belongs to `{owner}`")));
            }
        }
        let value = record.get(deed)?;
        let what = match deed {
            "set" => self.change(&value, Duration::ZERO)?,
            "ramp" => {
                let over = record.need("over", "10s").and_then(|f| f.unit(units::time));
                let what = self.change(&value, over?)?;
                ramps(&value, &what)?;
                what
            }
            "partition" | "heal" => EventAction::Cut {
                ends: self.pair(&value)?,
                cut: deed == "partition",
            },
            "flap" => return self.flap(&record, &value, at),
            _ => EventAction::Down {
                target: self.vnodes(&value)?,
                down: deed == "down",
            },
        };
        self.events.push(Event { at: at?, what });
        Some(())
    }

    fn flap(&mut self, record: &Record<'_>, value: &Field<'_>, at: Option<Duration>) -> Option<()> {
        let time = |key, example| {
            record
                .need(key, example)
                .and_then(|f: Field<'_>| f.unit(units::time))
        };
        let (period, down_for) = (time("period", "5s"), time("down_for", "1s"));
        let (until, target) = (time("until", "120s"), self.vnodes(value));
        let (at, period, down_for) = (at?, period?, down_for?);
        let (until, target) = (until?, target?);
        let wrong = if down_for.is_zero() || down_for >= period {
            Some("`down_for` must be shorter than `period`, and not zero")
        } else if until <= at {
            Some("`until` must be later than `at`: both count from the start")
        } else if (until - at).as_nanos() / period.as_nanos() > MOST_FLAPS {
            Some("that is more than 100000 times")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            value.report(value.problem(wrong));
            return None;
        }
        let mut start = at;
        while start < until {
            for (at, down) in [(start, true), ((start + down_for).min(until), false)] {
                let what = EventAction::Down { target, down };
                self.events.push(Event { at, what });
            }
            start += period;
        }
        Some(())
    }

    /// Two groups.
    fn pair(&self, field: &Field<'_>) -> Option<(GroupId, GroupId)> {
        let ends = field.list()?;
        let [a, b] = &ends[..] else {
            field.report(
                field
                    .problem(format!("expected two groups, found {}", ends.len()))
                    .expected("two groups, as in `[a, b]`"),
            );
            return None;
        };
        let (a, b) = (self.groups.resolve(a), self.groups.resolve(b));
        Some((a?, b?))
    }

    fn vnode(&mut self, field: &Field<'_>) -> Option<Target> {
        let address = field.address()?;
        if self.groups.complete && !self.topology.is_vnode(address) {
            field.report(field.problem(format!("{address} is not a vnode")));
            return None;
        }
        Some(Target::Vnode(address))
    }

    /// A group or a vnode.
    fn vnodes(&mut self, field: &Field<'_>) -> Option<Target> {
        if field.text()?.parse::<IpAddr>().is_ok() {
            return self.vnode(field);
        }
        self.groups.resolve(field).map(Target::Group)
    }

    fn change(&mut self, field: &Field<'_>, over: Duration) -> Option<EventAction> {
        let record = field.record(&set_keys())?;
        let (ends, one_way) = match self.place(&record)? {
            EventTarget::AccessLink(target) => return self.line(&record, target, over),
            EventTarget::Link(ends, one_way) => (ends, one_way),
        };
        foreign(&record, LINK_CHANGE_KEYS, "a link between groups");
        let change = PipeChange::of_link(&record, self.own);
        if change == PipeChange::default() {
            nothing(field);
            return None;
        }
        if let Some(setting) = record.get("rate").or_else(|| record.get("queue")) {
            self.capacity(&setting, ends, one_way);
        }
        Some(EventAction::Link {
            ends,
            one_way,
            change,
            over,
        })
    }

    /// Reports a rate or a queue of a link without a capacity of its own.
    fn capacity(&mut self, field: &Field<'_>, ends: (GroupId, GroupId), one_way: bool) {
        if !self.links_are_known {
            return;
        }
        let topology = self.topology;
        let ways = self.ways.get_or_insert_with(|| topology.pair_links());
        let [a, b] = [ends.0, ends.1].map(|g| topology.groups[g].name.as_str());
        let problem = match topology.capacity_fault(ways, ends, one_way) {
            None => return,
            Some(CapacityFault::Missing) => field
                .problem(format!(
                    "the link between {a} and {b} has no capacity to change"
                ))
                .hint(
                    "give it one in `latencies`, as in `rate: 10gbit`: the initial capacity",
                ),
            Some(CapacityFault::Shared) => field
                .problem(format!(
                    "the capacity between {a} and {b} belongs to a link between groups that contain them"
                ))
                .hint(
                    "change it there, or give these two a link of their own with a `rate` in \
                     `latencies`",
                ),
        };
        field.report(problem);
    }

    /// The target of a record with [`TARGET_KEYS`].
    pub fn place(&mut self, record: &Record<'_>) -> Option<EventTarget> {
        let get = |key| record.get(key);
        match (
            get("group"),
            get("vnode"),
            get("between"),
            get("from"),
            get("to"),
        ) {
            (Some(group), None, None, None, None) => Some(EventTarget::AccessLink(Target::Group(
                self.groups.resolve(&group)?,
            ))),
            (None, Some(vnode), None, None, None) => {
                Some(EventTarget::AccessLink(self.vnode(&vnode)?))
            }
            (None, None, Some(between), None, None) => {
                Some(EventTarget::Link(self.pair(&between)?, false))
            }
            (None, None, None, Some(from), Some(to)) => {
                let ends = (self.groups.resolve(&from), self.groups.resolve(&to));
                Some(EventTarget::Link((ends.0?, ends.1?), true))
            }
            _ => {
                record.field().report(
                    record
                        .field()
                        .problem("the target of the change is not clear")
                        .expected(
                            "one of `group: a`, `vnode: 10.1.0.1`, `between: [a, b]`, or \
                             `from: a` and `to: b`",
                        ),
                );
                None
            }
        }
    }

    fn line(&self, record: &Record<'_>, target: Target, over: Duration) -> Option<EventAction> {
        foreign(record, LINE_CHANGE_KEYS, "a line");
        let change = AccessLinkChange::of(record, self.own);
        if change == AccessLinkChange::default() {
            nothing(record.field());
            return None;
        }
        Some(EventAction::AccessLink {
            target,
            change,
            over,
        })
    }
}

fn nothing(field: &Field<'_>) {
    field.report(
        field
            .problem("nothing changes")
            .expected("settings, as in `latency: 50ms`"),
    );
}

/// Reports keys that this kind of target does not have.
fn foreign(record: &Record<'_>, keys: &[&str], what: &str) {
    for key in set_keys() {
        if let Some(field) = record.get(key)
            && !keys.contains(&key)
            && !TARGET_KEYS.contains(&key)
        {
            field.report(
                field
                    .problem(format!("{what} has no `{key}`"))
                    .expected(format!("one of {}", keys.join(", "))),
            );
        }
    }
}

/// Reports settings that cannot change gradually.
fn ramps(field: &Field<'_>, what: &EventAction) -> Option<()> {
    let can = |change: &PipeChange| {
        let i = &change.impairments;
        let loss = matches!(i.loss, None | Some(Loss::Random(_)));
        let others = i.duplicate.is_some() || i.corrupt.is_some() || i.reorder.is_some();
        loss && !others
            && i.aqm.is_none()
            && change.queue.is_none()
            && change.burst_bytes.is_none()
            && change.rate != Some(None)
    };
    let fine = match what {
        EventAction::AccessLink { change, .. } => can(&change.up) && can(&change.down),
        EventAction::Link { change, .. } => can(change),
        _ => true,
    };
    if !fine {
        field.report(
            field
                .problem("not all of these settings can change gradually")
                .expected("rates, latency, jitter and random loss in a ramp; `set` for the rest"),
        );
        return None;
    }
    Some(())
}
