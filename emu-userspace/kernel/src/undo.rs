//! Undoes the changes of a load, from its journal alone.
//!
//! Each step tolerates that its change was never made, or was already undone: the process may
//! have been killed at any point of a load or of an unload.
use std::{collections::BTreeSet, fs, io, net::IpAddr, path::PathBuf};

use emu_model::plan;
use ipnet::IpNet;
use netlink_packet_route::tc::TcHandle;

use super::{
    addr, apply,
    cgroup::{self, CgroupError, Tree},
    drift, link, machines,
    netlink::{Netlink, NetlinkError},
    offload,
    state::{StateDir, StateError, Undo, WriterLock},
    tc::{self, Hook, HookPlace, Preference},
};

/// Why an unload failed; the journal keeps the failed steps.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Processes of vnodes would lose their network.
    #[error(
        "still running: {count} of `emu exec` or `emu run`, as {}; end them, or kill them with `emu unload --kill`",
        some(vnodes)
    )]
    Busy { count: usize, vnodes: Vec<String> },
    /// Objects of emu are still there.
    #[error(
        "still there, and no journal of this namespace tells how it was before: {}; `emu unload \
         --stale` removes what it recognises",
        left.join(", ")
    )]
    Left { left: Vec<String> },
    /// All that could be recognised is undone, but the journal was damaged.
    #[error(
        "the journal was damaged: its readable part is undone, and no object of emu is left, but \
         settings of interfaces may not be as they were before; the journal is kept as {}",
        kept.display()
    )]
    Damaged {
        /// The copy of the journal.
        kept: PathBuf,
    },
    /// Some steps failed.
    #[error("not everything could be restored: {}", failures.join("; "))]
    Steps {
        /// What failed and why.
        failures: Vec<String>,
    },
}

/// What to do with processes of vnodes that still run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processes {
    /// Change nothing.
    Refuse,
    /// Kill them.
    Kill,
}

/// The first names of a list, as text.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} other vnodes", names.len() - SHOWN);
    }
    text
}

/// The cgroups of a namespace's vnodes, if it has any.
fn cgroups(journal: &[Undo]) -> Option<std::path::PathBuf> {
    let name = journal.iter().find_map(|step| match step {
        Undo::Cgroup { name } => Some(name),
        _ => None,
    })?;
    // Without a tree there are no cgroups, and removing them reports the error.
    Tree::find().ok().map(|tree| tree.folder(name))
}

/// Processes in emu's cgroups.
pub(crate) fn processes(journal: &[Undo]) -> BTreeSet<i32> {
    let all = cgroups(journal).map(|folder| cgroup::processes(&folder));
    let ids = all.into_iter().flatten().flat_map(|(_, ids)| ids);
    ids.collect()
}

/// Whether an address goes away when a journal is undone.
pub(crate) fn takes_away(journal: &[Undo], address: IpAddr) -> bool {
    journal.iter().any(|step| match step {
        Undo::Aliases { runs, keep, .. } => {
            let is_in = runs
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&address));
            is_in && !keep.contains(&address)
        }
        Undo::LocalRoutes { prefixes } => prefixes.iter().any(|p| p.contains(&address)),
        _ => false,
    })
}

/// Kills the processes of vnodes, regardless of the lock's holder.
pub(crate) fn kill_processes(dir: &StateDir) -> Result<(), UndoError> {
    match cgroups(&dir.journal()?) {
        Some(folder) => Ok(cgroup::kill_all(&folder)?),
        None => Ok(()),
    }
}

/// Kills the processes in emu's cgroups, or returns an error if they are to be kept.
fn clear_processes(journal: &[Undo], processes: Processes) -> Result<(), UndoError> {
    let Some(folder) = cgroups(journal) else {
        return Ok(());
    };
    if processes == Processes::Kill {
        cgroup::kill_all(&folder)?;
    }
    let mut vnodes = BTreeSet::new();
    let mut count = 0;
    for (path, ids) in cgroup::processes(&folder) {
        vnodes.insert(cgroup::vnode_name(&folder, &path));
        count += ids.len();
    }
    if count > 0 {
        let vnodes = vnodes.into_iter().collect();
        return Err(UndoError::Busy { count, vnodes });
    }
    Ok(())
}

