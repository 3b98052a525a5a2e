//! A program of an experiment.
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Duration,
};

use super::whole_span;
use crate::{
    experiment::{
        Churn, Leave, Limits, Program, Ready, Sign, Signal, Start, Stop,
        lengths::lengths,
        select::{Vnode, select},
        start::start,
        template::Template,
    },
    name::Name,
    topology::{
        self, Topology, UnitError,
        reader::{Field, Record, resolve},
    },
};

/// Keys of a program.
pub(in crate::experiment) const PROGRAM_KEYS: &[&str] = &[
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
pub(in crate::experiment) const READY_KEYS: &[&str] = &["tcp", "udp", "after", "exited", "within"];
/// Keys of `churn`.
pub(in crate::experiment) const CHURN_KEYS: &[&str] = &["up", "down", "leave", "state"];

/// How long later programs wait for a program to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Smallest memory limit with which a program can start.
const LEAST_MEMORY_BYTES: u64 = 1 << 20;

/// Reads the programs of one file.
pub(super) struct Reader<'a> {
    pub topology: &'a Topology,
    pub folder: &'a Path,
    /// The names of the programs so far.
    pub names: HashSet<Name>,
}

impl Reader<'_> {
    pub fn program(&mut self, field: &Field<'_>) -> Option<Program> {
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
