//! Objects of emu that an unload must not leave behind: finding and removing them.
use std::{collections::BTreeSet, fs, io, path::Path};

use emu_common::names;

use super::Facts;
use crate::{
    addr,
    cgroup::Tree,
    link, machines,
    netlink::{Netlink, NetlinkError, Request},
    state::{StateDir, Undo},
    tc::{self, HookPlace},
};

/// Objects of emu that are in the namespace although nothing is loaded: what an unload
/// must not leave behind.
pub(crate) fn residue(dir: &StateDir, journal: &[Undo]) -> Result<Vec<String>, NetlinkError> {
    let facts = Facts::read(&mut Netlink::open()?)?;
    let name = |index: u32| {
        let link = facts.links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    };
    let mut left = Vec::new();
    left.extend(
        facts
            .link(names::IFB)
            .map(|link| format!("the interface {}", link.name)),
    );
    for link in &facts.links {
        left.extend(
            facts
                .fq(link)
                .map(|_| format!("the root qdisc e30: of {}", link.name)),
        );
    }
    let filters = facts.filters.iter().filter(|(_, _, filter)| filter.is_ours);
    // Filters of ports are there as long as a port, which is in the list itself.
    left.extend(filters.filter_map(|(index, hook, _)| {
        let hook = format!("{hook:?}").to_lowercase();
        index.map(|index| format!("the {hook} filter 0xe30 of {}", name(index)))
    }));
    let routes = facts.routes.iter().filter(|route| route.is_ours);
    left.extend(routes.map(|route| format!("the route {}", route.prefix)));
    let ports = facts
        .links
        .iter()
        .filter(|l| l.group == machines::PORT_GROUP);
    left.extend(ports.map(|link| format!("the port {}", link.name)));
    for step in journal {
        left.extend(match step {
            Undo::Machines { folder } if machines::are_kept(folder) => {
                Some(format!("the machines in {}", folder.display()))
            }
            Undo::Pins { directory } => there(directory, "the pins"),
            Undo::Cgroup { .. } => Tree::find()
                .ok()
                .and_then(|tree| there(&tree.folder(&dir.name()), "the cgroup")),
            _ => None,
        });
    }
    left.dedup();
    Ok(left)
}

/// Requests that remove all objects of emu's that are in the namespace, filters first.
///
/// # Errors
/// [`NetlinkError`].
pub(crate) fn removals(netlink: &mut Netlink) -> Result<Vec<Request>, NetlinkError> {
    let facts = Facts::read(netlink)?;
    let mut requests = Vec::new();
    for link in &facts.links {
        let ours: BTreeSet<_> = facts
            .filters
            .iter()
            .filter(|(index, _, f)| *index == Some(link.index) && f.is_ours)
            .map(|(_, hook, f)| (*hook, f.preference))
            .collect();
        let others = facts
            .filters
            .iter()
            .any(|(index, _, f)| *index == Some(link.index) && !f.is_ours);
        let mut any = false;
        for (hook, preference) in ours {
            let (index, name) = (link.index, link.name.as_str());
            let place = HookPlace::Interface { index, name, hook };
            requests.push(tc::delete_filter(place, preference));
            any = true;
        }
        if any && !others {
            requests.push(tc::delete_clsact(link.index, &link.name));
        }
        if facts.fq(link).is_some() {
            requests.push(tc::delete_root(link.index, &link.name));
        }
    }
    requests.extend(
        facts
            .routes
            .iter()
            .filter(|r| r.is_ours)
            .filter_map(addr::delete_ours),
    );
    requests.push(link::delete_group(machines::PORT_GROUP));
    if facts.link(names::IFB).is_some() {
        requests.push(link::delete(names::IFB));
    }
    Ok(requests)
}

fn there(path: &Path, what: &str) -> Option<String> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        _ => Some(format!("{what} {}", path.display())),
    }
}