/// Undoes everything in the journal, last change first, and removes the state. Returns the
/// number of steps; 0 means that nothing was loaded.
///
/// # Errors
/// [`UndoError`]; the journal is kept for another attempt.
pub fn unload(dir: &StateDir, lock: &WriterLock, processes: Processes) -> Result<usize, UndoError> {
    let damaged = dir.damaged_journal()?;
    let journal = dir.journal()?;
    clear_processes(&journal, processes)?;
    dir.forget_load(lock)?;
    let mut netlink = Netlink::open()?;
    let mut failures = Vec::new();
    for step in journal.iter().rev() {
        if let Err(failure) = undo(&mut netlink, step) {
            failures.push(failure);
        }
    }
    if !failures.is_empty() {
        return Err(UndoError::Steps { failures });
    }
    // The journal does not suffice: it may be damaged.
    let mut left = drift::residue(dir, &journal)?;
    if !left.is_empty() && (damaged.is_some() || !journal.is_empty()) {
        sweep(&mut netlink, dir)?;
        left = drift::residue(dir, &journal)?;
    }
    if !left.is_empty() {
        return Err(UndoError::Left { left });
    }
    dir.clear(lock)?;
    match damaged {
        Some(kept) => Err(UndoError::Damaged { kept }),
        None => Ok(journal.len()),
    }
}

/// Removes what is recognised as emu's, whatever the journal says. Removing one object may
/// remove others, so what fails is found by the comparison that follows.
fn sweep(netlink: &mut Netlink, dir: &StateDir) -> Result<(), UndoError> {
    for request in drift::removals(netlink)? {
        let _ = netlink.request(request);
    }
    let _ = fs::remove_dir_all(apply::pins(&dir.name()));
    let _ = machines::remove(dir.path());
    if let Ok(tree) = Tree::find() {
        let _ = tree.remove(&dir.name());
    }
    Ok(())
}

/// As `sweep`, for objects in a namespace without a journal; returns what was there.
///
/// # Errors
/// [`UndoError`]; [`UndoError::Left`] for what could not be removed.
pub fn sweep_unknown(dir: &StateDir, lock: &WriterLock) -> Result<Vec<String>, UndoError> {
    if !dir.journal()?.is_empty() {
        return Ok(Vec::new());
    }
    let found = drift::residue(dir, &[])?;
    if !found.is_empty() {
        sweep(&mut Netlink::open()?, dir)?;
        let left = drift::residue(dir, &[])?;
        if !left.is_empty() {
            return Err(UndoError::Left { left });
        }
        dir.clear(lock)?;
    }
    Ok(found)
}

