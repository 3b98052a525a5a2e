//! What people write: topologies, experiments, settings, quantities, names.
use std::{net::IpAddr, sync::OnceLock, time::Duration};

use emu_model::{
    experiment::{self, Schedule, Slice},
    host_selector::{self, HostHints, HostSelector},
    name::{Name, printable},
    plan::Plan,
    topology::{self, AccessLinkChange, PipeChange, Target, Topology, TopologyErrors},
};

use crate::text;

/// Vnodes of a topology up to which a plan is made; more of them take long and show nothing
/// new.
const MOST_PLANNED: usize = 5_000;
/// Duration of an experiment up to which a schedule is made, for the same reason.
const LONGEST: Duration = Duration::from_secs(3_600);

/// A topology without mistakes, for texts that refer to one.
fn example() -> &'static Topology {
    static EXAMPLE: OnceLock<Topology> = OnceLock::new();
    EXAMPLE.get_or_init(|| {
        let text = "version: 1\ngroups:\n  a: {prefix: 10.1.0.0/24, nodes: 3, up: 1mbit}\n  \
                    b: {prefix: 'fd00::/64', nodes: 2, kind: machine}\n";
        topology::parse(text, "example.yaml").unwrap()
    })
}

/// The properties of every list of errors: there is one, each is at a place of the file, and
/// the text has no control characters but line ends and tabs.
fn check_errors(errors: &TopologyErrors, source: &str) {
    assert!(!errors.problems.is_empty(), "refused without a reason");
    let ends = source.matches(['\r', '\n']).count();
    let lines = (ends - source.matches("\r\n").count()) as u32 + 1;
    for problem in &errors.problems {
        assert!(problem.at.line <= lines, "{problem:?} is behind the end");
    }
    let shown = errors.to_string();
    let strange = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    assert!(!shown.contains(strange), "{shown:?}");
    assert!(shown.matches("\nerror: ").count() < 51);
    assert!(serde_json::from_str::<serde_json::Value>(&errors.to_json()).is_ok());
}

/// A topology, and the plan of each of its hosts.
pub fn topology(data: &[u8]) {
    let Some(source) = text(data) else { return };
    let mut topology = match topology::parse(source, "t.yaml") {
        Ok(topology) => topology,
        Err(errors) => return check_errors(&errors, source),
    };
    if topology.vnode_total() > MOST_PLANNED {
        return;
    }
    let names: Vec<String> = topology.hosts.iter().map(|h| h.name.to_string()).collect();
    for host in names.iter().map(|n| Some(n.as_str())).chain([None]) {
        if let Ok(plan) = Plan::new(&topology, host) {
            assert!(plan.vnodes.len() <= MOST_PLANNED);
            for vnode in &plan.vnodes {
                assert_eq!(topology.group_of(vnode.address), Some(vnode.group));
            }
        }
    }
    let selector = HostSelector::Rank {
        rank: 1,
        size: Some(3),
    };
    let _ = host_selector::pick(&mut topology, &selector, &HostHints::default());
}

/// An experiment, and its schedule.
pub fn experiment(data: &[u8]) {
    let Some(source) = text(data) else { return };
    let _ = experiment::looks_like_one(source);
    let mut find = |_: &_| Some(example().clone());
    match experiment::parse(source, "e.yaml", &mut find) {
        Err(errors) => check_errors(&errors, source),
        Ok(experiment) if experiment.duration.is_some_and(|d| d > LONGEST) => {}
        Ok(experiment) => {
            let Ok(schedule) = Schedule::new(&experiment, 1, Slice::Whole) else {
                return;
            };
            assert_eq!(
                Schedule::new(&experiment, 1, Slice::Whole).as_ref(),
                Ok(&schedule)
            );
            for process in &schedule.processes {
                assert!(!process.command_in("/w").is_empty());
                let mut last = Duration::ZERO;
                for session in &process.sessions {
                    assert!(session.from >= last, "sessions overlap");
                    last = session.to.unwrap_or(session.from);
                }
            }
        }
    }
}

/// Settings of `emu set`, one in each line.
pub fn change(data: &[u8]) {
    let Some(source) = text(data) else { return };
    let arguments: Vec<String> = source.lines().map(str::to_owned).collect();
    for result in [
        AccessLinkChange::from_args(&arguments).map(drop),
        PipeChange::from_args(&arguments).map(drop),
    ] {
        assert!(result.err().is_none_or(|text| !text.is_empty()));
    }
}

/// Quantities, each parsed by each reader; what is printed of one is read as the same.
pub fn quantity(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(rate) = topology::rate(text) {
        assert_eq!(topology::rate(&rate.to_string()), Ok(rate));
    }
    if let Ok(time) = topology::time(text) {
        assert_eq!(topology::time(&format!("{}ns", time.as_nanos())), Ok(time));
    }
    if let Ok(span) = topology::span(text) {
        assert!(topology::time(text).is_err() || span <= Duration::from_secs(1 << 40));
    }
    let _ = topology::size(text);
    if let Ok(chance) = topology::probability(text) {
        assert_eq!(topology::probability(text), Ok(chance));
    }
}

/// Names of vnodes, groups, pairs, hosts and namespaces.
pub fn selector(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let topology = example();
    if let Some(address) = topology.vnode_named(text) {
        assert!(topology.group_of(address).is_some());
    }
    match Target::parse(text, topology) {
        Ok(Target::Vnode(address)) => assert_eq!(text.parse::<IpAddr>(), Ok(address)),
        Ok(_) => {}
        Err(message) => assert!(!message.is_empty()),
    }
    if let Ok(name) = Name::new(text) {
        assert!((1..=63).contains(&name.as_str().len()) && !text.contains('/'));
    }
    let _ = text.parse::<emu_kernel::netns::Netns>();
    let controls = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    assert!(!printable(text).contains(controls));
    let look_up = |_: &str| Some(text.to_owned());
    let hints = HostHints::from_lookup(look_up, Some(text.to_owned()));
    let _ = hints.give_host_latency(&mut topology.clone());
}
