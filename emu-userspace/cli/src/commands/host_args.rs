//! Arguments that select the host, shared by several commands.
use clap::Args;
use emu_kernel::machine;
use emu_model::{
    host_selector::{self, HostSelector},
    plan::{Plan, PlanError},
    topology::Topology,
};

/// The arguments.
#[derive(Args, Clone)]
pub(super) struct HostArgs {
    /// The topology's host that this machine is: its name, or `auto`: the value of EMU_HOST,
    /// NODE_NAME, POD_NAME, SLURMD_NODENAME or the host name, or else number SLURM_NODEID of
    /// SLURM_NNODES.
    #[arg(long, value_name = "NAME|auto", conflicts_with = "rank")]
    pub host: Option<String>,
    /// The rank of this machine among the topology's hosts, from 0.
    #[arg(long, value_name = "R")]
    pub rank: Option<usize>,
    /// Distribute the topology over this number of hosts, instead of all hosts of the file.
    #[arg(long, value_name = "N")]
    pub size: Option<usize>,
}

impl HostArgs {
    /// The selector; a number of hosts alone does not select one.
    pub(super) fn which(&self) -> Result<HostSelector, anyhow::Error> {
        if let (Some(_), None) = (self.size, self.rank) {
            anyhow::bail!("--size needs --rank");
        }
        Ok(self.said())
    }

    fn said(&self) -> HostSelector {
        match (self.host.as_deref(), self.rank) {
            (Some("auto"), _) => HostSelector::Auto,
            (Some(name), _) => HostSelector::Named(name.to_owned()),
            (None, Some(rank)) => HostSelector::Rank {
                rank,
                size: self.size,
            },
            (None, None) => HostSelector::Only,
        }
    }

    /// This host's name; resizes the topology if a number of hosts is given.
    pub(super) fn host(&self, topology: &mut Topology) -> Result<Option<String>, PlanError> {
        if let (Some(size), None) = (self.size, self.rank) {
            topology.resize(size)?;
        }
        host_selector::pick(topology, &self.said(), &machine::host_hints())
    }

    /// This host's plan; resizes the topology if a number of hosts is given.
    pub(super) fn plan(&self, topology: &mut Topology) -> Result<Plan, PlanError> {
        let host = self.host(topology)?;
        Plan::new(topology, host.as_deref())
    }
}
