//! Selectors: which vnodes a program runs on.
use std::{collections::HashSet, net::IpAddr};

use crate::topology::{GroupId, Topology, reader::Field};

const EXPECTED: &str = "a group, as in `adsl`; some of it, as in `adsl/0` or `adsl/10-19`; an \
                        address; `all`; or a list of these";

/// A vnode of the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vnode {
    /// Address.
    pub address: IpAddr,
    /// Its leaf group.
    pub group: GroupId,
    /// Its index there.
    pub index: usize,
}

/// The vnodes that a selector matches, each once, in the order of the selector.
pub(super) fn select(field: &Field<'_>, topology: &Topology) -> Option<Vec<Vnode>> {
    let mut vnodes = Vec::new();
    if field.is_list() {
        for item in field.list()? {
            vnodes.extend(one(&item, topology)?);
        }
    } else {
        vnodes = one(field, topology)?;
    }
    let mut seen = HashSet::new();
    vnodes.retain(|vnode| seen.insert(vnode.address));
    if vnodes.is_empty() {
        field.report(field.problem("no vnodes").expected(EXPECTED));
        return None;
    }
    Some(vnodes)
}

fn one(field: &Field<'_>, topology: &Topology) -> Option<Vec<Vnode>> {
    let text = field.text()?;
    match find(text, topology) {
        Ok(vnodes) => Some(vnodes),
        Err(message) => {
            let names = topology.groups.iter().map(|g| g.name.as_str());
            let name = text.split('/').next().unwrap_or(text);
            field.report(
                field
                    .problem(message)
                    .expected(EXPECTED)
                    .maybe_hint(field.similar(name, names)),
            );
            None
        }
    }
}

/// The vnodes of one selector without commas.
///
/// # Errors
/// The message of the problem.
pub(super) fn find(text: &str, topology: &Topology) -> Result<Vec<Vnode>, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let group = topology.group_of(address);
        let found = group.and_then(|group| {
            let index = topology.vnode_addresses(group).position(|a| a == address)?;
            Some(Vnode {
                address,
                group,
                index,
            })
        });
        return found
            .map(|v| vec![v])
            .ok_or(format!("{address} is not a vnode of {}", topology.name));
    }
    if text == "all" && topology.group_named("all").is_none() {
        return Ok((0..topology.groups.len())
            .flat_map(|g| members(topology, g))
            .collect());
    }
    if let Some(group) = topology.group_named(text) {
        let tree = topology.tree(group).into_iter();
        return Ok(tree.flat_map(|g| members(topology, g)).collect());
    }
    let no_group = |name: &str| format!("there is no group `{name}` in {}", topology.name);
    let Some((name, range)) = text.rsplit_once('/') else {
        return Err(no_group(text));
    };
    let group = topology.group_named(name).ok_or_else(|| no_group(name))?;
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
        return Err(format!("`{range}` is neither an index nor two"));
    };
    let count = topology.vnode_count(group);
    if first > last {
        return Err(format!("the first index, {first}, is after the last"));
    }
    if last >= count {
        return Err(match count {
            0 => format!("{name} has no vnodes of its own"),
            _ => format!(
                "{name} has {count} vnodes: the last one is {name}/{}",
                count - 1
            ),
        });
    }
    Ok(members(topology, group)
        .skip(first)
        .take(last - first + 1)
        .collect())
}

fn members(topology: &Topology, group: GroupId) -> impl Iterator<Item = Vnode> {
    let addresses = topology.vnode_addresses(group).enumerate();
    addresses.map(move |(index, address)| Vnode {
        address,
        group,
        index,
    })
}
