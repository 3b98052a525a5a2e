//! The option `--netns` of all commands about the network.
use std::ffi::OsString;

use clap::Args;
use emu_kernel::{
    netns::{self, Netns, NetnsError},
    session::{Loaded, Session},
    user,
};
use emu_model::plan::Plan;

use super::{Command, Outcome, error::CommandError};

/// The option; it enters the namespace before any thread starts.
#[derive(Args)]
pub(super) struct NetnsArg {
    /// Work in this network namespace: a name of `ip netns`, or a path such as
    /// /proc/PID/ns/net. `load` makes a namespace that does not exist, and `unload` then
    /// removes it.
    #[arg(long, global = true, value_name = "NAME|PATH")]
    netns: Option<Netns>,
}

/// Name of the namespace for a topology of machines, if the user names none.
const PRIVATE: &str = "emu";

/// What a command needs of the namespace.
enum NamespaceNeed {
    /// Nothing: the command has no effect on the network, and does not look at it.
    Nothing,
    /// An existing namespace.
    Existing,
    /// One that is made if it does not exist.
    Made,
    /// An existing one, or an empty one without a name.
    Scratch,
    /// An existing one, or the rest of one that a killed load left.
    Rest,
}

impl Command {
    /// Whether the command is about a network that is loaded, wherever that is.
    fn finds_network(&self) -> bool {
        matches!(
            self,
            Command::Unload { stale: false, .. }
                | Command::Exec(_)
                | Command::Status(_)
                | Command::Set(_)
                | Command::Partition(_)
                | Command::Heal(_)
                | Command::Down(_)
                | Command::Up(_)
                | Command::Start(_)
                | Command::Attach(_)
                | Command::Detach(_)
                | Command::Verify(_)
        )
    }

    fn need(&self) -> NamespaceNeed {
        match self {
            Command::Load(load) if load.is_dry_run() => NamespaceNeed::Scratch,
            Command::Load(_) => NamespaceNeed::Made,
            Command::Unload { .. } => NamespaceNeed::Rest,
            Command::Plan(_)
            | Command::Exec(_)
            | Command::Run(_)
            | Command::RunGuardian { .. }
            | Command::Status(_)
            | Command::Set(_)
            | Command::Partition(_)
            | Command::Heal(_)
            | Command::Down(_)
            | Command::Up(_)
            | Command::Start(_)
            | Command::Agent(_)
            | Command::Attach(_)
            | Command::Detach(_)
            | Command::Verify(_) => NamespaceNeed::Existing,
            #[cfg(feature = "bench")]
            Command::Bench(_) => NamespaceNeed::Existing,
            Command::Results(_)
            | Command::Doctor { .. }
            | Command::Check { .. }
            | Command::Schema { .. }
            | Command::Completions { .. } => NamespaceNeed::Nothing,
        }
    }
}

/// The namespace of a command, if the user named one.
pub(super) struct Namespace {
    netns: Option<Netns>,
    /// Whether this process made it.
    made: bool,
    /// Whether it does not exist, and only the rest of a killed load was removed.
    gone: bool,
}

impl NetnsArg {
    /// Enters the namespace for a command.
    pub(super) fn enter(self, command: &Command) -> Result<Namespace, CommandError> {
        let mut namespace = Namespace {
            netns: self.netns,
            made: false,
            gone: false,
        };
        if namespace.netns.is_none() && command.finds_network() && user::is_root() {
            namespace.netns = Netns::of_load()?;
        }
        let Some(netns) = &namespace.netns else {
            return Ok(namespace);
        };
        match command.need() {
            NamespaceNeed::Nothing => {
                return Err(CommandError::usage(
                    "this command does not depend on the network: omit --netns",
                ));
            }
            NamespaceNeed::Existing => netns.enter()?,
            NamespaceNeed::Made => namespace.made = netns.enter_or_make()?,
            NamespaceNeed::Scratch => match netns.enter() {
                Err(NetnsError::Missing { .. }) => netns::enter_scratch()?,
                entered => entered?,
            },
            NamespaceNeed::Rest => {
                namespace.gone = netns.clear_interrupted()?;
                if !namespace.gone {
                    netns.enter()?;
                }
            }
        }
        Ok(namespace)
    }
}

impl Namespace {
    /// Enters the private namespace for a plan with machines, so that nothing changes in the
    /// caller's. A host with an interface to others needs that interface, and stays here.
    pub(super) fn for_plan(&mut self, plan: &Plan) -> Result<(), CommandError> {
        let stays = self.netns.is_some() || plan.uplink().is_some() || Loaded::is_here();
        if stays || plan.machines().next().is_none() {
            return Ok(());
        }
        let netns = Netns::Named(PRIVATE.to_owned());
        self.made = netns.enter_or_make()?;
        self.netns = Some(netns);
        Ok(())
    }

    /// Makes and enters a namespace for a run, unless the user named one or something is
    /// loaded in the caller's.
    pub(super) fn for_run(&mut self, name: &str) -> Result<(), CommandError> {
        if self.netns.is_some() || Loaded::is_here() {
            return Ok(());
        }
        let first = format!("{PRIVATE}-{name}");
        let further = (2_u32..).map(|n| format!("{first}-{n}"));
        for name in std::iter::once(first.clone()).chain(further) {
            let netns = Netns::Named(name);
            if !netns.exists() && netns.enter_or_make()? {
                self.netns = Some(netns);
                self.made = true;
                break;
            }
        }
        Ok(())
    }

    /// Arguments with which another process of emu works in the same namespace.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        match &self.netns {
            Some(netns) => vec!["--netns".into(), netns.to_string().into()],
            None => Vec::new(),
        }
    }

    /// Removes the namespace after a run, if this process made it and nothing is loaded.
    pub(super) fn after_run(&self) -> Result<(), CommandError> {
        if self.made {
            self.remove(Session::open()?)?;
        }
        Ok(())
    }

    /// As [`Namespace::after_run`], in the guardian of a run that died.
    pub(super) fn after_death(&self) -> Result<(), CommandError> {
        if self.netns.is_some() {
            self.remove(Session::open()?)?;
        }
        Ok(())
    }

    /// Name of the namespace, if this process made it.
    pub(super) fn made(&self) -> Option<&Netns> {
        self.netns.as_ref().filter(|_| self.made)
    }

    /// Whether there is no such namespace, and so nothing is loaded in it.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Checks that the namespace still has its name, under the lock of `session`.
    pub(super) fn check(&self, _session: &Session) -> Result<(), CommandError> {
        match &self.netns {
            Some(netns) => Ok(netns.check_here()?),
            None => Ok(()),
        }
    }

    /// Removes the namespace if a load made it and nothing is loaded; returns its name.
    pub(super) fn remove(&self, session: Session) -> Result<Option<&Netns>, CommandError> {
        match &self.netns {
            Some(netns) if session.remove_netns(netns)? => Ok(Some(netns)),
            _ => Ok(None),
        }
    }

    /// Removes the namespace after a load that failed, as after an unload.
    pub(super) fn after_load(&self, outcome: Outcome) -> Outcome {
        if outcome.is_err()
            && self.netns.is_some()
            && let Ok(session) = Session::open()
        {
            // The error to report is that of the load.
            let _ = self.remove(session);
        }
        outcome
    }
}
