//! The compared settings: each impairment in the notation of a topology and of netem.
use super::model::{Events, Offsets};

/// Latency of the settings with jitter, in milliseconds.
pub const LATENCY_MS: f64 = 300.0;
/// Spread of the jitter, in milliseconds.
pub const SPREAD_MS: f64 = 50.0;

/// The property of the arrivals that is compared with a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measure {
    /// The datagrams that do not arrive.
    Missing(Events),
    /// The datagrams that arrive twice.
    Twice(Events),
    /// The datagrams that skip the latency of 100 ms.
    Early(Events),
    /// Delays beyond [`LATENCY_MS`], in multiples of [`SPREAD_MS`], with the
    /// correlation of neighbours.
    Delays(Offsets, f64),
}

/// One impairment, as emu and netem spell it, with its model.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Name of the setting in the report.
    pub name: &'static str,
    /// The setting as YAML keys of a pipe.
    pub emu: &'static str,
    /// The setting as arguments of netem.
    pub netem: &'static str,
    /// The property that is compared, and its model.
    pub measure: Measure,
}

const fn random(chance: f64, correlation: f64) -> Events {
    Events::Random {
        chance,
        correlation,
    }
}

const fn spaced(chance: f64, correlation: f64, gap: u32) -> Events {
    Events::Spaced {
        chance,
        correlation,
        gap,
    }
}

/// All settings. With jitter packets may overtake each other, as with netem.
pub const SETTINGS: [Setting; 17] = [
    Setting {
        name: "jitter, uniform",
        emu: "latency: 300ms, jitter: {spread: 50ms, overtake: true}",
        netem: "delay 300ms 50ms",
        measure: Measure::Delays(Offsets::Uniform, 0.0),
    },
    Setting {
        name: "jitter, uniform, correlation 50 %",
        emu: "latency: 300ms, jitter: {spread: 50ms, correlation: 50%, overtake: true}",
        netem: "delay 300ms 50ms 50%",
        measure: Measure::Delays(Offsets::Uniform, 0.5),
    },
    Setting {
        name: "jitter, normal",
        emu: "latency: 300ms, jitter: {spread: 50ms, distribution: normal, overtake: true}",
        netem: "delay 300ms 50ms distribution normal",
        measure: Measure::Delays(Offsets::Normal, 0.0),
    },
    Setting {
        name: "jitter, normal, correlation 25 %",
        emu: "latency: 300ms, jitter: {spread: 50ms, distribution: normal, correlation: 25%, overtake: true}",
        netem: "delay 300ms 50ms 25% distribution normal",
        measure: Measure::Delays(Offsets::Normal, 0.25),
    },
    Setting {
        name: "jitter, pareto",
        emu: "latency: 300ms, jitter: {spread: 50ms, distribution: pareto, overtake: true}",
        netem: "delay 300ms 50ms distribution pareto",
        measure: Measure::Delays(Offsets::Pareto, 0.0),
    },
    Setting {
        name: "jitter, paretonormal",
        emu: "latency: 300ms, jitter: {spread: 50ms, distribution: paretonormal, overtake: true}",
        netem: "delay 300ms 50ms distribution paretonormal",
        measure: Measure::Delays(Offsets::ParetoNormal, 0.0),
    },
    Setting {
        name: "loss 1 %",
        emu: "loss: 1%",
        netem: "loss 1%",
        measure: Measure::Missing(random(0.01, 0.0)),
    },
    Setting {
        name: "loss 10 %",
        emu: "loss: 10%",
        netem: "loss 10%",
        measure: Measure::Missing(random(0.1, 0.0)),
    },
    Setting {
        name: "loss 10 %, correlation 25 %",
        emu: "loss: {random: 10%, correlation: 25%}",
        netem: "loss 10% 25%",
        measure: Measure::Missing(random(0.1, 0.25)),
    },
    Setting {
        name: "Gilbert-Elliott 2 %, 20 %",
        emu: "loss: {gilbert_elliott: {to_bad: 2%, to_good: 20%}}",
        netem: "loss gemodel 2% 20%",
        measure: Measure::Missing(Events::GilbertElliott([0.02, 0.2, 1.0, 0.0])),
    },
    Setting {
        name: "Gilbert-Elliott 2 %, 20 %, loss in bad 80 %",
        emu: "loss: {gilbert_elliott: {to_bad: 2%, to_good: 20%, loss_in_bad: 80%}}",
        netem: "loss gemodel 2% 20% 80% 0%",
        measure: Measure::Missing(Events::GilbertElliott([0.02, 0.2, 0.8, 0.0])),
    },
    Setting {
        name: "Markov, four states",
        emu: "loss: {markov: {p13: 1%, p31: 30%, p32: 10%, p23: 30%, p14: 2%}}",
        netem: "loss state 1% 30% 10% 30% 2%",
        measure: Measure::Missing(Events::Markov([0.01, 0.3, 0.1, 0.3, 0.02])),
    },
    Setting {
        name: "duplicate 5 %",
        emu: "duplicate: 5%",
        netem: "duplicate 5%",
        measure: Measure::Twice(random(0.05, 0.0)),
    },
    Setting {
        name: "corrupt 5 %",
        emu: "corrupt: 5%",
        netem: "corrupt 5%",
        measure: Measure::Missing(random(0.05, 0.0)),
    },
    Setting {
        name: "reorder 25 %",
        emu: "latency: 100ms, reorder: 25%",
        netem: "delay 100ms reorder 25%",
        measure: Measure::Early(spaced(0.25, 0.0, 1)),
    },
    Setting {
        name: "reorder 25 %, correlation 50 %",
        emu: "latency: 100ms, reorder: {chance: 25%, correlation: 50%}",
        netem: "delay 100ms reorder 25% 50%",
        measure: Measure::Early(spaced(0.25, 0.5, 1)),
    },
    Setting {
        name: "reorder 25 %, gap 5",
        emu: "latency: 100ms, reorder: {chance: 25%, gap: 5}",
        netem: "delay 100ms reorder 25% gap 5",
        measure: Measure::Early(spaced(0.25, 0.0, 5)),
    },
];
