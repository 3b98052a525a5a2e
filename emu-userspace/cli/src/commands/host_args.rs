//! Which host this is: the arguments that commands share.
use clap::Args;
use emu_kernel::machine;
use emu_model::{
    host_selector::{self, HostSelector},
    plan::{Plan, PlanError},
    topology::Topology,
};

/// Which of the topology's hosts this machine is.
#[derive(Args, Clone)]
pub(super) struct HostArgs {
    /// Which of the topology's hosts this machine is: its name, or `auto`: what
    /// EMU_HOST, NODE_NAME, POD_NAME, SLURMD_NODENAME or the host name says, else
    /// number SLURM_NODEID of SLURM_NNODES.
    #[arg(long, value_name = "NAME|auto", conflicts_with = "rank")]
    pub host: Option<String>,
    /// This machine is this one of the topology's hosts, from 0.
    #[arg(long, value_name = "R")]
    pub rank: Option<usize>,
    /// Spread the topology over so many hosts, not over all that the file has.
    #[arg(long, value_name = "N")]
    pub size: Option<usize>,
}

impl HostArgs {
    /// What was said; a number of hosts alone says nothing of this one.
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

    /// This host's name; the topology gets the number of hosts that was said.
    pub(super) fn host(&self, topology: &mut Topology) -> Result<Option<String>, PlanError> {
        if let (Some(size), None) = (self.size, self.rank) {
            topology.resize(size)?;
        }
        host_selector::pick(topology, &self.said(), &machine::host_hints())
    }

    /// This host's plan; the topology gets the number of hosts that was said.
    pub(super) fn plan(&self, topology: &mut Topology) -> Result<Plan, PlanError> {
        let host = self.host(topology)?;
        Plan::new(topology, host.as_deref())
    }
}
