//! From the text of a file to a checked experiment.
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use emu_document::{Value, document};

use super::{
    Churn, Clock, Experiment, Leave, Limits, Program, Ready, Reference, Sign, Signal, Start, Stop,
    lengths::lengths,
    select::{Vnode, find, select},
    start::start,
    template::Template,
};
use crate::name::Name;
use crate::topology::{
    self, Topology, TopologyErrors, UnitError,
    reader::{Field, Problems, Record, resolve},
};

/// Keys of the document.
pub(super) const TOP_KEYS: &[&str] = &[
    "name", "topology", "seed", "duration", "sample", "clock", "programs", "until",
];
/// Keys of a program.
pub(super) const PROGRAM_KEYS: &[&str] = &[
    "name",
    "on",
    "count",
    "run",
    "shell",
    "env",
    "start",
    "ready",
    "for",
    "stop",
    "limits",
    "churn",
    "collect",
    "background",
];
/// Keys of `ready`.
pub(super) const READY_KEYS: &[&str] = &["tcp", "udp", "after", "exited", "within"];
/// Keys of `churn`.
pub(super) const CHURN_KEYS: &[&str] = &["up", "down", "leave", "state"];

/// How long later programs wait for a program to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Time between two rows of counters.
const SAMPLE: Duration = Duration::from_secs(1);
/// Smallest time between two rows.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(100);
/// Smallest memory limit with which a program can start.
const LEAST_MEMORY_BYTES: u64 = 1 << 20;

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

struct Reader<'a> {
    topology: &'a Topology,
    folder: &'a Path,
    names: HashSet<Name>,
}

impl Reader<'_> {
    fn program(&mut self, field: &Field<'_>) -> Option<Program> {
        let record = field.record(PROGRAM_KEYS)?;
        let name = record.need("name", "client").and_then(|f| {
            let name = f.name()?;
            if !self.names.insert(name.clone()) {
                f.report(f.problem(format!("a second program `{name}`")));
            }
            Some(name)
        });
        let on = record.need("on", "adsl");
        let vnodes = on.and_then(|f| {
            let vnodes = select(&f, self.topology)?;
            count(&record, vnodes)
        });
        let argv = argv(field, &record);
        let churn = record.get("churn").map(|f| self.churn(&f));
        // All parts are read before any is required, so that all errors are reported at once.
        let program = Program {
            // A program without a name is not returned.
            name: name.clone().unwrap_or_else(|| Name::fixed("program")),
            vnodes: vnodes.clone().unwrap_or_default(),
            argv: argv.clone().unwrap_or_default(),
            env: record.get("env").map(|f| env(&f)).unwrap_or_default(),
            start: record
                .get("start")
                .and_then(|f| start(&f))
                .unwrap_or(Start::At(Duration::ZERO)),
            ready: record.get("ready").and_then(|f| ready(&f)),
            lasts: record.get("for").and_then(|f| whole_span(&f)),
            stop: record
                .get("stop")
                .and_then(|f| stop(&f))
                .unwrap_or_default(),
            limits: record
                .get("limits")
                .and_then(|f| limits(&f))
                .unwrap_or_default(),
            churn: churn.clone().flatten(),
            collect: record
                .get("collect")
                .map(|f| collect(&f))
                .unwrap_or_default(),
            background: record
                .get("background")
                .and_then(|f| f.boolean())
                .unwrap_or(false),
        };
        (name.is_some() && vnodes.is_some() && argv.is_some() && !matches!(churn, Some(None)))
            .then_some(program)
    }

    fn churn(&self, field: &Field<'_>) -> Option<Churn> {
        let record = field.record(CHURN_KEYS)?;
        let up = record
            .need("up", "{exponential: {mean: 60s}}")
            .and_then(|f| lengths(&f, self.folder));
        let down = match record.get("down") {
            Some(f) => lengths(&f, self.folder).map(Some),
            None => Some(None),
        };
        let leave = match record.get("leave") {
            Some(f) => {
                let names = Leave::ALL.iter().map(|(name, _)| *name);
                resolve(&f, "way to leave", names).map(|i| Leave::ALL[i].1)
            }
            None => Some(Leave::Term),
        };
        let keep_state = match record.get("state") {
            Some(f) => resolve(&f, "state", ["lose", "keep"].into_iter()).map(|i| i == 1),
            None => Some(true),
        };
        Some(Churn {
            up: up?,
            down: down?,
            leave: leave?,
            keep_state: keep_state?,
        })
    }
}

/// The first `count` vnodes.
fn count(record: &Record<'_>, mut vnodes: Vec<Vnode>) -> Option<Vec<Vnode>> {
    let Some(field) = record.get("count") else {
        return Some(vnodes);
    };
    let most = i64::try_from(vnodes.len()).unwrap_or(i64::MAX);
    vnodes.truncate(usize::try_from(field.number(1, most)?).unwrap_or(usize::MAX));
    Some(vnodes)
}

