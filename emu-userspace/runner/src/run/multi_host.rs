//! A run over several hosts that share the folder of the results: they meet there,
//! load, start at one time, and end together; one of them merges what all have
//! written.
use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use emu_kernel::{
    addr, link,
    netlink::{Netlink, NetlinkError},
    session::SessionError,
    user::Person,
};
use emu_model::{plan::PlanError, topology};
use sha2::{Digest, Sha256};

use super::{
    Input, Observer, Options, RunError, Summary, Why,
    supervisor::{Signals, Supervisor},
};
use crate::{
    rendezvous::{self, Fleet, Here, Luggage, OnLoss, Terms, There, Word},
    results::{self, Merged},
};

/// Longest wait for the other hosts' results, once this one's are written. Hosts
/// that fall silent are not waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// Time between two looks for the common start.
const GLANCE: Duration = Duration::from_millis(50);

/// This host among those of the run.
#[derive(Debug, Clone)]
pub struct Company {
    /// Its number, from 0.
    pub rank: usize,
    /// Number of all.
    pub size: usize,
    /// What happens when one is lost in mid-run.
    pub on_loss: OnLoss,
    /// How long the others may take to come, and then to load.
    pub within: Duration,
    /// A host that has said nothing for so long is lost.
    pub lost_after: Duration,
    /// Interface towards the others; none: the one there is, or the default route's.
    /// Not asked for where the topology names it.
    pub interface: Option<String>,
}

/// What a host has at the end.
#[derive(Debug)]
pub enum Ending {
    /// What came of all: the first host's.
    Whole(Box<Merged>),
    /// What came of its own part.
    Part(Box<Summary>),
}

impl Ending {
    /// Whether all went as it should.
    pub fn is_good(&self) -> bool {
        match self {
            Ending::Whole(merged) => merged.is_good(),
            Ending::Part(summary) => summary.is_good(),
        }
    }
}

/// Runs this host's part of an experiment, together with the others'. The folder in
/// `options` is the one that all share.
///
/// # Errors
/// [`RunError`]; the other hosts hear of it and stop.
pub fn together(
    input: &mut Input,
    options: &Options,
    company: &Company,
    observer: &mut dyn Observer,
) -> Result<Ending, RunError> {
    let names = names(input, company)?;
    let (interface, addresses) = way_out(input, company)?;
    let terms = Terms {
        folder: options.out.clone(),
        rank: company.rank,
        digest: digest(input),
        on_loss: company.on_loss,
        within: company.within,
        lost_after: company.lost_after,
        names,
    };
    let own = terms.names[company.rank].clone();
    let luggage = Luggage {
        programs: input.experiment.programs.len(),
        seed: input.seed,
        interface,
        addresses: addresses.iter().map(ipnet::IpNet::addr).collect(),
    };
    let fleet = Fleet::join(terms, luggage)?;
    let part = Options {
        out: options.out.join(rendezvous::results_of(&own)),
        host: Some(own),
        start_at: None,
        ..options.clone()
    };
    let outcome = meet(&fleet, input, &addresses, observer)
        .and_then(|()| super::run_with(input, &part, Some(&fleet), observer));
    let summary = match outcome {
        Ok(summary) => summary,
        Err(error) => {
            fleet.finish(Some(error.to_string()), Duration::ZERO);
            return Err(error);
        }
    };
    let leads = fleet.leads();
    if leads {
        observer.note("waits for the results of the other hosts");
    }
    let folder = fleet.folder().again();
    let folder = folder.map_err(RunError::system("open the results"))?;
    fleet.finish(None, PATIENCE);
    if !leads {
        return Ok(Ending::Part(Box::new(summary)));
    }
    let (parts, words) = results::shared(&folder).map_err(Box::new)?;
    let merged = results::merge(&parts, &words, &folder, true).map_err(Box::new)?;
    if let Some(o) = options.person.as_ref().map(Person::credentials) {
        let given = folder.give_all(o.uid, o.gid);
        given.map_err(RunError::system("hand over the results"))?;
    }
    Ok(Ending::Whole(Box::new(merged)))
}

