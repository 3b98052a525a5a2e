//! Files that programs were to leave behind, and which of them are missing.
use emu_model::experiment::{Process, Program};

use super::{RunError, Summary, supervisor::Supervisor};

impl Supervisor<'_> {
    /// Collects what the last sessions left, and says what is missing of all that ended
    /// without a failure.
    pub(super) fn collect(&mut self, summary: &mut Summary) -> Result<(), RunError> {
        for (id, process) in self.parts.schedule.processes.iter().enumerate() {
            let patterns = &self.program(id).collect;
            if self.slots[id].starts > 0 && !patterns.is_empty() {
                let counts = self.parts.files.collect(process, patterns, None)?;
                self.slots[id].has_collected(&counts);
            }
        }
        let counts = self.slots.iter().flat_map(|slot| &slot.collected);
        summary.collected = counts.sum();
        let programs = &self.parts.input.experiment.programs;
        for (index, program) in programs.iter().enumerate() {
            let processes = self.parts.schedule.processes.iter().zip(&self.slots);
            let of: Vec<(&Process, &[usize])> = processes
                .filter(|(p, slot)| p.program_index == index && slot.starts > 0 && !slot.failed)
                .map(|(process, slot)| (process, &slot.collected[..]))
                .collect();
            summary.warnings.extend(missing(program, &of));
        }
        Ok(())
    }
}

/// A line for each pattern that some processes have nothing of.
fn missing(program: &Program, processes: &[(&Process, &[usize])]) -> Vec<String> {
    let patterns = program.collect.iter().enumerate();
    let line = |(at, pattern): (usize, &String)| {
        let without = |(_, counts): &&(&Process, &[usize])| counts.get(at) == Some(&0);
        let count = processes.iter().filter(without).count();
        let (first, _) = processes.iter().find(without)?;
        Some(format!(
            "{}: {count} of {} left no `{pattern}`, the first on {}",
            program.name,
            processes.len(),
            first.name
        ))
    };
    patterns.filter_map(line).collect()
}
