//! Files that programs should leave behind, and warnings about missing ones.
use emu_model::experiment::{Process, Program};

use super::{RunError, Summary, supervisor::Supervisor};

impl Supervisor<'_> {
    /// Collects the files of the last sessions, and warns about files that are missing though
    /// the process did not fail.
    pub(super) fn collect(&mut self, summary: &mut Summary) -> Result<(), RunError> {
        for (id, process) in self.parts.schedule.processes.iter().enumerate() {
            let patterns = &self.program(id).collect;
            if self.states[id].life.starts() > 0 && !patterns.is_empty() {
                let counts = self.parts.files.collect(process, patterns, None)?;
                self.states[id].has_collected(&counts);
            }
        }
        let counts = self.states.iter().flat_map(|state| &state.collected);
        summary.collected = counts.sum();
        let programs = &self.parts.input.experiment.programs;
        for (index, program) in programs.iter().enumerate() {
            let processes = self.parts.schedule.processes.iter().zip(&self.states);
            let of: Vec<(&Process, &[usize])> = processes
                .filter(|(p, state)| {
                    p.program_index == index && state.life.starts() > 0 && !state.life.has_failed()
                })
                .map(|(process, state)| (process, &state.collected[..]))
                .collect();
            summary.warnings.extend(missing(program, &of));
        }
        Ok(())
    }
}

/// One line for each pattern that matches no file of some process.
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
