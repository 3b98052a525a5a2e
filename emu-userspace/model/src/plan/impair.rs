//! Impairments as the settings half of a [`ImpairmentState`].
use emu_common::{
    layout::{ImpairmentState, stage_flag},
    model::{aqm, loss},
};

use super::nanoseconds;
use crate::topology::{Aqm, Impairments, Loss};

/// The map entry of impairments, without its seed; `None` if there are none.
pub(super) fn stage(impairments: &Impairments) -> Option<ImpairmentState> {
    if impairments.is_empty() {
        return None;
    }
    let mut stage = ImpairmentState::default();
    put(&mut stage, impairments);
    Some(stage)
}

/// Overwrites a stage with the impairments that are given.
pub fn put(stage: &mut ImpairmentState, impairments: &Impairments) {
    let [
        jitter_rho,
        loss_rho,
        duplicate_rho,
        corrupt_rho,
        reorder_rho,
    ] = &mut stage.rho;
    if let Some(jitter) = &impairments.jitter {
        stage.jitter_ns = nanoseconds(jitter.spread);
        stage.jitter_table = jitter.distribution;
        *jitter_rho = jitter.correlation.0;
        stage.flags &= !stage_flag::OVERTAKE;
        if jitter.overtake {
            stage.flags |= stage_flag::OVERTAKE;
        }
    }
    match &impairments.loss {
        None => {}
        Some(Loss::Random(chance)) => {
            stage.loss_kind = loss::RANDOM;
            stage.loss = [chance.chance.0, 0, 0, 0, 0];
            *loss_rho = chance.correlation.0;
        }
        Some(Loss::GilbertElliott {
            to_bad,
            to_good,
            in_bad,
            in_good,
        }) => {
            stage.loss_kind = loss::GILBERT_ELLIOTT;
            stage.loss = [to_bad.0, to_good.0, in_bad.0, in_good.0, 0];
        }
        Some(Loss::Markov(p)) => {
            (stage.loss_kind, stage.loss) = (loss::MARKOV4, p.map(|p| p.0));
        }
    }
    if let Some(chance) = &impairments.duplicate {
        (stage.duplicate, *duplicate_rho) = (chance.chance.0, chance.correlation.0);
    }
    if let Some(chance) = &impairments.corrupt {
        (stage.corrupt, *corrupt_rho) = (chance.chance.0, chance.correlation.0);
    }
    if let Some(reorder) = &impairments.reorder {
        stage.reorder = reorder.chance.chance.0;
        *reorder_rho = reorder.chance.correlation.0;
        stage.reorder_gap = reorder.gap;
    }
    if let Some(management) = &impairments.aqm {
        manage(stage, management);
    }
}

fn manage(stage: &mut ImpairmentState, management: &Aqm) {
    let ecn = match management {
        Aqm::Codel {
            target,
            interval,
            ecn,
        } => {
            stage.aqm_kind = aqm::CODEL;
            (stage.aqm_low_ns, stage.aqm_high_ns) = (nanoseconds(*target), nanoseconds(*interval));
            ecn
        }
        Aqm::Red {
            min,
            max,
            probability,
            weight_bits,
            ecn,
        } => {
            stage.aqm_kind = aqm::RED;
            (stage.aqm_low_ns, stage.aqm_high_ns) = (nanoseconds(*min), nanoseconds(*max));
            (stage.red_probability, stage.red_weight_bits) = (probability.0, *weight_bits);
            ecn
        }
    };
    stage.flags &= !stage_flag::ECN;
    if *ecn {
        stage.flags |= stage_flag::ECN;
    }
}
