//! Memory limits and CPU weights, by cgroup controllers.
use std::{collections::BTreeMap, net::IpAddr};

use emu_kernel::{
    cgroup::CgroupError,
    run_cgroup::{ProcessCgroup, RunCgroup},
};
use emu_model::experiment::{Limits, Schedule};

use super::{Input, RunError, RunOptions, guardian::Guardian};

/// Default CPU weight of a program.
const USUAL_WEIGHT: u32 = 100;

/// Enables the controllers that the experiment's limits need; returns those that the run must
/// disable again in the machine's root cgroup.
pub(super) fn control(
    (input, schedule): (&Input, &Schedule),
    options: &RunOptions,
    guardian: &mut Guardian,
    run_cgroup: &mut RunCgroup,
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
    let lacks = run_cgroup.missing_controllers(&wanted);
    if !lacks.is_empty() {
        return Err(RunError::NoController(lacks));
    }
    let new = run_cgroup.new_at_root(&wanted);
    if !new.is_empty() {
        guardian.controllers(&new);
    }
    run_cgroup.enable_controllers(&wanted)?;
    if cpu {
        // A program's weight counts among the programs of its vnode, so the vnode gets the
        // sum.
        let mut weights: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for process in &schedule.processes {
            let own = programs[process.program_index].limits.cpu_weight;
            *weights.entry(process.vnode).or_default() += own.map_or(USUAL_WEIGHT, u32::from);
        }
        for (vnode, weight) in weights {
            run_cgroup.set_weight(vnode, weight)?;
        }
    }
    Ok(new)
}

pub(super) fn limit(cgroup: &ProcessCgroup, limits: &Limits) -> Result<(), CgroupError> {
    if let Some(bytes) = limits.memory_bytes {
        cgroup.limit_memory(bytes)?;
    }
    if let Some(weight) = limits.cpu_weight {
        cgroup.set_weight(weight)?;
    }
    Ok(())
}
