//! Which of a topology's hosts this machine is, according to the user or to the system that
//! started emu.
use crate::{
    plan::PlanError,
    topology::{self, Topology},
};

/// How the host that this machine is gets selected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostSelector {
    /// The topology has one host, or none.
    #[default]
    Only,
    /// By its name.
    Named(String),
    /// By what the machine knows about itself, see [`HostHints`].
    Auto,
    /// By its rank.
    Rank {
        /// Counted from 0.
        rank: usize,
        /// Number of hosts; `None`: that of the file.
        size: Option<usize>,
    },
}

/// What a machine knows about its identity among the hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostHints {
    /// Names of the machine with their sources, the most specific first.
    pub names: Vec<(&'static str, String)>,
    /// Rank and number of hosts, according to Slurm.
    pub slurm: Option<(usize, usize)>,
    /// Latency of the network between the hosts, as text.
    pub host_latency: Option<String>,
}

impl HostHints {
    /// Collects the hints from the environment, which `get` looks up, and the host name:
    /// `EMU_HOST`, `NODE_NAME` and `POD_NAME` as in Kubernetes' downward API,
    /// `SLURMD_NODENAME`, the host name; `SLURM_NODEID` with the number of the step's nodes,
    /// `SLURM_STEP_NUM_NODES`, or with `SLURM_NNODES` or `SLURM_NTASKS` if that is missing;
    /// `EMU_HOST_LATENCY`, for a topology without a latency between its hosts.
    pub fn from_lookup(get: impl Fn(&str) -> Option<String>, host: Option<String>) -> Self {
        let get = |key: &str| get(key).filter(|value| !value.is_empty());
        let mut names: Vec<(&'static str, String)> =
            ["EMU_HOST", "NODE_NAME", "POD_NAME", "SLURMD_NODENAME"]
                .into_iter()
                .filter_map(|key| get(key).map(|value| (key, value)))
                .collect();
        names.extend(host.map(|name| ("the host name", name)));
        let number = |key: &str| get(key).and_then(|text| text.parse::<usize>().ok());
        let size = ["SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_NTASKS"]
            .into_iter()
            .find_map(number);
        Self {
            names,
            slurm: number("SLURM_NODEID").zip(size),
            host_latency: get("EMU_HOST_LATENCY"),
        }
    }

    /// Sets the latency between the hosts from the environment, if the topology has none.
    ///
    /// # Errors
    /// [`PlanError::HostLatency`].
    pub fn give_host_latency(&self, topology: &mut Topology) -> Result<(), PlanError> {
        if let (None, Some(text)) = (topology.host_latency, &self.host_latency) {
            let latency = topology::time(text).map_err(PlanError::HostLatency)?;
            topology.host_latency = (!latency.is_zero()).then_some(latency);
        }
        Ok(())
    }

    /// The host that one of the names matches, in full or up to its first dot.
    fn named(&self, topology: &Topology) -> Option<String> {
        let short = |name: &str| name.split('.').next().map(str::to_owned);
        let forms = self
            .names
            .iter()
            .flat_map(|(_, name)| [Some(name.clone()), short(name)]);
        let known = |name: &String| topology.hosts.iter().any(|h| h.name == *name);
        forms.flatten().find(known)
    }

    fn tried(&self) -> String {
        let mut tried: Vec<String> = self
            .names
            .iter()
            .map(|(from, name)| format!("{name:?} ({from})"))
            .collect();
        tried.push("SLURM_NODEID, which is not set".to_owned());
        tried.join(", ")
    }
}

/// Finds the name of this host in a topology; `None` if the topology has no hosts. If the
/// selector has a number of hosts, the topology is resized to it.
///
/// # Errors
/// [`PlanError`] if no host matches, or more than one.
pub fn pick(
    topology: &mut Topology,
    which: &HostSelector,
    around: &HostHints,
) -> Result<Option<String>, PlanError> {
    around.give_host_latency(topology)?;
    match which {
        HostSelector::Only => Ok(None),
        HostSelector::Named(name) => Ok(Some(name.clone())),
        HostSelector::Rank { rank, size } => ranked(topology, *rank, *size).map(Some),
        HostSelector::Auto if topology.hosts.is_empty() => Ok(None),
        HostSelector::Auto => {
            if let Some(name) = around.named(topology) {
                return Ok(Some(name));
            }
            if let Some((rank, size)) = around.slurm {
                return ranked(topology, rank, Some(size)).map(Some);
            }
            if let [only] = &topology.hosts[..] {
                return Ok(Some(only.name.to_string()));
            }
            Err(PlanError::Unknown {
                tried: around.tried(),
                names: topology.hosts.iter().map(|h| h.name.to_string()).collect(),
            })
        }
    }
}

fn ranked(topology: &mut Topology, rank: usize, size: Option<usize>) -> Result<String, PlanError> {
    if let Some(size) = size.filter(|size| *size != topology.hosts.len()) {
        topology.resize(size)?;
    }
    let size = topology.hosts.len();
    let host = topology.hosts.get(rank).map(|host| host.name.to_string());
    host.ok_or(PlanError::Rank { rank, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::parse;

    fn around(pairs: &[(&str, &str)], host: &str) -> HostHints {
        let get = |key: &str| {
            let found = pairs.iter().find(|(k, _)| *k == key);
            found.map(|(_, value)| (*value).to_owned())
        };
        HostHints::from_lookup(get, Some(host.to_owned()))
    }

    fn which(hosts: &str, around: &HostHints) -> Result<(Option<String>, usize), PlanError> {
        let text =
            format!("version: 1\ngroups: {{a: {{prefix: 10.1.0.0/16, nodes: 90}}}}\n{hosts}");
        let mut topology = parse(&text, "t").unwrap_or_else(|e| panic!("{e}"));
        let host = pick(&mut topology, &HostSelector::Auto, around)?;
        Ok((host, topology.hosts.len()))
    }

    #[test]
    fn a_host_finds_itself() {
        let alike = "hosts: {count: 4, name: 'emu-{rank}', interface: eth0}";
        let found = |name: &str, size| Ok((Some(name.to_owned()), size));
        let none = around(&[], "box");
        assert_eq!(which("", &none), Ok((None, 0)));
        assert_eq!(
            which(alike, &around(&[], "emu-2.emu.svc")),
            found("emu-2", 4)
        );
        let kube = around(&[("NODE_NAME", "emu-1")], "emu-2");
        assert_eq!(which(alike, &kube), found("emu-1", 4));
        let slurm = around(&[("SLURM_NODEID", "5"), ("SLURM_NNODES", "6")], "c005");
        assert_eq!(which(alike, &slurm), found("emu-5", 6));
        let tasks = around(&[("SLURM_NODEID", "0"), ("SLURM_NTASKS", "2")], "c005");
        assert_eq!(which(alike, &tasks), found("emu-0", 2));
        let beyond = around(&[("SLURM_NODEID", "6"), ("SLURM_NNODES", "6")], "c005");
        assert_eq!(
            which(alike, &beyond),
            Err(PlanError::Rank { rank: 6, size: 6 })
        );
        let error = which(alike, &none).unwrap_err().to_string();
        assert!(error.contains("\"box\" (the host name)"), "{error}");
    }

    #[test]
    fn hosts_that_say_what_they_carry_are_all_needed() {
        let hosts = "hosts:
  - {name: h1, interface: eth0, nodes: [10.1.0.1-10.1.0.45]}
  - {name: h2, interface: eth0, nodes: [10.1.0.46-10.1.0.90]}";
        let slurm = around(&[("SLURM_NODEID", "0"), ("SLURM_NNODES", "1")], "c005");
        let error = which(hosts, &slurm).unwrap_err().to_string();
        assert!(error.contains("distributed over 1"), "{error}");
    }
}
