//! Drift: objects of a load that are no longer in place, for example because a user replaced
//! a qdisc; and objects that an unload left behind.
//!
//! An exhaustive match (`absent`) checks for each step of the journal whether its object
//! exists with the settings of the load, so a new step does not compile without a check.
mod facts;
mod residue;

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::IpAddr,
    path::Path,
};

use emu_common::names;
use emu_model::plan::{self, Plan};
use ipnet::IpNet;

use super::{
    addr::Route,
    apply,
    cgroup::{self, Tree},
    link::Link,
    machines,
    netlink::{Netlink, NetlinkError},
    offload,
    state::{State, StateDir, StateError, Undo},
    tc::{self, Hook, HookPlace},
};

pub(crate) use facts::Facts;
pub(crate) use residue::{removals, residue};

/// Why drift could not be detected.
#[derive(Debug, thiserror::Error)]
pub enum DriftError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Name of the program that a load attaches to a hook of an interface.
pub(crate) fn program_at(link: &Link, hook: Hook) -> &'static str {
    match hook {
        Hook::Ingress => names::PROG_INGRESS,
        Hook::Egress if link.name == names::IFB => names::PROG_IFB,
        Hook::Egress => names::PROG_EGRESS,
    }
}

/// The expected state of a load.
struct Load<'a> {
    plan: &'a Plan,
    state: &'a State,
    dir: &'a StateDir,
}

impl Load<'_> {
    /// Describes the drift of an interface's fq, if any.
    fn fq(&self, facts: &Facts, link: &Link) -> Option<String> {
        let Some(fq) = facts.fq(link) else {
            return Some(format!("fq on {}", link.name));
        };
        let wanted = self.state.fq.as_ref().unwrap_or(&self.plan.fq);
        // A change in place enlarges fq before it stores the state.
        (!tc::is_at_least(fq, wanted)).then(|| format!("the settings of fq on {}", link.name))
    }

    fn filter(&self, facts: &Facts, link: &Link, hook: Hook) -> Option<String> {
        self.program(facts, link, hook, program_at(link, hook))
    }

    fn program(&self, facts: &Facts, link: &Link, hook: Hook, name: &str) -> Option<String> {
        let place = HookPlace::Interface {
            index: link.index,
            name: &link.name,
            hook,
        };
        let missing = !facts.has_filter(place, self.program_id(name));
        missing.then(|| format!("the filter {name} on {}", link.name))
    }

    fn program_id(&self, name: &str) -> Option<u32> {
        let mut ids = self.state.program_ids.iter();
        ids.find(|(program, _)| program == name).map(|(_, id)| *id)
    }

    /// The first missing part of a machine: its namespace, its port or the port's programs.
    fn machines(&self, facts: &Facts, folder: &Path) -> Option<String> {
        let ports: HashMap<&str, &Link> = (facts.links.iter())
            .filter(|link| link.group == machines::PORT_GROUP)
            .map(|link| (link.name.as_str(), link))
            .collect();
        let clsact = facts.qdiscs.iter().filter(|q| q.kind == "clsact");
        let clsact: HashSet<u32> = clsact.map(|q| q.index).collect();
        let routes: HashSet<_> = facts.routes.iter().filter_map(Route::to_port).collect();
        for (index, address) in self.plan.machines() {
            let name = machines::port_name(index);
            let Some(port) = ports.get(name.as_str()) else {
                return Some(format!("the port {name} of the machine {address}"));
            };
            if !port.up {
                return Some(format!("the up state of {name}"));
            }
            if !clsact.contains(&port.index) {
                return Some(format!("clsact on {name}"));
            }
            if !routes.contains(&(IpNet::from(address), port.index)) {
                return Some(format!("the route {address}"));
            }
        }
        if !machines::are_kept(folder) {
            return Some("the network namespaces of the machines".to_owned());
        }
        let mut programs = machines::PORT_PROGRAMS.into_iter();
        let lost = programs.find(|(hook, _, name)| {
            !facts.has_filter(HookPlace::Ports(*hook), self.program_id(name))
        });
        lost.map(|(_, _, name)| format!("the filter {name} on the ports of machines"))
    }

    fn ifb(&self, facts: &Facts, link: &Link) -> Option<String> {
        if !link.up {
            return Some(format!("the up state of {}", link.name));
        }
        if link.mtu_bytes < self.plan.mtu_bytes.max(1500) {
            return Some(format!("the MTU of {}", link.name));
        }
        self.fq(facts, link)
            .or_else(|| self.filter(facts, link, Hook::Egress))
    }
}

