//! Events as text, one line each, in the notation of the file.
use std::{fmt, time::Duration};

use super::{AccessLinkChange, EventAction, EventTarget, Loss, PipeChange, Rate, Target, Topology};
use crate::topology::GroupId;

/// A change in the notation of the file, and the key for its rate.
struct ChangeText<'a>(&'a PipeChange, &'a str);

impl fmt::Display for ChangeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(change, rate_key) = self;
        let i = &change.impairments;
        if let Some(rate) = change.rate {
            let rate = rate.map_or("unlimited".to_owned(), |r: Rate| r.to_string());
            write!(f, " {rate_key}={rate}")?;
        }
        let time = |t: Duration| humantime::format_duration(t).to_string().replace(' ', "");
        if let Some(latency) = change.latency {
            write!(f, " latency={}", time(latency))?;
        }
        if let Some(queue) = change.queue {
            write!(f, " queue={queue}")?;
        }
        if let Some(jitter) = i.jitter {
            write!(f, " jitter={}", time(jitter.spread))?;
        }
        match i.loss {
            Some(Loss::Random(chance)) => {
                write!(f, " loss={}%", percent(chance.chance.fraction()))?;
            }
            Some(_) => write!(f, " loss=chain")?,
            None => {}
        }
        for (name, given) in [
            ("burst", change.burst_bytes.is_some()),
            ("duplicate", i.duplicate.is_some()),
            ("corrupt", i.corrupt.is_some()),
            ("reorder", i.reorder.is_some()),
            ("aqm", i.aqm.is_some()),
        ] {
            if given {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

/// Per cent with up to three decimals.
fn percent(fraction: f64) -> f64 {
    (fraction * 1e5).round() / 1e3
}

impl EventAction {
    /// The event in one line.
    pub fn to_text(&self, topology: &Topology) -> String {
        let group = |id: &GroupId| topology.groups[*id].name.as_str();
        let of = |target: &Target| match target {
            Target::Group(id) => group(id).to_owned(),
            Target::Vnode(address) => address.to_string(),
            Target::Pair(a, b) => format!("{}:{}", group(a), group(b)),
        };
        let verb = |over: &Duration| {
            if over.is_zero() {
                "set".to_owned()
            } else {
                format!("ramp over {}", humantime::format_duration(*over))
            }
        };
        match self {
            EventAction::AccessLink {
                target,
                change: AccessLinkChange { up, down },
                over,
            } => {
                // Settings that both directions share are printed once.
                let same = PipeChange { rate: None, ..*up };
                let (verb, of) = (verb(over), of(target));
                if same
                    == (PipeChange {
                        rate: None,
                        ..*down
                    })
                {
                    let rate = |rate| PipeChange {
                        rate,
                        ..PipeChange::default()
                    };
                    let (up, down) = (rate(up.rate), rate(down.rate));
                    return format!(
                        "{verb} {of}{}{}{}",
                        ChangeText(&up, "up"),
                        ChangeText(&down, "down"),
                        ChangeText(&same, "rate")
                    );
                }
                let side = |name: &str, change: &PipeChange| {
                    if *change == PipeChange::default() {
                        String::new()
                    } else {
                        format!(" {name}:{}", ChangeText(change, "rate"))
                    }
                };
                format!("{verb} {of}{}{}", side("up", up), side("down", down))
            }
            EventAction::Link {
                ends: (a, b),
                one_way,
                change,
                over,
            } => {
                let arrow = if *one_way { " to " } else { ":" };
                format!(
                    "{} {}{arrow}{}{}",
                    verb(over),
                    group(a),
                    group(b),
                    ChangeText(change, "rate")
                )
            }
            EventAction::Cut { ends: (a, b), cut } => {
                let verb = if *cut { "partition" } else { "heal" };
                format!("{verb} {} {}", group(a), group(b))
            }
            EventAction::Trace { index, begins } => {
                let trace = &topology.traces[*index];
                let place = match &trace.target {
                    EventTarget::AccessLink(target) => of(target),
                    EventTarget::Link((a, b), _) => format!("{}:{}", group(a), group(b)),
                };
                let verb = if *begins { "begins" } else { "ends" };
                format!("trace {} of {place} {verb}", trace.file.display())
            }
            EventAction::Down { target, down } => {
                format!("{} {}", if *down { "down" } else { "up" }, of(target))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::topology::parse;

    #[test]
    fn events_are_told_as_they_were_written() {
        let text = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 2}
  b: {prefix: 10.2.0.0/24, nodes: 2}
latencies: [{between: [a, b], rate: 10mbit}]
events:
  - {at: 1s, set: {group: a, up: 64kbit, latency: 50ms, loss: 0.5%}}
  - {at: 2s, set: {vnode: 10.1.0.1, down: {queue: 64KB}}}
  - {at: 3s, ramp: {between: [a, b], latency: 1.5s}, over: 10s}
  - {at: 4s, set: {from: a, to: b, rate: 1mbit, aqm: codel}}
  - {at: 5s, partition: [a, b]}
  - {at: 6s, up: 10.1.0.2}
";
        let topology = parse(text, "t").unwrap_or_else(|e| panic!("{e}"));
        let told: Vec<String> = topology
            .events
            .iter()
            .map(|event| event.what.to_text(&topology))
            .collect();
        assert_eq!(
            told,
            [
                "set a up=64kbit latency=50ms loss=0.5%",
                "set 10.1.0.1 down: queue=64KB",
                "ramp over 10s a:b latency=1s500ms",
                "set a to b rate=1mbit aqm",
                "partition a b",
                "up 10.1.0.2",
            ]
        );
    }
}
