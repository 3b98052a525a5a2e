//! What a load would do: nothing is loaded, a change in place, or a full reload and why.
use emu_model::plan::{self, FqPlan, Plan, PlanDiff, ReloadReason};
use serde::Serialize;

use super::{Loaded, SessionError, loaded::has_rows};
use crate::{
    bpf::{self, Maps},
    drift,
    state::StateDir,
};

/// How a topology was, or would be, loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// As a full reload.
    #[serde(rename = "anew")]
    FullReload {
        /// Why a change in place was not possible; `None` if nothing was loaded.
        because: Option<String>,
    },
    /// By a change in place.
    InPlace {
        /// Pipes with other settings, including those of new vnodes.
        pipes: usize,
        /// Links between groups with other settings.
        links: usize,
        /// Vnodes that were added.
        added: usize,
        /// Vnodes that were removed.
        removed: usize,
        /// Objects that somebody had taken away and that are in place again.
        repaired: Vec<String>,
    },
}

impl How {
    pub(super) fn in_place(diff: &PlanDiff) -> Self {
        Self::InPlace {
            pipes: diff.pipes.len() - 2 * diff.removed.len(),
            links: diff.links_changed,
            added: diff.added.len(),
            removed: diff.removed.len(),
            repaired: Vec::new(),
        }
    }
}

/// A change in place that is possible.
pub(super) struct Change {
    pub loaded: Loaded,
    pub maps: Maps,
    pub plan: Plan,
    pub diff: PlanDiff,
    pub fq: FqPlan,
}

/// Consequence of a plan for the loaded state.
pub(super) enum Comparison {
    Nothing,
    FullReload(String),
    InPlace(Box<Change>),
}

/// What [`Session::load`](super::Session::load) would do with a plan; changes nothing.
///
/// # Errors
/// [`SessionError`] if the state or the maps cannot be read.
pub fn preview(plan: &Plan) -> Result<How, SessionError> {
    Ok(match compare(&StateDir::here()?, plan)? {
        Comparison::Nothing => How::FullReload { because: None },
        Comparison::FullReload(because) => How::FullReload {
            because: Some(because),
        },
        Comparison::InPlace(change) => How::in_place(&change.diff),
    })
}

pub(super) fn compare(dir: &StateDir, plan: &Plan) -> Result<Comparison, SessionError> {
    let full_reload = |because: &str| Ok(Comparison::FullReload(because.to_owned()));
    let found = match dir.loaded() {
        Ok(found) => found,
        Err(error) => return full_reload(&error.to_string()),
    };
    let Some((state, text)) = found else {
        if dir.exists() {
            return full_reload("a load was interrupted");
        }
        return Ok(Comparison::Nothing);
    };
    if dir.is_half_changed() && !dir.can_change_again() {
        return full_reload("a change in place was interrupted");
    }
    if state.object != bpf::object_mark() {
        return full_reload("another version of emu loaded the programs");
    }
    let Ok(loaded) = Loaded::from_state(state, &text) else {
        return full_reload("the loaded state is of an incompatible version");
    };
    if let Some(path) = dir.damaged_journal()? {
        return full_reload(&format!(
            "the journal is damaged, and kept as {}",
            path.display()
        ));
    }
    let damage = drift::find(&loaded.plan, &loaded.state)?;
    if let Some(first) = damage.first() {
        return full_reload(&format!("{first} was missing"));
    }
    let Ok(maps) = loaded.maps() else {
        return full_reload("the maps are gone, or the state does not fit them");
    };
    if !plan.traces.is_empty() && plan.traces == loaded.plan.traces && !has_rows(&maps, plan) {
        return full_reload("the rows of a trace changed");
    }
    let mut plan = plan.clone();
    if !plan.has_seed {
        plan.seed = loaded.state.seed;
    }
    let of_loaded = plan::Loaded {
        plan: &loaded.plan,
        slots: &loaded.slots,
        features: loaded.state.features,
        corrupts: loaded.state.corrupts,
    };
    match PlanDiff::between(&of_loaded, &maps.current(), &plan) {
        Err(ReloadReason(because)) => Ok(Comparison::FullReload(because)),
        Ok(diff) => {
            let fq = loaded.fq().grown(&plan.fq);
            Ok(Comparison::InPlace(Box::new(Change {
                loaded,
                maps,
                plan,
                diff,
                fq,
            })))
        }
    }
}
