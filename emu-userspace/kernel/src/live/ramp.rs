//! Settings that change gradually from their current values to those of an event.
use std::time::Duration;

use emu_common::{
    layout::{Direction, ImpairmentState, Pipe},
    model::rate,
};
use emu_model::topology::{
    AccessLinkChange, Chance, EventAction, GroupId, Jitter, Loss, PipeChange, Probability, Rate,
    Target,
};

use super::{Changed, Live, LiveError};

/// Time between two steps; a ramp has at least ten steps.
const STEP: Duration = Duration::from_millis(100);

/// The target and its values.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "one for each ramp")]
enum Course {
    Line {
        target: Target,
        from: AccessLinkChange,
        to: AccessLinkChange,
    },
    Link {
        ends: (GroupId, GroupId),
        one_way: bool,
        from: PipeChange,
        to: PipeChange,
    },
}

/// A ramp in progress.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ramp {
    course: Course,
    start: Duration,
    over: Duration,
}

/// Between two numbers.
fn between(from: f64, to: f64, part: f64) -> f64 {
    from + (to - from) * part
}

fn time(from: Duration, to: Duration, part: f64) -> Duration {
    Duration::from_secs_f64(between(from.as_secs_f64(), to.as_secs_f64(), part).max(0.0))
}

/// The settings at a fraction of the ramp; at its end exactly those of the event.
fn at(from: &PipeChange, to: &PipeChange, part: f64) -> PipeChange {
    if part >= 1.0 {
        return *to;
    }
    let mut now = *to;
    if let (Some(Some(a)), Some(Some(b))) = (from.rate, to.rate) {
        let bits = between(a.0 as f64, b.0 as f64, part).round();
        now.rate = Some(Some(Rate(bits as u64)));
    }
    if let (Some(a), Some(b)) = (from.latency, to.latency) {
        now.latency = Some(time(a, b, part));
    }
    let (a, b) = (&from.impairments, &to.impairments);
    if let (Some(a), Some(b)) = (a.jitter, b.jitter) {
        now.impairments.jitter = Some(Jitter {
            spread: time(a.spread, b.spread, part),
            ..b
        });
    }
    if let (Some(Loss::Random(a)), Some(Loss::Random(b))) = (a.loss, b.loss) {
        let fraction = between(a.chance.fraction(), b.chance.fraction(), part);
        now.impairments.loss = Some(Loss::Random(Chance {
            chance: Probability::new(fraction),
            correlation: b.correlation,
        }));
    }
    now
}

/// The current values of the settings of a change.
fn now(
    rate_q20: Option<u64>,
    latency_ns: u64,
    stage: &ImpairmentState,
    change: &PipeChange,
) -> PipeChange {
    let mut from = PipeChange {
        latency: Some(Duration::from_nanos(latency_ns)),
        // An unlimited pipe has no rate to start from, so the new one applies at once.
        rate: rate_q20
            .and_then(rate::rate_bits_per_sec)
            .map(|r| Some(Rate(r))),
        ..PipeChange::default()
    };
    from.impairments.jitter = change.impairments.jitter.map(|jitter| Jitter {
        spread: Duration::from_nanos(stage.jitter_ns),
        ..jitter
    });
    let random = stage.loss_kind == emu_common::model::loss::RANDOM;
    from.impairments.loss = Some(Loss::Random(Chance {
        chance: Probability(if random { stage.loss[0] } else { 0 }),
        correlation: Probability::default(),
    }));
    from
}

