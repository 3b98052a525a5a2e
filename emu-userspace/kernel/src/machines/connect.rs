//! Connecting a machine's line to another network namespace, such as a container's, or back to
//! the machine's own.
use std::{
    fs::File,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

use emu_common::model::port;
use emu_model::plan::Plan;

use super::{
    inside,
    make::{NETWORK, entry, furnish, one, starting, wait_for_carrier},
    port_name,
};
use crate::{bpf, error::ApplyError, link, netlink::Netlink, state::State, tc};

/// Moves the line of a machine to a network namespace, where its interface gets this name. What
/// it led to before loses its interface.
///
/// # Errors
/// [`ApplyError`]; the machine is then without a line, and `emu load` puts it back.
pub(crate) fn connect(
    plan: &Plan,
    state: &State,
    (vnode, address): (u32, IpAddr),
    target: BorrowedFd<'_>,
    name: &str,
) -> Result<(), ApplyError> {
    // Before the machine loses its line.
    inside(target, || check(vnode, name))?;
    let mut netlink = Netlink::open()?;
    // The kernel deletes both ends, wherever the other one is.
    netlink.request(link::delete(&port_name(vnode)))?;
    let hub = File::open(NETWORK)?;
    inside(target, || {
        furnish(plan, (vnode, address), name, None, hub.as_fd())
    })?;
    let port = one(&mut netlink, &port_name(vnode))?;
    netlink.request(tc::add_shared_clsact(port.index, &port.name))?;
    bpf::open_ports(state)?.set(vnode as usize, entry(plan, &port));
    netlink.batch(starting(&port, address))?;
    inside(target, || wait_for_carrier(name))
}

/// Checks that an interface of this name can be made in the calling thread's network namespace.
/// One that is the machine's goes with its old line.
fn check(vnode: u32, name: &str) -> Result<(), ApplyError> {
    let found = link::link(&mut Netlink::open()?, name)?;
    match found.filter(|link| link.address != port::mac(vnode)) {
        Some(link) => Err(ApplyError::Occupied { name: link.name }),
        None => Ok(()),
    }
}
