//! A run on several hosts that share the folder of results: they wait for each other, load,
//! start at the same time, and end together; one of them merges the results.
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
    EndReason, Input, Observer, RunError, RunOptions, Summary, input::give_host_latency,
    signals::Signals, supervisor::Supervisor,
};
use crate::{
    rendezvous::{
        self, ClusterView, HostStatus, JoinInfo, LocalStatus, Membership, OnLoss, RendezvousConfig,
        StopCause,
    },
    results::{self, Merged},
};

/// Longest wait for the other hosts' results, after this host's are written. Lost hosts are
/// not waited for.
const RESULTS_TIMEOUT: Duration = Duration::from_secs(600);
/// Time between two polls for the common start.
const READY_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// This host among the hosts of the run.
#[derive(Debug, Clone)]
pub struct HostGroup {
    /// From 0.
    pub rank: usize,
    /// Number of hosts.
    pub size: usize,
    pub on_loss: OnLoss,
    /// Time limit for the other hosts to join, and then to load.
    pub within: Duration,
    /// A host is lost if its heartbeat does not change for this time.
    pub lost_after: Duration,
    /// Interface towards the other hosts; `None`: the only one, or that of the default route.
    /// Not used if the topology names the interface.
    pub interface: Option<String>,
}

#[derive(Debug)]
pub enum RunOutcome {
    /// The merged results, on the first live host.
    Whole(Box<Merged>),
    /// The summary of this host, on all others.
    Part(Box<Summary>),
}

impl RunOutcome {
    /// Whether no process failed and the run was not aborted.
    pub fn is_good(&self) -> bool {
        match self {
            RunOutcome::Whole(merged) => merged.is_good(),
            RunOutcome::Part(summary) => summary.is_good(),
        }
    }
}

/// Runs this host's part of an experiment, together with the other hosts. The folder in
/// `options` is the shared one.
///
/// # Errors
/// Why this host failed; the other hosts read the reason and stop.
pub fn together(
    input: &mut Input,
    options: &RunOptions,
    group: &HostGroup,
    observer: &mut dyn Observer,
) -> Result<RunOutcome, RunError> {
    let names = names(input, group)?;
    let (interface, addresses) = peer_interface(input, group)?;
    let config = RendezvousConfig {
        folder: options.out.clone(),
        rank: group.rank,
        digest: digest(input),
        on_loss: group.on_loss,
        within: group.within,
        lost_after: group.lost_after,
        names,
    };
    let own = config.names[group.rank].clone();
    let info = JoinInfo {
        programs: input.experiment.programs.len(),
        seed: input.seed,
        interface,
        addresses: addresses.iter().map(ipnet::IpNet::addr).collect(),
    };
    let membership = Membership::join(config, info)?;
    let part = RunOptions {
        out: options.out.join(rendezvous::results_of(&own)),
        host: Some(own),
        start_at: None,
        ..options.clone()
    };
    let outcome = meet(&membership, input, &addresses, observer)
        .and_then(|()| super::run_with(input, &part, Some(&membership), observer));
    let summary = match outcome {
        Ok(summary) => summary,
        Err(error) => {
            membership.finish(Some(error.to_string()), Duration::ZERO);
            return Err(error);
        }
    };
    let leads = membership.leads();
    if leads {
        observer.note("waiting for the results of the other hosts");
    }
    let folder = membership.folder().again();
    let folder = folder.map_err(RunError::system("open the results"))?;
    membership.finish(None, RESULTS_TIMEOUT);
    if !leads {
        return Ok(RunOutcome::Part(Box::new(summary)));
    }
    let (parts, statuses) = results::shared(&folder).map_err(Box::new)?;
    let merged = results::merge(&parts, &statuses, &folder, true).map_err(Box::new)?;
    if let Some(o) = options.person.as_ref().map(Person::credentials) {
        let given = folder.give_all(o.uid, o.gid);
        given.map_err(RunError::system("give the results to the user"))?;
    }
    Ok(RunOutcome::Whole(Box::new(merged)))
}

/// The names of the hosts. If the topology has hosts, it is resized to the number of hosts of
/// the run.
fn names(input: &mut Input, group: &HostGroup) -> Result<Vec<String>, RunError> {
    let plan_error = |e: PlanError| SessionError::Plan(e);
    let (rank, size) = (group.rank, group.size);
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
    Ok(topology.hosts.iter().map(|h| h.name.to_string()).collect())
}

