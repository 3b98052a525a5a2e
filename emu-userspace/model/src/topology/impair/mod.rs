//! Impairments of pipes and links: the types. `read` has their keys in the file.
mod read;

use std::time::Duration;

use emu_common::model::random;

use super::reader::Record;

#[cfg(test)]
pub(super) use read::{
    AQM_KEYS, CHANCE_KEYS, CODEL_KEYS, FILTER_KEYS, GILBERT_KEYS, JITTER_KEYS, LOSS_KEYS,
    MARKOV_KEYS, RED_KEYS, REORDER_KEYS,
};
pub(super) use read::{distributions, filtering};

/// A list of keys with those of impairments between the first and the last.
macro_rules! keys_with_impairments {
    ([$($first:literal),*], [$($last:literal),*]) => {
        &[
            $($first,)*
            "jitter", "loss", "duplicate", "corrupt", "reorder", "aqm",
            $($last,)*
        ]
    };
}
pub(super) use keys_with_impairments;

/// Keys of every pipe and link.
pub(super) const IMPAIR_KEYS: &[&str] = keys_with_impairments!([], []);
/// A probability as a fraction of 2^32; the largest value is certainty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Probability(pub u32);

impl Probability {
    /// Certainty.
    pub const CERTAIN: Self = Self(u32::MAX);

    /// As a fraction of 1.
    pub fn fraction(self) -> f64 {
        match self {
            Self::CERTAIN => 1.0,
            Self(value) => f64::from(value) / 4_294_967_296.0,
        }
    }

    /// From a fraction of 1.
    pub fn new(fraction: f64) -> Self {
        Self(random::probability(fraction))
    }
}

/// Random delays around a latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jitter {
    /// Half the width of the uniform distribution, one standard deviation of all
    /// others.
    pub spread: Duration,
    /// Number of the distribution, [`emu_common::model::jitter`].
    pub distribution: u32,
    /// Probability that a packet has the random number of the packet before.
    pub correlation: Probability,
    /// Whether packets may overtake each other.
    pub overtake: bool,
}

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Each with the same probability.
    Random(Chance),
    /// A good and a bad state, [`emu_common::model::loss::gilbert_elliott`].
    GilbertElliott {
        /// From the good state to the bad one, with each packet.
        to_bad: Probability,
        /// From the bad state to the good one.
        to_good: Probability,
        /// Loss in the bad state.
        in_bad: Probability,
        /// Loss in the good state.
        in_good: Probability,
    },
    /// Four states, [`emu_common::model::loss::markov4`]: p13, p31, p32, p23, p14.
    Markov([Probability; 5]),
}

/// A probability with a correlation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance {
    /// Probability.
    pub chance: Probability,
    /// Correlation of successive random numbers.
    pub correlation: Probability,
}

/// Packets that skip the latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reorder {
    /// How many.
    pub chance: Chance,
    /// Packets that are delayed between two that are not, one included.
    pub gap: u32,
}

/// Active management of a pipe's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aqm {
    /// CoDel (RFC 8289).
    Codel {
        /// Target of the queueing delay.
        target: Duration,
        /// Time for which the delay may exceed the target.
        interval: Duration,
        /// Marks ECN-capable packets instead of dropping them.
        ecn: bool,
    },
    /// RED, gentle, on the wait in the queue.
    Red {
        /// Average wait from which packets are dropped.
        min: Duration,
        /// Average wait at which `probability` is reached.
        max: Duration,
        /// Probability at `max`.
        probability: Probability,
        /// The average moves by 2^-weight with each packet.
        weight_bits: u32,
        /// Marks ECN-capable packets instead of dropping them.
        ecn: bool,
    },
}

/// All impairments of one pipe or link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Impairments {
    /// Random delays.
    pub jitter: Option<Jitter>,
    /// Losses.
    pub loss: Option<Loss>,
    /// Second copies.
    pub duplicate: Option<Chance>,
    /// Changed bits.
    pub corrupt: Option<Chance>,
    /// Packets that skip the latency.
    pub reorder: Option<Reorder>,
    /// Management of the queue.
    pub aqm: Option<Aqm>,
}

impl Impairments {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the impairments of a record; those that it does not name stay.
    pub(super) fn read(&mut self, record: &Record<'_>, own: &[&str]) {
        if let Some(field) = record.get("jitter") {
            self.jitter = read::jitter(&field, own);
        }
        if let Some(field) = record.get("loss") {
            self.loss = read::loss(&field);
        }
        if let Some(field) = record.get("duplicate") {
            self.duplicate = read::chance(&field);
        }
        if let Some(field) = record.get("corrupt") {
            self.corrupt = read::chance(&field);
        }
        if let Some(field) = record.get("reorder") {
            self.reorder = read::reorder(&field);
        }
        if let Some(field) = record.get("aqm") {
            self.aqm = read::aqm(&field);
        }
    }
}

/// Filtering behaviour of a vnode, RFC 4787 section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filtering {
    /// Class, [`emu_common::model::filter`].
    pub class: u32,
    /// How long a filter entry lasts after the last packet sent.
    pub timeout: Duration,
}

impl Default for Filtering {
    /// Lets everything in; five minutes, as RFC 4787 REQ-5 recommends.
    fn default() -> Self {
        Self {
            class: emu_common::model::filter::OPEN,
            timeout: Duration::from_secs(300),
        }
    }
}
