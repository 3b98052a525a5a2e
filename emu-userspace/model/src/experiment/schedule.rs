//! All command lines, starts and stops of a run, known before the run.
//!
//! The schedule depends on the experiment, its topology and the seed alone: no clock, no
//! machine. Times of a process are relative to its release: the start of the run, or the
//! moment when all programs before it that have a `ready` condition are ready.
use std::{collections::HashMap, fmt, net::IpAddr, time::Duration};

use serde::{Serialize, Serializer};

use super::{
    Experiment, Program,
    random::Stream,
    select::{Vnode, find},
    template::Values,
};

/// Largest number of sessions of a run.
const MOST_SESSIONS: usize = 1_000_000;
/// Placeholder for the working folder, which the schedule does not know.
const FOLDER: &str = "{dir}";
/// Name of the host if the topology has none.
const THIS_HOST: &str = "localhost";

/// Why an experiment has no schedule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScheduleError {
    /// The sessions are too short for the duration.
    #[error("{program}: more than {MOST_SESSIONS} sessions; its `up` and `down` are too short")]
    TooManySessions {
        /// The program.
        program: String,
    },
    /// The topology has no such host.
    #[error("the topology has no host {name:?}; it names {}", if names.is_empty() { "none".to_owned() } else { names.join(", ") })]
    UnknownHost {
        /// The name asked for.
        name: String,
        /// The names of the topology's hosts.
        names: Vec<String>,
    },
}

/// A part of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice<'a> {
    /// The whole schedule.
    Whole,
    /// The processes of one host.
    Host(&'a str),
}

/// All that a run will do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Schedule {
    /// Name of the experiment.
    pub name: String,
    /// Name of the topology.
    pub topology: String,
    /// The host whose part this is; `None`: the whole schedule.
    pub host: Option<String>,
    /// The seed.
    pub seed: u64,
    /// Time limit of the run.
    #[serde(rename = "duration_s", serialize_with = "maybe_seconds")]
    pub duration: Option<Duration>,
    /// Processes in the order of the programs and their vnodes.
    pub processes: Vec<Process>,
    /// Timed events of the topology, as text.
    pub events: Vec<PlannedEvent>,
}

/// A timed event of the topology.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedEvent {
    /// Time since the start of the run.
    #[serde(rename = "at_s", serialize_with = "seconds")]
    pub at: Duration,
    /// Description of the event.
    pub event: String,
}

/// A program on a vnode.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Process {
    /// Name of the program.
    pub program: String,
    /// Index of the program in the experiment.
    #[serde(skip)]
    pub program_index: usize,
    /// Address of its vnode.
    pub vnode: IpAddr,
    /// Its vnode as group and index.
    pub name: String,
    /// Its index among the vnodes of the program.
    pub number: usize,
    /// Name of its folder below those of working files and of results.
    pub folder: String,
    /// Program and arguments; `{dir}` stands for the working folder.
    pub command: Vec<String>,
    /// Additional environment variables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(String, String)>,
    /// Its sessions.
    pub sessions: Vec<Session>,
}

/// A session of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Session {
    /// Start, relative to the release.
    #[serde(rename = "from_s", serialize_with = "seconds")]
    pub from: Duration,
    /// End; `None`: when the program ends, or with the run.
    #[serde(rename = "to_s", serialize_with = "maybe_seconds")]
    pub to: Option<Duration>,
}

fn seconds<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_f64(time.as_secs_f64())
}

fn maybe_seconds<S: Serializer>(time: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => seconds(time, s),
        None => s.serialize_none(),
    }
}

impl Schedule {
    /// Computes the schedule of an experiment with a seed.
    pub fn new(
        experiment: &Experiment,
        seed: u64,
        slice: Slice<'_>,
    ) -> Result<Self, ScheduleError> {
        let topology = &experiment.topology;
        let hosts: Vec<String> = topology.hosts.iter().map(|h| h.name.to_string()).collect();
        if let Slice::Host(name) = slice
            && !hosts.iter().any(|h| h == name)
        {
            return Err(ScheduleError::UnknownHost {
                name: name.to_owned(),
                names: hosts,
            });
        }
        let mut maker = Maker {
            experiment,
            seed,
            slice,
            here: experiment.here(),
            carriers: hosts
                .iter()
                .flat_map(|host| {
                    let vnodes = topology.host_vnodes(host);
                    vnodes.into_iter().map(move |vnode| (vnode, host.as_str()))
                })
                .collect(),
            sessions: 0,
        };
        let mut processes = Vec::new();
        for index in 0..experiment.programs.len() {
            processes.extend(maker.program(index)?);
        }
        Ok(Self {
            name: experiment.name.to_string(),
            topology: topology.name.to_string(),
            host: match slice {
                Slice::Whole => None,
                Slice::Host(name) => Some(name.to_owned()),
            },
            seed,
            duration: experiment.duration,
            processes,
            events: topology
                .events
                .iter()
                .map(|event| PlannedEvent {
                    at: event.at,
                    event: event.what.to_text(topology),
                })
                .collect(),
        })
    }
}

struct Maker<'a> {
    experiment: &'a Experiment,
    seed: u64,
    slice: Slice<'a>,
    here: String,
    /// The host of each vnode, if the topology has hosts.
    carriers: HashMap<IpAddr, &'a str>,
    sessions: usize,
}