fn argv(field: &Field<'_>, record: &Record<'_>) -> Option<Vec<Template>> {
    match (record.get("run"), record.get("shell")) {
        (Some(run), None) => {
            let args = run.list()?;
            if args.is_empty() {
                run.report(
                    run.problem("no program")
                        .expected("[ping, -c, 3, 10.1.0.1]"),
                );
                return None;
            }
            let read: Vec<Option<Template>> = args.iter().map(Template::read).collect();
            read.into_iter().collect()
        }
        (None, Some(shell)) => {
            let line = Template::read(&shell)?;
            let fixed = ["/bin/sh", "-c"].map(|arg| Template::parse(arg).ok());
            fixed.into_iter().chain([Some(line)]).collect()
        }
        (run, _) => {
            let what = match run {
                Some(_) => "both `run` and `shell`",
                None => "nothing to run",
            };
            field.report(
                field
                    .problem(what)
                    .expected("`run: [program, argument]`, or `shell: \"a line for /bin/sh\"`"),
            );
            None
        }
    }
}

fn env(field: &Field<'_>) -> Vec<(String, Template)> {
    let mut list = Vec::new();
    for (name, at, value) in field.named() {
        if name.is_empty() || name.contains(['=', '\0']) {
            let problem =
                topology::Problem::new(at, value.path.clone(), "not the name of a variable");
            value.report(problem);
        }
        if let Some(template) = Template::read(&value) {
            list.push((name.to_owned(), template));
        }
    }
    list
}

fn ready(field: &Field<'_>) -> Option<Ready> {
    let record = field.record(READY_KEYS)?;
    let port = |key| {
        let port = record.get(key)?.number(1, 65_535)?;
        u16::try_from(port).ok()
    };
    let signs = [
        record.get("tcp").map(|_| port("tcp").map(Sign::Tcp)),
        record.get("udp").map(|_| port("udp").map(Sign::Udp)),
        record
            .get("after")
            .map(|f| f.unit(topology::span).map(Sign::After)),
        record
            .get("exited")
            .map(|f| f.boolean().filter(|yes| *yes).map(|_| Sign::Exited)),
    ];
    let mut given = signs.into_iter().flatten();
    let (Some(sign), None) = (given.next(), given.next()) else {
        field.report(
            field
                .problem("`ready` needs exactly one condition")
                .expected("one of {tcp: 6969}, {udp: 6881}, {after: 1s} and {exited: true}"),
        );
        return None;
    };
    let within = match record.get("within") {
        Some(field) => whole_span(&field),
        None => Some(READY_WITHIN),
    };
    Some(Ready {
        sign: sign?,
        within: within?,
    })
}

fn stop(field: &Field<'_>) -> Option<Stop> {
    let record = field.record(&["signal", "grace"])?;
    let mut stop = Stop::default();
    if let Some(field) = record.get("signal") {
        let names = Signal::ALL.iter().map(|(name, _)| *name);
        stop.signal = Signal::ALL[resolve(&field, "signal", names)?].1;
    }
    if let Some(field) = record.get("grace") {
        stop.grace = field.unit(topology::time)?;
    }
    Some(stop)
}

fn limits(field: &Field<'_>) -> Option<Limits> {
    let record = field.record(&["memory", "cpu_weight"])?;
    let memory_bytes = record.get("memory").and_then(|f| {
        let bytes = f.unit(memory)?;
        if bytes < LEAST_MEMORY_BYTES {
            f.report(
                f.problem("no program starts with less than 1 MiB")
                    .expected("1MiB or more"),
            );
        }
        Some(bytes)
    });
    let cpu_weight = record.get("cpu_weight").and_then(|f| f.number(1, 10_000));
    Some(Limits {
        memory_bytes,
        cpu_weight: cpu_weight.and_then(|w| u16::try_from(w).ok()),
    })
}

/// A size of memory, also in GB and GiB.
fn memory(text: &str) -> Result<u64, UnitError> {
    for (unit, smaller, factor) in [("GiB", "MiB", 1024), ("GB", "MB", 1000)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(topology::size(&format!("{number}{smaller}"))?.saturating_mul(factor));
        }
    }
    topology::size(text)
}

fn collect(field: &Field<'_>) -> Vec<String> {
    let Some(list) = field.list() else {
        return Vec::new();
    };
    let mut patterns = Vec::new();
    for item in list {
        let Some(text) = item.text() else { continue };
        let outside = PathBuf::from(text)
            .components()
            .any(|c| !matches!(c, std::path::Component::Normal(_)));
        if outside || glob::Pattern::new(text).is_err() {
            item.report(
                item.problem(format!("`{text}` is not a pattern"))
                    .expected("a pattern of files in the working folder, as in `*.log`"),
            );
            continue;
        }
        patterns.push(text.to_owned());
    }
    patterns
}
