//! From the text of a file to a checked experiment.
mod program;

use std::{collections::HashSet, path::Path, time::Duration};

use emu_document::{Value, document};

use super::{Clock, Experiment, Program, Reference, select::find, template::Template};
use crate::name::Name;
use crate::topology::{
    self, Topology, TopologyErrors,
    reader::{Field, Problems, Record, resolve},
};

use program::Reader;
#[cfg(test)]
pub(super) use program::{CHURN_KEYS, PROGRAM_KEYS, READY_KEYS};

/// Keys of the document.
pub(super) const TOP_KEYS: &[&str] = &[
    "name", "topology", "seed", "duration", "sample", "clock", "programs", "until",
];
/// Time between two rows of counters.
const SAMPLE: Duration = Duration::from_secs(1);
/// Smallest time between two rows.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(100);

/// Finds the topology that a file names; `None` if it cannot, which the caller then reports.
pub type Find<'a> = &'a mut dyn FnMut(&Reference) -> Option<Topology>;

/// Whether a text is an experiment rather than a topology.
pub fn looks_like_one(text: &str) -> bool {
    match document(text).map(|root| root.value) {
        Ok(Value::Map(entries)) => entries
            .iter()
            .any(|e| ["programs", "topology"].contains(&e.key.as_str())),
        _ => false,
    }
}

/// Where the topology of an experiment is, if the text names it; `folder` is the folder of
/// the file.
pub fn reference(text: &str, folder: &Path) -> Option<Reference> {
    let Ok(root) = document(text) else {
        return None;
    };
    let problems = Problems::default();
    let record = Field::root(&root, &problems).record(TOP_KEYS)?;
    at(record.get("topology")?.text()?, folder)
}

fn at(text: &str, folder: &Path) -> Option<Reference> {
    Some(match text {
        "loaded" => Reference::Loaded,
        file => Reference::File(folder.join(file)),
    })
}

/// Checks the text of an experiment; `file` is for the errors and for paths in it.
///
/// # Errors
/// All errors of the text at once. If only the topology was not found, the list of problems
/// is empty.
pub fn parse(text: &str, file: &str, find: Find<'_>) -> Result<Experiment, TopologyErrors> {
    let problems = Problems::default();
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    let experiment = match document(text) {
        Ok(root) => read(&Field::root(&root, &problems), folder, find),
        Err(problem) => {
            problems.add(problem);
            None
        }
    };
    match experiment {
        Some(experiment) if problems.is_empty() => Ok(experiment),
        _ => Err(TopologyErrors::new(file, text, problems.take())),
    }
}

fn read(root: &Field<'_>, folder: &Path, find: Find<'_>) -> Option<Experiment> {
    let record = root.record(TOP_KEYS)?;
    let reference = record
        .need("topology", "topology.yaml")
        .and_then(|f| at(f.text()?, folder));
    let topology = find(&reference?)?;
    let name = record.get("name").and_then(|f| f.name());
    let list = record.need("programs", "[…]").and_then(|f| f.list());
    let fields = list.unwrap_or_default();
    if fields.is_empty()
        && let Some(field) = record.get("programs").filter(Field::is_list)
    {
        field.report(field.problem("no programs"));
    }
    let mut reader = Reader {
        topology: &topology,
        folder,
        names: HashSet::new(),
    };
    let read: Vec<Option<Program>> = fields.iter().map(|f| reader.program(f)).collect();
    let complete = read.iter().all(Option::is_some);
    let programs: Vec<Program> = read.into_iter().flatten().collect();
    let duration = record.get("duration").and_then(|f| whole_span(&f));
    let (until, until_failed) = until(&record, &programs, complete);
    let experiment = Experiment {
        name: name.unwrap_or_else(|| Name::fixed("experiment")),
        folder: folder.to_owned(),
        seed: record
            .get("seed")
            .and_then(|f| f.number(0, i64::MAX))
            .map(i64::cast_unsigned),
        duration,
        sample: sample(&record),
        clock: record.get("clock").and_then(|f| clock(&f)),
        until,
        until_failed,
        programs,
        topology,
    };
    if complete {
        check(root, &fields, &experiment);
    }
    Some(experiment)
}

/// The name of a clock.
fn clock(field: &Field<'_>) -> Option<Clock> {
    match field.text()? {
        "virtual" => Some(Clock::Virtual),
        "real" => Some(Clock::Real),
        other => {
            let problem = field.problem(format!("`{other}` is not a clock"));
            field.report(problem.expected("`virtual` or `real`"));
            None
        }
    }
}

/// Checks that need the whole file.
fn check(root: &Field<'_>, fields: &[Field<'_>], experiment: &Experiment) {
    let names: HashSet<&str> = experiment.programs.iter().map(|p| &*p.name).collect();
    for (field, program) in fields.iter().zip(&experiment.programs) {
        let templates = program
            .argv
            .iter()
            .chain(program.env.iter().map(|(_, t)| t));
        for other in templates.flat_map(Template::others) {
            let known = names.contains(other) || find(other, &experiment.topology).is_ok();
            if !known {
                field.report(
                    field
                        .problem(format!(
                            "`{{ip:{other}}}` names neither a program nor a vnode"
                        ))
                        .expected("the name of a program or of a vnode, as in {ip:adsl/0}"),
                );
            }
        }
        if program.churn.is_some() && program.lasts.is_none() && experiment.duration.is_none() {
            field.report(
                field
                    .problem("its churn never ends")
                    .expected("`duration` for the run, or `for` for this program"),
            );
        }
    }
    let endless = experiment.until.is_empty() && experiment.duration.is_none();
    if endless && !experiment.programs.is_empty() {
        root.report(
            root.problem("nothing ends this run: all programs are in the background")
                .expected("`duration: 10min`, or a program that is not in the background"),
        );
    }
}

/// A time that is not zero.
fn whole_span(field: &Field<'_>) -> Option<Duration> {
    let span = field.unit(topology::span)?;
    if span.is_zero() {
        field.report(field.problem("it must be longer than 0s"));
        return None;
    }
    Some(span)
}

fn sample(record: &Record<'_>) -> Option<Duration> {
    let Some(field) = record.get("sample") else {
        return Some(SAMPLE);
    };
    if field.text()? == "off" {
        return None;
    }
    let span = field.unit(topology::span)?;
    if span < SHORTEST_SAMPLE {
        field.report(
            field
                .problem("the interval is too short")
                .expected("100ms or more, or `off`"),
        );
    }
    Some(span)
}

/// The programs whose end ends the run, and the number of failures that does.
fn until(record: &Record<'_>, programs: &[Program], complete: bool) -> (Vec<usize>, Option<usize>) {
    let foreground = || {
        let indexes = 0..programs.len();
        indexes.filter(|i| !programs[*i].background).collect()
    };
    let Some(record) = record
        .get("until")
        .and_then(|f| f.record(&["exited", "failed"]))
    else {
        return (foreground(), None);
    };
    let failed = record.get("failed").and_then(|f| f.number(1, i64::MAX));
    // The names of programs with errors are unknown.
    let Some(field) = record.get("exited").filter(|_| complete) else {
        return (foreground(), failed.and_then(|n| usize::try_from(n).ok()));
    };
    let names = programs.iter().map(|p| p.name.as_str());
    let fields = if field.is_list() {
        field.list().unwrap_or_default()
    } else {
        vec![field]
    };
    let exited = fields
        .iter()
        .filter_map(|f| resolve(f, "program", names.clone()))
        .collect();
    (exited, failed.and_then(|n| usize::try_from(n).ok()))
}