impl Maker<'_> {
    fn program(&mut self, index: usize) -> Result<Vec<Process>, ScheduleError> {
        let program = &self.experiment.programs[index];
        let topology = &self.experiment.topology;
        let name = |v: &Vnode| format!("{}/{}", topology.groups[v.group].name, v.index);
        // The names of streams are addresses, so that a change of other groups changes
        // nothing.
        let streams: Vec<String> = program
            .vnodes
            .iter()
            .map(|v| v.address.to_string())
            .collect();
        let starts = program.start.times(self.seed, &program.name, &streams);
        let mut processes = Vec::new();
        for (number, vnode) in program.vnodes.iter().enumerate() {
            let host = self.carriers.get(&vnode.address).copied();
            if matches!(self.slice, Slice::Host(wanted) if host != Some(wanted)) {
                continue;
            }
            let sessions = self.sessions(program, &streams[number], starts[number])?;
            let process = Process {
                program: program.name.to_string(),
                program_index: index,
                vnode: vnode.address,
                name: name(vnode),
                number,
                folder: format!("{}/{}", vnode.address, program.name),
                command: Vec::new(),
                env: Vec::new(),
                sessions,
            };
            let values = Values {
                ip: vnode.address,
                index: vnode.index,
                number,
                group: &topology.groups[vnode.group].name,
                host: host.unwrap_or(THIS_HOST),
                seed: self.seed,
                random: Stream::new(self.seed, &["random", &program.name, &streams[number]]).bits()
                    >> 1,
                dir: FOLDER,
                here: &self.here,
                name: &program.name,
            };
            let others = |name: &str| self.addresses(name);
            processes.push(Process {
                command: program
                    .argv
                    .iter()
                    .map(|t| t.fill(&values, &others))
                    .collect(),
                env: program
                    .env
                    .iter()
                    .map(|(name, t)| (name.clone(), t.fill(&values, &others)))
                    .collect(),
                ..process
            });
        }
        Ok(processes)
    }

    /// Addresses of the vnodes of a program, or of one vnode.
    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let vnodes = match self.experiment.program(name) {
            Some(index) => self.experiment.programs[index].vnodes.clone(),
            None => find(name, &self.experiment.topology).unwrap_or_default(),
        };
        vnodes.iter().map(|v| v.address).collect()
    }

    fn sessions(
        &mut self,
        program: &Program,
        stream: &str,
        start: Duration,
    ) -> Result<Vec<Session>, ScheduleError> {
        let end = program.lasts.map(|lasts| start + lasts);
        let Some(churn) = &program.churn else {
            self.sessions += 1;
            return Ok(vec![Session {
                from: start,
                to: end,
            }]);
        };
        // A session that the end of the run cuts short has no end of its own.
        let horizon = end.or(self.experiment.duration).unwrap_or(Duration::MAX);
        let draw = |lengths: &super::Lengths, stream: &mut Stream| {
            Duration::try_from_secs_f64(lengths.draw(stream)).unwrap_or(Duration::MAX)
        };
        let mut up = Stream::new(self.seed, &["up", &program.name, stream]);
        let mut down = Stream::new(self.seed, &["down", &program.name, stream]);
        let mut sessions = Vec::new();
        let mut at = start;
        while at < horizon {
            self.sessions += 1;
            if self.sessions > MOST_SESSIONS {
                return Err(ScheduleError::TooManySessions {
                    program: program.name.to_string(),
                });
            }
            let to = at.saturating_add(draw(&churn.up, &mut up));
            let ends = to < horizon;
            sessions.push(Session {
                from: at,
                to: if ends { Some(to) } else { end },
            });
            let Some(lengths) = churn.down.as_ref().filter(|_| ends) else {
                break;
            };
            at = to.saturating_add(draw(lengths, &mut down));
        }
        Ok(sessions)
    }
}

impl Process {
    /// Its command line with the working folder filled in.
    pub fn command_in(&self, folder: &str) -> Vec<String> {
        let fill = |text: &String| text.replace(FOLDER, folder);
        self.command.iter().map(fill).collect()
    }

    /// Its additional environment variables with the working folder filled in.
    pub fn env_in(&self, folder: &str) -> Vec<(String, String)> {
        let fill = |(name, text): &(String, String)| (name.clone(), text.replace(FOLDER, folder));
        self.env.iter().map(fill).collect()
    }
}

impl fmt::Display for Schedule {
    /// Prints a line for each process, with its first times.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_deref().unwrap_or("this host");
        writeln!(
            f,
            "{} on {} ({host}), seed {}: {} processes",
            self.name,
            self.topology,
            self.seed,
            self.processes.len()
        )?;
        if let Some(duration) = self.duration {
            writeln!(f, "  stops after {:.3} s", duration.as_secs_f64())?;
        }
        for process in &self.processes {
            let times: Vec<String> = process.sessions.iter().take(4).map(span).collect();
            let more = process.sessions.len().saturating_sub(4);
            let more = match more {
                0 => String::new(),
                more => format!(" and {more} more times"),
            };
            writeln!(
                f,
                "  {:<12} {:<16} {:<20} {}{more}",
                process.program,
                process.name,
                process.command.join(" "),
                times.join(", "),
            )?;
        }
        for event in &self.events {
            writeln!(f, "  {:.3} s  {}", event.at.as_secs_f64(), event.event)?;
        }
        Ok(())
    }
}

fn span(session: &Session) -> String {
    let from = session.from.as_secs_f64();
    match session.to {
        Some(to) => format!("{from:.3}-{:.3} s", to.as_secs_f64()),
        None => format!("from {from:.3} s"),
    }
}