/// The inverse of each step; a new step does not compile without one.
fn undo(netlink: &mut Netlink, step: &Undo) -> Result<(), String> {
    match step {
        Undo::DeleteLink { name } => text(netlink.request(link::delete(name))),
        Undo::Pins { directory } => match fs::remove_dir_all(directory) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(format!("remove {}: {e}", directory.display()))
            }
            _ => Ok(()),
        },
        Undo::Cgroup { name } => Tree::find()
            .and_then(|tree| tree.remove(name))
            .map_err(|e| e.to_string()),
        Undo::Sysctl { path, before } => {
            fs::write(path, before).map_err(|e| format!("restore {}: {e}", path.display()))
        }
        Undo::Mtu {
            interface,
            mtu_bytes,
        } => on_interface(netlink, interface, |netlink, index| {
            text(netlink.request(link::set_mtu(index, interface, *mtu_bytes)))
        }),
        Undo::GsoMaxSegments {
            interface,
            segments,
        } => on_interface(netlink, interface, |netlink, index| {
            text(netlink.request(link::set_gso_max_segments(index, interface, *segments)))
        }),
        Undo::LinkDown { interface } => on_interface(netlink, interface, |netlink, index| {
            text(netlink.request(link::set_up(index, interface, false)))
        }),
        Undo::RootQdisc { interface, recipe } => {
            on_interface(netlink, interface, |netlink, index| {
                root_qdisc(netlink, index, interface, recipe.as_deref())
            })
        }
        Undo::Clsact { interface } => on_interface(netlink, interface, |netlink, index| {
            // Emu's filters are gone by now; others may have been added meanwhile. Without a
            // clsact the listing fails, and there is nothing to delete.
            match tc::has_filters(netlink, index) {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(error) if [Some(libc::EINVAL), Some(libc::ENOENT)].contains(&error.errno()) => {
                }
                Err(error) => return Err(error.to_string()),
            }
            text(netlink.request(tc::delete_clsact(index, interface)))
        }),
        Undo::Filter { interface, hook } => on_interface(netlink, interface, |netlink, index| {
            delete_filter(netlink, (index, interface, *hook), Preference::First)
        }),
        Undo::PortFilter { interface } => on_interface(netlink, interface, |netlink, index| {
            let place = (index, interface.as_str(), Hook::Ingress);
            delete_filter(netlink, place, Preference::Second)
        }),
        Undo::Machines { folder } => {
            text(netlink.request(link::delete_group(machines::PORT_GROUP)))?;
            machines::remove(folder)
                .map_err(|e| format!("remove the machines of {}: {e}", folder.display()))
        }
        Undo::Features {
            interface,
            features,
        } => on_interface(netlink, interface, |_, _| {
            offload::set(interface, features)
                .map_err(|e| format!("restore the offloads of {interface}: {e}"))
        }),
        Undo::Aliases {
            interface,
            runs,
            keep,
        } => on_interface(netlink, interface, |netlink, index| {
            let keep: BTreeSet<_> = keep.iter().collect();
            let addresses = runs.iter().flat_map(|run| plan::addresses(*run));
            let requests = addresses
                .filter(|address| !keep.contains(address))
                .map(|address| addr::delete_alias(index, interface, address));
            text(netlink.batch(requests.collect()))
        }),
        Undo::LocalRoutes { prefixes } => on_interface(netlink, "lo", |netlink, index| {
            let delete = |prefix: &IpNet| addr::delete_local_route(index, *prefix);
            text(netlink.batch(prefixes.iter().map(delete).collect()))
        }),
        Undo::LoopbackRoute { prefix } => on_interface(netlink, "lo", |netlink, index| {
            text(netlink.request(addr::delete_local_route(index, *prefix)))
        }),
        Undo::Routes { interface, routes } => on_interface(netlink, interface, |netlink, index| {
            let delete =
                |(prefix, gateway): &(IpNet, IpAddr)| addr::delete_route(index, *prefix, *gateway);
            text(netlink.batch(routes.iter().map(delete).collect()))
        }),
    }
}

fn delete_filter(
    netlink: &mut Netlink,
    (index, name, hook): (u32, &str, Hook),
    preference: Preference,
) -> Result<(), String> {
    let place = HookPlace::Interface { index, name, hook };
    text(netlink.request(tc::delete_filter(place, preference)))
}

fn text(result: Result<(), NetlinkError>) -> Result<(), String> {
    result.map_err(|e| e.to_string())
}

/// Undoes a change of an interface, by its index; does nothing if the interface is gone.
fn on_interface(
    netlink: &mut Netlink,
    interface: &str,
    work: impl FnOnce(&mut Netlink, u32) -> Result<(), String>,
) -> Result<(), String> {
    match link::link(netlink, interface).map_err(|e| e.to_string())? {
        Some(link) => work(netlink, link.index),
        None => Ok(()),
    }
}

/// Restores the root qdisc, if the current one is emu's.
fn root_qdisc(
    netlink: &mut Netlink,
    index: u32,
    name: &str,
    recipe: Option<&[u8]>,
) -> Result<(), String> {
    let ours = tc::qdiscs(netlink)
        .map_err(|e| e.to_string())?
        .iter()
        .any(|q| {
            q.index == index && q.parent == TcHandle::ROOT && q.handle.major == tc::FQ_HANDLE_MAJOR
        });
    if !ours {
        return Ok(());
    }
    text(netlink.request(tc::delete_root(index, name)))?;
    match recipe {
        None => Ok(()),
        Some(recipe) => {
            let request = tc::recreate(index, name, recipe).map_err(|e| e.to_string())?;
            text(netlink.request(request))
        }
    }
}
