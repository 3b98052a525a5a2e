//! The `events` section of a file: what happens when, after `emu start`.
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
/// Keys that say what a change is made to.
pub(super) const TARGET_KEYS: &[&str] = &["group", "vnode", "between", "from", "to"];
/// What an event does; each has exactly one.
const DEEDS: [&str; 7] = ["set", "ramp", "partition", "heal", "down", "up", "flap"];
/// Most times that one `flap` takes its target down.
const MOST_FLAPS: u128 = 100_000;

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Since the start of the clock.
    pub at: Duration,
    /// What.
    pub what: EventAction,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a file has few events")]
pub enum EventAction {
    /// Lines change.
    AccessLink {
        /// Whose: a group or a vnode.
        target: Target,
        /// What of them.
        change: AccessLinkChange,
        /// In so long; zero: at once.
        over: Duration,
    },
    /// A link changes.
    Link {
        /// Its ends.
        ends: (GroupId, GroupId),
        /// Whether from the first to the second only.
        one_way: bool,
        /// What of it.
        change: PipeChange,
        /// In so long; zero: at once.
        over: Duration,
    },
    /// Two groups are cut off from each other, or joined again.
    Cut {
        /// The groups.
        ends: (GroupId, GroupId),
        /// Whether cut.
        cut: bool,
    },
    /// Vnodes go down, or come up again.
    Down {
        /// Which: a group or a vnode.
        target: Target,
        /// Whether down.
        down: bool,
    },
    /// A trace begins, or has come to its end.
    Trace {
        /// Its index in [`Topology::traces`].
        index: usize,
        /// Whether it begins.
        begins: bool,
    },
}

impl EventAction {
    /// How long it takes until it is as it says.
    pub fn lasts(&self) -> Duration {
        match self {
            EventAction::AccessLink { over, .. } | EventAction::Link { over, .. } => *over,
            EventAction::Cut { .. } | EventAction::Down { .. } | EventAction::Trace { .. } => {
                Duration::ZERO
            }
        }
    }
}

/// What a change or a trace is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTarget {
    /// Lines.
    AccessLink(Target),
    /// A link: its ends, and whether from the first to the second only.
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

/// Reads the section; `topology` is all the rest of the file.
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
    // A link that could not be read would look like one that is missing.
    reader.links_are_known = record.field().is_sound_so_far();
    for field in list {
        reader.event(&field);
    }
    // In the order of time; of two at once, in the order of the file.
    reader.events.sort_by_key(|event| event.at);
    reader.events
}

pub(super) struct Reader<'a, 'b> {
    groups: &'a Groups<'b>,
    topology: &'a Topology,
    own: &'a [&'a str],
    /// The link that counts for each pair of groups, once somebody asks.
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
                        0 => "nothing happens in this event".to_owned(),
                        _ => format!("two things in one event: {}", deeds.join(" and ")),
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
                    .problem(format!("{} groups where two should be", ends.len()))
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
            field.report(field.problem(format!("{address} is no vnode")));
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

    /// Reports a rate or a queue of a link that has no capacity of its own.
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
                    "give it one in `latencies`, as in `rate: 10gbit`: what holds before the event",
                ),
            Some(CapacityFault::Shared) => field
                .problem(format!(
                    "the capacity between {a} and {b} is that of a link between groups around them"
                ))
                .hint(
                    "change it there, or give these two a link of their own with a `rate` in \
                     `latencies`",
                ),
        };
        field.report(problem);
    }

    /// What a record with [`TARGET_KEYS`] is about.
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
                        .problem("it is not clear what changes")
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

/// What has values between two values.
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
                .problem("not all of this can change little by little")
                .expected("rates, latency, jitter and random loss in a ramp; `set` for the rest"),
        );
        return None;
    }
    Some(())
}
