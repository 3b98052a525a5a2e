//! Limits of memory and shares of processors, by the controllers of the cgroup tree.
use std::{collections::BTreeMap, net::IpAddr};

use emu_kernel::{
    cgroup::CgroupError,
    cohort::{Cohort, Place},
};
use emu_model::experiment::{Limits, Schedule};

use super::{Input, Options, RunError, guardian::Guardian};

/// Share of a program that says nothing.
const USUAL_WEIGHT: u32 = 100;

/// Makes the controllers work that the experiment's limits need; returns those that
/// are to be taken back from the machine's own root.
pub(super) fn control(
    (input, schedule): (&Input, &Schedule),
    options: &Options,
    guardian: &mut Guardian,
    cohort: &mut Cohort,
) -> Result<Vec<&'static str>, RunError> {
    let programs = &input.experiment.programs;
    let memory = programs.iter().any(|p| p.limits.memory_bytes.is_some());
    let cpu = programs.iter().any(|p| p.limits.cpu_weight.is_some());
    let wanted: Vec<&'static str> = [("memory", memory), ("cpu", cpu)]
        .into_iter()
        .filter_map(|(name, needed)| needed.then_some(name))
        .collect();
    if wanted.is_empty() || !options.keep_limits {
        return Ok(Vec::new());
    }
    let lacks = cohort.lacks(&wanted);
    if !lacks.is_empty() {
        return Err(RunError::NoController(lacks));
    }
    let new = cohort.new_at_root(&wanted);
    if !new.is_empty() {
        guardian.controllers(&new);
    }
    cohort.control(&wanted)?;
    if cpu {
        // A program's share counts among those of its vnode, so a vnode has the sum.
        let mut weights: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for process in &schedule.processes {
            let own = programs[process.program_index].limits.cpu_weight;
            *weights.entry(process.vnode).or_default() += own.map_or(USUAL_WEIGHT, u32::from);
        }
        for (vnode, weight) in weights {
            cohort.set_weight(vnode, weight)?;
        }
    }
    Ok(new)
}

/// Limits one place.
pub(super) fn limit(place: &Place, limits: &Limits) -> Result<(), CgroupError> {
    if let Some(bytes) = limits.memory_bytes {
        place.limit_memory(bytes)?;
    }
    if let Some(weight) = limits.cpu_weight {
        place.set_weight(weight)?;
    }
    Ok(())
}
