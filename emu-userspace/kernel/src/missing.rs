//! What of a loaded plan is no longer in place, for example because somebody
//! replaced a qdisc by hand.
use std::collections::BTreeSet;

use emu_common::names;
use emu_model::plan::{Addressing, Plan};

use super::{
    addr, apply, link,
    netlink::{Netlink, NetlinkError},
    state::State,
    tc,
};

/// Devices, qdiscs and filters of a plan that are gone.
///
/// # Errors
/// [`NetlinkError`].
pub fn missing(plan: &Plan) -> Result<Vec<String>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let links = link::links(&mut netlink)?;
    let qdiscs = tc::qdiscs(&mut netlink)?;
    let mut missing = Vec::new();
    for name in plan
        .interfaces
        .iter()
        .map(String::as_str)
        .chain([names::IFB])
    {
        let Some(link) = links.iter().find(|l| l.name == name) else {
            missing.push(format!("interface {name}"));
            continue;
        };
        let has = |test: &dyn Fn(&tc::Qdisc) -> bool| {
            qdiscs.iter().any(|q| q.index == link.index && test(q))
        };
        if !has(&|q| q.handle.major == tc::FQ_HANDLE_MAJOR) {
            missing.push(format!("fq on {name}"));
        }
        if !has(&|q| q.kind == "clsact") {
            missing.push(format!("filters on {name}"));
        }
    }
    Ok(missing)
}

/// As [`missing`], and what only matters to a change in place: pins, MTU, aliases.
///
/// # Errors
/// [`NetlinkError`].
pub fn damage(plan: &Plan, state: &State) -> Result<Vec<String>, NetlinkError> {
    let mut gone = missing(plan)?;
    let pins = names::MAPS.iter().map(|name| state.pins.join(name));
    // Where the BPF file system is out of sight, so are all pins; then the maps'
    // identifiers lead to them.
    if apply::bpffs_in_sight() && pins.into_iter().any(|pin| !pin.exists()) {
        gone.push("the pinned maps".to_owned());
    }
    let mut netlink = Netlink::open()?;
    for link in link::links(&mut netlink)? {
        if plan.interfaces.contains(&link.name) {
            if !link.up || link.mtu_bytes > plan.mtu_bytes {
                gone.push(format!("the settings of {}", link.name));
            }
            if !tc::has_filters(&mut netlink, link.index).unwrap_or(false) {
                gone.push(format!("filters on {}", link.name));
            }
        }
    }
    if plan.addressing == Addressing::Alias {
        let have: BTreeSet<_> = addr::addresses(&mut netlink)?
            .into_iter()
            .map(|a| a.net.addr())
            .collect();
        let lost = plan.vnodes.iter().find(|v| !have.contains(&v.address));
        gone.extend(lost.map(|v| format!("the address {}", v.address)));
    }
    gone.dedup();
    Ok(gone)
}
