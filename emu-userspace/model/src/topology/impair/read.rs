//! Reading impairments and filters from a file.
use std::time::Duration;

use super::{Aqm, Chance, Filtering, Jitter, Loss, Probability, Reorder};
use crate::topology::{
    reader::{Field, Record, resolve},
    units,
};

/// Keys of the long form of `jitter`.
pub(in crate::topology) const JITTER_KEYS: &[&str] =
    &["spread", "distribution", "correlation", "overtake"];
/// Keys of the long form of `loss`.
pub(in crate::topology) const LOSS_KEYS: &[&str] =
    &["random", "correlation", "gilbert_elliott", "markov"];
/// Keys of `gilbert_elliott`.
pub(in crate::topology) const GILBERT_KEYS: &[&str] =
    &["to_bad", "to_good", "loss_in_bad", "loss_in_good"];
/// Keys of `markov`.
pub(in crate::topology) const MARKOV_KEYS: &[&str] = &["p13", "p31", "p32", "p23", "p14"];
/// Keys of the long form of `duplicate` and `corrupt`.
pub(in crate::topology) const CHANCE_KEYS: &[&str] = &["chance", "correlation"];
/// Keys of the long form of `reorder`.
pub(in crate::topology) const REORDER_KEYS: &[&str] = &["chance", "correlation", "gap"];
/// Keys of `aqm`.
pub(in crate::topology) const AQM_KEYS: &[&str] = &["codel", "red"];
/// Keys of `codel`.
pub(in crate::topology) const CODEL_KEYS: &[&str] = &["target", "interval", "ecn"];
/// Keys of `red`.
pub(in crate::topology) const RED_KEYS: &[&str] = &["min", "max", "probability", "weight", "ecn"];
/// Keys of `filtering`.
pub(in crate::topology) const FILTER_KEYS: &[&str] = &["behaviour", "timeout"];

/// Distributions that need no file.
const BUILT_IN: [&str; 4] = ["uniform", "normal", "pareto", "paretonormal"];

fn probability(field: &Field<'_>) -> Option<Probability> {
    field.unit(units::probability)
}

/// A probability under a key, or a default.
fn under(record: &Record<'_>, key: &str, default: Probability) -> Option<Probability> {
    match record.get(key) {
        Some(field) => probability(&field),
        None => Some(default),
    }
}

fn needed(record: &Record<'_>, key: &str) -> Option<Probability> {
    record.need(key, "1%").and_then(|f| probability(&f))
}

fn flag(record: &Record<'_>, key: &str) -> Option<bool> {
    record.get(key).map_or(Some(false), |f| f.boolean())
}

pub(super) fn jitter(field: &Field<'_>, own: &[&str]) -> Option<Jitter> {
    if !field.is_map() {
        return Some(Jitter {
            spread: field.unit(units::time)?,
            distribution: emu_common::model::jitter::UNIFORM,
            correlation: Probability::default(),
            overtake: false,
        });
    }
    let record = field.record(JITTER_KEYS)?;
    let spread = record.need("spread", "5ms")?.unit(units::time)?;
    let known = BUILT_IN.iter().chain(own).copied();
    let distribution = match record.get("distribution") {
        Some(field) => resolve(&field, "distribution", known)? as u32,
        None => emu_common::model::jitter::UNIFORM,
    };
    Some(Jitter {
        spread,
        distribution,
        correlation: under(&record, "correlation", Probability::default())?,
        overtake: flag(&record, "overtake")?,
    })
}

pub(super) fn loss(field: &Field<'_>) -> Option<Loss> {
    if !field.is_map() {
        let chance = probability(field)?;
        return Some(Loss::Random(Chance {
            chance,
            correlation: Probability::default(),
        }));
    }
    let record = field.record(LOSS_KEYS)?;
    let (random, ge, markov) = (
        record.get("random"),
        record.get("gilbert_elliott"),
        record.get("markov"),
    );
    match (random, ge, markov) {
        (Some(random), None, None) => Some(Loss::Random(Chance {
            chance: probability(&random)?,
            correlation: under(&record, "correlation", Probability::default())?,
        })),
        (None, Some(field), None) => {
            let record = field.record(GILBERT_KEYS)?;
            Some(Loss::GilbertElliott {
                to_bad: needed(&record, "to_bad")?,
                to_good: needed(&record, "to_good")?,
                in_bad: under(&record, "loss_in_bad", Probability::CERTAIN)?,
                in_good: under(&record, "loss_in_good", Probability::default())?,
            })
        }
        (None, None, Some(field)) => markov_chain(&field),
        _ => {
            field.report(
                field
                    .problem("the loss model is not clear")
                    .expected("one of `random`, `gilbert_elliott` and `markov`, or `loss: 1%`"),
            );
            None
        }
    }
}

