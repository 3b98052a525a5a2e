//! Impairments and filters.
use schemars::JsonSchema;

use super::Time;

/// The impairments of a pipe or a link.
#[derive(JsonSchema)]
pub(super) struct Impairments {
    jitter: Option<Jitter>,
    loss: Option<Loss>,
    duplicate: Option<Chance>,
    corrupt: Option<Chance>,
    reorder: Option<Reorder>,
    aqm: Option<Aqm>,
}

/// A time (uniform jitter), or jitter in its long form.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Jitter {
    Short(Time),
    Long(JitterRecord),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JitterRecord {
    /// Half the width of the uniform distribution, one standard deviation of the
    /// others.
    spread: Time,
    /// `uniform`, `normal`, `pareto`, `paretonormal`, or one of `distributions`.
    distribution: Option<String>,
    correlation: Option<Percent>,
    /// Whether packets may overtake each other.
    overtake: Option<bool>,
}

/// A probability in percent.
#[derive(JsonSchema)]
pub(super) struct Percent(#[schemars(regex(pattern = r"^[0-9][0-9_.]* ?%$"))] String);

/// A probability (independent losses), or a loss model.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Loss {
    Short(Percent),
    Long(LossRecord),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LossRecord {
    random: Option<Percent>,
    correlation: Option<Percent>,
    gilbert_elliott: Option<GilbertElliott>,
    markov: Option<Markov>,
}

/// A good and a bad state.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GilbertElliott {
    to_bad: Percent,
    to_good: Percent,
    /// 100% when left out.
    loss_in_bad: Option<Percent>,
    /// 0% when left out.
    loss_in_good: Option<Percent>,
}

/// 1: received in a gap, 2: received in a burst, 3: lost in a burst, 4: lost in a
/// gap.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Markov {
    p13: Option<Percent>,
    p31: Option<Percent>,
    p32: Option<Percent>,
    p23: Option<Percent>,
    p14: Option<Percent>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Chance {
    Short(Percent),
    Long(ChanceRecord),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChanceRecord {
    chance: Percent,
    correlation: Option<Percent>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Reorder {
    Short(Percent),
    Long(ReorderRecord),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReorderRecord {
    chance: Percent,
    correlation: Option<Percent>,
    /// Packets between two that skip the latency.
    gap: Option<u32>,
}

/// `codel`, or a record.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Aqm {
    Short(AqmName),
    Long(AqmRecord),
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum AqmName {
    Codel,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AqmRecord {
    codel: Option<Codel>,
    red: Option<Red>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Codel {
    target: Option<Time>,
    interval: Option<Time>,
    /// Marks ECN-capable packets instead of dropping them.
    ecn: Option<bool>,
}

/// RED on the average queueing delay.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Red {
    min: Time,
    max: Time,
    probability: Option<Percent>,
    /// The average moves by 2^-weight with each packet.
    #[schemars(range(min = 0, max = 16))]
    weight: Option<u32>,
    ecn: Option<bool>,
}

/// A filtering behaviour of RFC 4787, or a record.
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum Filtering {
    Short(Behaviour),
    Long(FilteringRecord),
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Behaviour {
    Open,
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FilteringRecord {
    behaviour: Behaviour,
    /// How long a filter entry lasts after the last packet sent; default 5min.
    timeout: Option<Time>,
}