/// The missing object of a step as text; `None` if it is in place.
fn absent(step: &Undo, load: &Load<'_>, facts: &Facts) -> Option<String> {
    let on = |name: &str, check: &dyn Fn(&Link) -> Option<String>| match facts.link(name) {
        Some(link) => check(link),
        None => Some(format!("interface {name}")),
    };
    let plan = load.plan;
    match step {
        Undo::DeleteLink { name } => on(name, &|link| load.ifb(facts, link)),
        Undo::Mtu { interface, .. } => on(interface, &|link| {
            let other = link.mtu_bytes != plan.mtu_bytes;
            other.then(|| format!("the MTU of {interface}"))
        }),
        Undo::GsoMaxSegments { interface, .. } => on(interface, &|link| {
            let other = link.gso_max_segments > 1;
            other.then(|| format!("the limit of segments of {interface}"))
        }),
        Undo::LinkDown { interface } => on(interface, &|link| {
            (!link.up).then(|| format!("the up state of {interface}"))
        }),
        Undo::RootQdisc { interface, .. } => on(interface, &|link| load.fq(facts, link)),
        Undo::Clsact { interface } => on(interface, &|link| {
            let mut qdiscs = facts.qdiscs.iter().filter(|q| q.index == link.index);
            let missing = !qdiscs.any(|q| q.kind == "clsact");
            missing.then(|| format!("clsact on {interface}"))
        }),
        Undo::Filter { interface, hook } => on(interface, &|link| load.filter(facts, link, *hook)),
        Undo::PortFilter { interface } => on(interface, &|link| {
            load.program(facts, link, Hook::Ingress, names::PROG_TO_PORT)
        }),
        Undo::Machines { folder } => load.machines(facts, folder),
        Undo::Features {
            interface,
            features,
        } => {
            let now = offload::on(interface, offload::OffloadKind::of(plan)).unwrap_or_default();
            let stays = |name: &str| {
                let mut all = load.state.offloads_on.iter();
                all.any(|(at, feature)| at == interface && feature == name)
            };
            let was_on = |name: &str| features.iter().any(|f| f.name == name);
            let mut now = now.iter();
            let again = now.find(|f| was_on(&f.name) && !stays(&f.name));
            again.map(|f| format!("the offload setting {} of {interface}", f.name))
        }
        // The addresses of the plan, not of the step, since a change in place may have
        // removed some.
        Undo::Aliases { .. } => {
            let mut all = plan.process_addresses();
            let lost = all.find(|address| !facts.addresses.contains(address));
            lost.map(|address| format!("the address {address}"))
        }
        Undo::LocalRoutes { .. } => {
            let mut all = plan::covering_prefixes(&plan.address_ranges).into_iter();
            let lost = all.find(|prefix| !facts.routes.iter().any(|r| r.is_local_for(*prefix)));
            lost.map(|prefix| format!("the local route {prefix}"))
        }
        Undo::LoopbackRoute { prefix } => {
            let lost = !facts.routes.iter().any(|r| r.is_local_for(*prefix));
            lost.then(|| format!("the local route {prefix}"))
        }
        Undo::Routes { interface, routes } => on(interface, &|link| {
            let has = |prefix: IpNet, gateway: IpAddr| {
                let mut all = facts.routes.iter();
                all.any(|r| r.leads_to(prefix, gateway, link.index))
            };
            let lost = routes
                .iter()
                .find(|(prefix, gateway)| !has(*prefix, *gateway));
            lost.map(|(prefix, gateway)| format!("the route {prefix} via {gateway}"))
        }),
        Undo::Sysctl { path, .. } => {
            let now = fs::read_to_string(path).unwrap_or_default();
            (now.trim() != "1").then(|| format!("the setting {}", path.display()))
        }
        Undo::Cgroup { name } => {
            // Without a record the hooks were never attached.
            let record = load.dir.identity()?;
            let tree = Tree::find().ok()?;
            let now = cgroup::identifier(&tree.folder(name)).ok();
            (now != Some(record.cgroup_id)).then(|| format!("the cgroup {name} with its hooks"))
        }
        Undo::Pins { directory } => {
            let mut pins = names::MAPS.iter().map(|name| directory.join(name));
            // Without access to the BPF file system no pin is accessible, and the maps'
            // identifiers lead to the maps. The same holds in another mount namespace, which
            // has its own BPF file system.
            let same = apply::bpffs_device() == load.state.bpffs_device;
            let lost = apply::bpffs_in_sight() && same && pins.any(|pin| !pin.exists());
            lost.then(|| "the pinned maps".to_owned())
        }
    }
}

/// Describes the objects of a load that are not in place; empty if all are.
pub fn find(plan: &Plan, state: &State) -> Result<Vec<String>, DriftError> {
    let dir = StateDir::here()?;
    let facts = Facts::read(&mut Netlink::open()?)?;
    let load = Load {
        plan,
        state,
        dir: &dir,
    };
    let mut gone = Vec::new();
    for step in dir.journal()? {
        if let Some(what) = absent(&step, &load, &facts)
            && !gone.contains(&what)
        {
            gone.push(what);
        }
    }
    for name in &plan.interfaces {
        match facts.link(name) {
            None => gone.push(format!("interface {name}")),
            Some(link) if !link.up => gone.push(format!("the up state of {name}")),
            Some(_) => {}
        }
    }
    gone.sort();
    gone.dedup();
    Ok(gone)
}

/// Whether the kernel notifies of a change of a step's object by netlink.
fn is_notified(step: &Undo) -> bool {
    match step {
        Undo::DeleteLink { .. }
        | Undo::Mtu { .. }
        | Undo::GsoMaxSegments { .. }
        | Undo::LinkDown { .. }
        | Undo::RootQdisc { .. }
        | Undo::Clsact { .. }
        | Undo::Filter { .. }
        | Undo::PortFilter { .. }
        | Undo::Machines { .. }
        | Undo::Features { .. }
        | Undo::Aliases { .. }
        | Undo::LocalRoutes { .. }
        | Undo::LoopbackRoute { .. }
        | Undo::Routes { .. } => true,
        Undo::Sysctl { .. } | Undo::Cgroup { .. } | Undo::Pins { .. } => false,
    }
}

/// Whether an object is missing of whose changes the kernel does not notify. The check is
/// cheap: it reads a few files.
///
/// # Errors
/// [`DriftError`].
pub fn quiet_damage(plan: &Plan, state: &State) -> Result<bool, DriftError> {
    let dir = StateDir::here()?;
    let facts = Facts::default();
    let load = Load {
        plan,
        state,
        dir: &dir,
    };
    let journal = dir.journal()?;
    let mut quiet = journal.iter().filter(|step| !is_notified(step));
    Ok(quiet.any(|step| absent(step, &load, &facts).is_some()))
}