/// Digest of the inputs that must be equal on all hosts.
fn digest(input: &Input) -> String {
    let mut hash = Sha256::new();
    hash.update(input.text.as_bytes());
    hash.update([0]);
    hash.update(input.topology_text.as_bytes());
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// The interface towards the other hosts, and this host's addresses on it.
fn peer_interface(
    input: &Input,
    group: &HostGroup,
) -> Result<(String, Vec<ipnet::IpNet>), RunError> {
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
    let said = hosts.get(group.rank).map(|h| h.interface.clone());
    if let Some(name) = said.or_else(|| group.interface.clone()) {
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

/// Waits for the other hosts, and takes over from their status what this host needs to know.
fn meet(
    membership: &Membership,
    input: &mut Input,
    own: &[ipnet::IpNet],
    observer: &mut dyn Observer,
) -> Result<(), RunError> {
    observer.note("waiting for the other hosts");
    // Nothing has been changed yet, so a signal may end the process without cleaning up.
    let statuses = membership.wait_for_all(&|| false)?.unwrap_or_default();
    let Some(first) = statuses.first() else {
        return Ok(());
    };
    // A seed from a file is the same on all hosts; otherwise the first host's seed holds.
    input.seed = first.seed;
    membership.compare_clocks(first);
    if input.experiment.topology.hosts.is_empty() {
        let text = with_hosts(input, &statuses);
        let name = input.topology_file.display().to_string();
        let mut parsed = topology::parse(&text, &name).map_err(Box::new)?;
        give_host_latency(&mut parsed)?;
        input.experiment.topology = parsed;
        input.topology_text = text;
    } else if let Some(strange) = address_conflict(input, &statuses, own) {
        observer.note(&strange);
    }
    Ok(())
}

/// The topology with the hosts of this run; the text is the same on all hosts.
fn with_hosts(input: &Input, statuses: &[HostStatus]) -> String {
    let mut text = input.topology_text.trim_end().to_owned();
    text += "\n\n# The hosts of this run.\n";
    if input.experiment.topology.placement.is_none() {
        text += "placement: spread\n";
    }
    text += "hosts:\n";
    let families: BTreeSet<bool> = (input.experiment.topology.groups.iter())
        .map(|g| g.prefix.addr().is_ipv4())
        .collect();
    for status in statuses {
        let of = |four: bool| status.addresses.iter().find(|a| a.is_ipv4() == four);
        let addresses: Vec<String> = families
            .iter()
            .filter_map(|four| Some(format!("'{}'", of(*four)?)))
            .collect();
        // Quoted as JSON strings, which are valid YAML: text from another host is data only.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        text += &format!(
            "  - {{name: {}, interface: {}, address: [{}]}}\n",
            quoted(&status.host),
            quoted(&status.interface),
            addresses.join(", ")
        );
    }
    text
}

/// Describes an address that the topology gives to a host that does not have it.
fn address_conflict(
    input: &Input,
    statuses: &[HostStatus],
    own: &[ipnet::IpNet],
) -> Option<String> {
    let hosts = &input.experiment.topology.hosts;
    hosts.iter().zip(statuses).find_map(|(host, status)| {
        let wrong = host
            .addresses
            .iter()
            .find(|a| !status.addresses.contains(a))?;
        let near = own.iter().any(|net| net.contains(wrong));
        near.then(|| {
            format!(
                "WARNING: the topology gives {} the address {wrong}, but {} has {:?}; without `hosts` \
                 in the topology, emu uses the addresses that the hosts have",
                host.name, status.machine, status.addresses
            )
        })
    })
}

impl Supervisor<'_> {
    /// Publishes that this host could start, and waits for the common start. Returns whether
    /// a signal came first.
    pub(super) async fn start_together(
        &mut self,
        membership: &Membership,
        signals: &mut Signals,
    ) -> Result<bool, RunError> {
        membership.set_loaded();
        let begin = Instant::now();
        let start = loop {
            if let Some(start) = membership.start(begin.elapsed())? {
                break start;
            }
            tokio::select! {
                () = tokio::time::sleep(READY_POLL_INTERVAL) => {}
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

    /// Publishes the status of this host, and reads the decisions for all.
    pub(super) fn exchange(&mut self, membership: &Membership, ended: Option<EndReason>) {
        let stop = ended.and_then(|why| match why {
            EndReason::Complete | EndReason::Duration | EndReason::Elsewhere => None,
            EndReason::Failures => Some(StopCause::TooManyFailures),
            EndReason::Interrupted => Some(StopCause::Interrupted),
            EndReason::Broken => Some(StopCause::Broken(
                self.broken
                    .clone()
                    .unwrap_or_else(|| "broken off".to_owned()),
            )),
        });
        membership.publish(&LocalStatus {
            ready: self.gate.ready_here(),
            failed: self.states.iter().filter(|s| s.life.has_failed()).count(),
            over: ended.is_some() || self.all_ended(),
            stop,
        });
        let view = membership.view();
        self.gate.ready_elsewhere(&view.ready);
        for host in &view.lost {
            if !self.cluster.lost.contains(host) {
                self.parts
                    .observer
                    .note(&format!("{host} missed its heartbeats"));
            }
        }
        self.cluster = view;
    }

    /// Why the run is over according to the other hosts, if it is.
    pub(super) fn over_together(&self) -> Option<EndReason> {
        let ClusterView { over, stop, .. } = &self.cluster;
        match (stop, over) {
            (Some(_), _) => Some(EndReason::Elsewhere),
            (None, true) => Some(EndReason::Complete),
            (None, false) => None,
        }
    }
}