impl Ramp {
    /// The ramp of an event, if it is one. It starts at the settings of the first vnode or
    /// pair of its target.
    pub fn begin(live: &Live, start: Duration, what: &EventAction) -> Option<Self> {
        let (course, over) = match what {
            EventAction::AccessLink {
                target,
                change,
                over,
            } if !over.is_zero() => {
                let vnode = *live.vnodes(*target).ok()?.first()?;
                let side = |direction, change: &PipeChange| {
                    let index = live.index(vnode, direction) as usize;
                    let pipe: Pipe = live.maps.pipes.get(index).unwrap_or_default();
                    let stage = live.stage(pipe.stage);
                    now(Some(pipe.ns_per_byte_q20), pipe.latency_ns, &stage, change)
                };
                let from = AccessLinkChange {
                    up: side(Direction::Up, &change.up),
                    down: side(Direction::Down, &change.down),
                };
                let course = Course::Line {
                    target: *target,
                    from,
                    to: *change,
                };
                (course, *over)
            }
            EventAction::Link {
                ends,
                one_way,
                change,
                over,
            } if !over.is_zero() => {
                let groups = live.plan().groups.len();
                let link = live.maps.pairs.get(ends.0 * groups + ends.1)?;
                let capacity = Some(link.pipe as usize)
                    .filter(|index| *index != 0)
                    .and_then(|index| live.maps.pipes.get(index));
                let stage = live.stage(link.stage);
                let from = now(
                    capacity.map(|p| p.ns_per_byte_q20),
                    link.latency_ns,
                    &stage,
                    change,
                );
                let course = Course::Link {
                    ends: *ends,
                    one_way: *one_way,
                    from,
                    to: *change,
                };
                (course, *over)
            }
            _ => return None,
        };
        Some(Self {
            course,
            start,
            over,
        })
    }

    /// Enlarges fq for the end of the ramp, and runs the first step.
    pub fn prepare(&self, live: &mut Live) -> Result<Changed, LiveError> {
        match &self.course {
            Course::Line {
                target, from, to, ..
            } => {
                live.reserve_line(*target, to)?;
                let first = AccessLinkChange {
                    up: at(&from.up, &to.up, 0.0),
                    down: at(&from.down, &to.down, 0.0),
                };
                live.set_line(*target, &first)
            }
            Course::Link {
                ends,
                one_way,
                from,
                to,
            } => {
                live.reserve_pair(*ends, *one_way, to)?;
                live.set_pair(*ends, *one_way, &at(from, to, 0.0))
            }
        }
    }

    /// Applies the settings of the current time.
    pub fn step(&self, live: &mut Live, now: Duration) -> Result<Changed, LiveError> {
        let part = now.saturating_sub(self.start).as_secs_f64() / self.over.as_secs_f64();
        match &self.course {
            Course::Line { target, from, to } => {
                let change = AccessLinkChange {
                    up: at(&from.up, &to.up, part),
                    down: at(&from.down, &to.down, part),
                };
                live.change_line(*target, &change, false)
            }
            Course::Link {
                ends,
                one_way,
                from,
                to,
            } => live.change_pair(*ends, *one_way, &at(from, to, part), false),
        }
    }

    /// Whether the ramp is complete.
    pub fn is_over(&self, now: Duration) -> bool {
        now >= self.start + self.over
    }

    /// Due time of the next step.
    pub fn next(&self, now: Duration) -> Duration {
        let step = STEP.min(self.over / 10).max(Duration::from_millis(1));
        (now + step).min(self.start + self.over).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_goes_straight_and_ends_exactly() {
        let change = |ms, rate, loss| {
            let mut change = PipeChange {
                rate: Some(Some(Rate(rate))),
                latency: Some(Duration::from_millis(ms)),
                ..PipeChange::default()
            };
            change.impairments.loss = Some(Loss::Random(Chance {
                chance: Probability::new(loss),
                correlation: Probability::default(),
            }));
            change
        };
        let (from, to) = (change(10, 1_000_000, 0.5), change(110, 3_000_000, 0.0));
        let half = at(&from, &to, 0.5);
        assert_eq!(half.latency, Some(Duration::from_millis(60)));
        assert_eq!(half.rate, Some(Some(Rate(2_000_000))));
        assert_eq!(half.impairments, change(0, 0, 0.25).impairments);
        assert_eq!(at(&from, &to, 1.0), to);
        assert_eq!(at(&from, &to, 7.0), to);
    }
}