fn markov_chain(field: &Field<'_>) -> Option<Loss> {
    let record = field.record(MARKOV_KEYS)?;
    let mut p = [Probability::default(); 5];
    for (key, p) in MARKOV_KEYS.iter().zip(&mut p) {
        *p = under(&record, key, Probability::default())?;
    }
    let [p13, p31, p32, _, p14] = p.map(Probability::fraction);
    for (a, b, names) in [(p13, p14, "p13 and p14"), (p31, p32, "p31 and p32")] {
        if a + b > 1.0 {
            field.report(
                field
                    .problem(format!("{names} together are more than 100%"))
                    .expected("probabilities of the transitions out of one state"),
            );
            return None;
        }
    }
    Some(Loss::Markov(p))
}

pub(super) fn chance(field: &Field<'_>) -> Option<Chance> {
    if !field.is_map() {
        return Some(Chance {
            chance: probability(field)?,
            correlation: Probability::default(),
        });
    }
    let record = field.record(CHANCE_KEYS)?;
    Some(Chance {
        chance: needed(&record, "chance")?,
        correlation: under(&record, "correlation", Probability::default())?,
    })
}

pub(super) fn reorder(field: &Field<'_>) -> Option<Reorder> {
    if !field.is_map() {
        return Some(Reorder {
            chance: chance(field)?,
            gap: 1,
        });
    }
    let record = field.record(REORDER_KEYS)?;
    Some(Reorder {
        chance: Chance {
            chance: needed(&record, "chance")?,
            correlation: under(&record, "correlation", Probability::default())?,
        },
        gap: match record.get("gap") {
            Some(field) => field.number(1, i64::from(u32::MAX))? as u32,
            None => 1,
        },
    })
}

fn time_or(record: &Record<'_>, key: &str, default: Duration) -> Option<Duration> {
    match record.get(key) {
        Some(field) => field.unit(units::time),
        None => Some(default),
    }
}

fn codel(record: Option<&Record<'_>>) -> Option<Aqm> {
    let time = |key, ms| {
        let default = Duration::from_millis(ms);
        record.map_or(Some(default), |r| time_or(r, key, default))
    };
    Some(Aqm::Codel {
        target: time("target", 5)?,
        interval: time("interval", 100)?,
        ecn: record.map_or(Some(false), |r| flag(r, "ecn"))?,
    })
}

pub(super) fn aqm(field: &Field<'_>) -> Option<Aqm> {
    if !field.is_map() {
        return match field.text()? {
            "codel" => codel(None),
            other => {
                field.report(field.problem(format!("`{other}` is not an AQM")).expected(
                    "`codel`, `{codel: {target: 5ms}}` or `{red: {min: 20ms, max: 60ms}}`",
                ));
                None
            }
        };
    }
    let record = field.record(AQM_KEYS)?;
    match (record.get("codel"), record.get("red")) {
        (Some(field), None) => codel(Some(&field.record(CODEL_KEYS)?)),
        (None, Some(field)) => red(&field),
        _ => {
            field.report(
                field
                    .problem("the AQM is not clear")
                    .expected("one of `codel` and `red`"),
            );
            None
        }
    }
}

fn red(field: &Field<'_>) -> Option<Aqm> {
    let record = field.record(RED_KEYS)?;
    let min = record.need("min", "20ms")?.unit(units::time)?;
    let max = record.need("max", "60ms")?.unit(units::time)?;
    if max <= min {
        field.report(
            field
                .problem("`max` is not longer than `min`")
                .expected("two average waits, the second longer"),
        );
        return None;
    }
    Some(Aqm::Red {
        min,
        max,
        probability: under(&record, "probability", Probability::new(0.1))?,
        weight_bits: match record.get("weight") {
            Some(field) => field.number(0, 16)? as u32,
            None => 9,
        },
        ecn: flag(&record, "ecn")?,
    })
}

/// Reads `filtering`.
pub(in crate::topology) fn filtering(field: &Field<'_>) -> Option<Filtering> {
    const CLASSES: [&str; 4] = [
        "open",
        "endpoint-independent",
        "address-dependent",
        "address-and-port-dependent",
    ];
    let class = |field: &Field<'_>| {
        resolve(field, "filtering behaviour", CLASSES.iter().copied()).map(|i| i as u32)
    };
    let default = Filtering::default();
    if !field.is_map() {
        return Some(Filtering {
            class: class(field)?,
            ..default
        });
    }
    let record = field.record(FILTER_KEYS)?;
    Some(Filtering {
        class: class(&record.need("behaviour", "address-dependent")?)?,
        timeout: time_or(&record, "timeout", default.timeout)?,
    })
}

/// Reads `distributions`: names of tables and their files.
pub(in crate::topology) fn distributions<'a>(record: &Record<'a>) -> Vec<(&'a str, &'a str)> {
    let Some(section) = record.get("distributions") else {
        return Vec::new();
    };
    let most = emu_common::model::jitter::TABLES as usize - BUILT_IN.len();
    let own = section.named();
    if own.len() > most {
        section.report(
            section
                .problem(format!("there are {} distributions", own.len()))
                .expected(format!("at most {most}")),
        );
    }
    own.into_iter()
        .filter_map(|(name, at, field)| {
            field.checked_name(at, name);
            if BUILT_IN.contains(&name) {
                field.report(
                    field
                        .problem(format!("`{name}` is the name of a built-in distribution"))
                        .expected("another name"),
                );
            }
            Some((name, field.text()?))
        })
        .collect()
}