/// The hosts' names; where the topology has hosts, there are as many as asked for
/// afterwards.
fn names(input: &mut Input, company: &Company) -> Result<Vec<String>, RunError> {
    let plan_error = |e: PlanError| SessionError::Plan(e);
    let (rank, size) = (company.rank, company.size);
    if rank >= size {
        return Err(plan_error(PlanError::Rank { rank, size }).into());
    }
    let topology = &mut input.experiment.topology;
    if topology.hosts.is_empty() {
        return Ok((0..size).map(|rank| format!("h{rank}")).collect());
    }
    if topology.hosts.len() != size {
        topology.resize(size).map_err(|e| plan_error(e.into()))?;
    }
    Ok(topology.hosts.iter().map(|h| h.name.clone()).collect())
}

/// What all hosts must have alike.
fn digest(input: &Input) -> String {
    let mut hash = Sha256::new();
    hash.update(input.text.as_bytes());
    hash.update([0]);
    hash.update(input.topology_text.as_bytes());
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// The interface towards the others, and this host's addresses there.
fn way_out(input: &Input, company: &Company) -> Result<(String, Vec<ipnet::IpNet>), RunError> {
    let failed = |e: NetlinkError| RunError::Netlink(Box::new(e));
    let mut netlink = Netlink::open().map_err(failed)?;
    let links = link::links(&mut netlink).map_err(failed)?;
    let usable = |net: &ipnet::IpNet| match net.addr() {
        IpAddr::V4(a) => !a.is_loopback() && !a.is_link_local(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    };
    let all = addr::addresses(&mut netlink).map_err(failed)?;
    let of = |index: u32| -> Vec<ipnet::IpNet> {
        let own = all.iter().filter(|a| a.index == index).map(|a| a.net);
        own.filter(usable).collect()
    };
    let hosts = &input.experiment.topology.hosts;
    let said = hosts.get(company.rank).map(|h| h.interface.clone());
    if let Some(name) = said.or_else(|| company.interface.clone()) {
        let found = links.iter().find(|l| l.name == name);
        let found = found.ok_or_else(|| RunError::NoInterface { name: name.clone() })?;
        return Ok((name, of(found.index)));
    }
    let default = addr::default_interface(&mut netlink).map_err(failed)?;
    let mut ways: Vec<_> = links
        .iter()
        .filter(|l| l.up && l.name != "lo")
        .map(|l| (l, of(l.index)))
        .filter(|(_, addresses)| !addresses.is_empty())
        .collect();
    if ways.iter().any(|(l, _)| Some(l.index) == default) {
        ways.retain(|(l, _)| Some(l.index) == default);
    }
    match &ways[..] {
        [(link, addresses)] => Ok((link.name.clone(), addresses.clone())),
        _ => Err(RunError::WhichInterface {
            names: ways.iter().map(|(l, _)| l.name.clone()).collect(),
        }),
    }
}

/// Waits for the other hosts, and learns from them what this one must know.
fn meet(
    fleet: &Fleet,
    input: &mut Input,
    own: &[ipnet::IpNet],
    observer: &mut dyn Observer,
) -> Result<(), RunError> {
    observer.note("waits for the other hosts");
    // Nothing has been changed yet: a signal may end us as it does others.
    let words = fleet.gather(&|| false)?.unwrap_or_default();
    let Some(first) = words.first() else {
        return Ok(());
    };
    // Said in a file it is the same everywhere; else the first host's counts.
    input.seed = first.seed;
    fleet.compare_clocks(first);
    if input.experiment.topology.hosts.is_empty() {
        let text = with_hosts(input, &words);
        let name = input.topology_file.display().to_string();
        let parsed = topology::parse(&text, &name).map_err(Box::new)?;
        input.experiment.topology = parsed;
        input.topology_text = text;
    } else if let Some(strange) = stranger(input, &words, own) {
        observer.note(&strange);
    }
    Ok(())
}

/// The topology with the hosts of this run, the same text on all of them.
fn with_hosts(input: &Input, words: &[Word]) -> String {
    let mut text = input.topology_text.trim_end().to_owned();
    text += "\n\n# The hosts of this run.\n";
    if input.experiment.topology.placement.is_none() {
        text += "placement: spread\n";
    }
    text += "hosts:\n";
    let families: BTreeSet<bool> = (input.experiment.topology.groups.iter())
        .map(|g| g.prefix.addr().is_ipv4())
        .collect();
    for word in words {
        let of = |four: bool| word.addresses.iter().find(|a| a.is_ipv4() == four);
        let addresses: Vec<String> = families
            .iter()
            .filter_map(|four| Some(format!("'{}'", of(*four)?)))
            .collect();
        // As strings of JSON, which are YAML's too: what another host says is text.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        text += &format!(
            "  - {{name: {}, interface: {}, address: [{}]}}\n",
            quoted(&word.host),
            quoted(&word.interface),
            addresses.join(", ")
        );
    }
    text
}

/// What the topology says of a host's address and is not so.
fn stranger(input: &Input, words: &[Word], own: &[ipnet::IpNet]) -> Option<String> {
    let hosts = &input.experiment.topology.hosts;
    hosts.iter().zip(words).find_map(|(host, word)| {
        let wrong = host
            .addresses
            .iter()
            .find(|a| !word.addresses.contains(a))?;
        let near = own.iter().any(|net| net.contains(wrong));
        near.then(|| {
            format!(
                "WARNING: the topology has {} at {wrong}, and {} has {:?}; leave `hosts` out \
                 and emu takes what is there",
                host.name, word.machine, word.addresses
            )
        })
    })
}

impl Supervisor<'_> {
    /// Says that this host could start, and waits for the common start; whether a
    /// signal came first.
    pub(super) async fn start_together(
        &mut self,
        fleet: &Fleet,
        signals: &mut Signals,
    ) -> Result<bool, RunError> {
        fleet.loaded();
        let begin = Instant::now();
        let start = loop {
            if let Some(start) = fleet.start(begin.elapsed())? {
                break start;
            }
            tokio::select! {
                () = tokio::time::sleep(GLANCE) => {}
                () = signals.any() => return Ok(true),
            }
        };
        let wait = start.duration_since(SystemTime::now()).unwrap_or_default();
        self.parts.observer.note(&format!(
            "all hosts are ready; starts in {:.1} s",
            wait.as_secs_f64()
        ));
        Ok(tokio::select! {
            () = tokio::time::sleep(wait) => false,
            () = signals.any() => true,
        })
    }

    /// Tells the other hosts how this one stands, and hears how they do.
    pub(super) fn exchange(&mut self, fleet: &Fleet, ended: Option<Why>) {
        let stop = ended.and_then(|why| match why {
            Why::Complete | Why::Duration | Why::Elsewhere => None,
            Why::Failures => Some("too many failures".to_owned()),
            Why::Interrupted => Some("interrupted".to_owned()),
            Why::Broken => Some(
                self.broken
                    .clone()
                    .unwrap_or_else(|| "broken off".to_owned()),
            ),
        });
        fleet.tell(&Here {
            ready: self.gate.ready_here(),
            failed: self.slots.iter().filter(|s| s.failed).count(),
            over: ended.is_some() || self.all_ended(),
            stop,
        });
        let there = fleet.there();
        self.gate.ready_elsewhere(&there.ready);
        for host in &there.lost {
            if !self.there.lost.contains(host) {
                self.parts.observer.note(&format!("{host} fell silent"));
            }
        }
        self.there = there;
    }

    /// Whether the run is over as far as the other hosts go, and why.
    pub(super) fn over_together(&self) -> Option<Why> {
        let There { over, stop, .. } = &self.there;
        match (stop, over) {
            (Some(_), _) => Some(Why::Elsewhere),
            (None, true) => Some(Why::Complete),
            (None, false) => None,
        }
    }
}
