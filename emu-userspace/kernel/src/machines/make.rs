//! Making machines in bulk, by netlink.
use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
    thread,
};

use emu_common::{model::port, names};
use emu_model::plan::Plan;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{PORT_GROUP, port_name};
use crate::{
    addr,
    bpf::Programs,
    error::{ApplyError, needs},
    link,
    netlink::{Netlink, Request},
    tc::{self, Hook, Preference},
};

/// The network namespace of the calling thread.
const HERE: &str = "/proc/thread-self/ns/net";
/// Index of `eth0` in its machine: a new namespace may have more interfaces than `lo`.
const ETH0: u32 = 64;
/// Gateway of a machine, an address that nobody has (as in RFC 3927): frames reach the access
/// router without it.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn failed(operation: String) -> impl FnOnce(io::Error) -> ApplyError {
    move |source| ApplyError::Machine { operation, source }
}

/// Makes the namespaces of a plan's machines, with `eth0` and a port that is down.
pub(crate) fn make(plan: &Plan, folder: &Path) -> Result<(), ApplyError> {
    fs::create_dir_all(folder).map_err(failed(format!("make {}", folder.display())))?;
    let hub = File::open(HERE).map_err(failed(format!("open {HERE}")))?;
    let all = || -> Result<(), ApplyError> {
        for (index, address) in plan.machines() {
            let path = folder.join(address.to_string());
            make_one(plan, (index, address), &path, hub.as_fd())?;
        }
        Ok(())
    };
    // A thread of its own, which does not come back from the last namespace.
    thread::scope(|scope| {
        let made = scope.spawn(all).join();
        made.unwrap_or_else(|_| {
            let source = io::Error::other("the thread panicked");
            Err(failed("make the machines".to_owned())(source))
        })
    })
}

fn make_one(
    plan: &Plan,
    (index, address): (u32, IpAddr),
    path: &Path,
    hub: BorrowedFd<'_>,
) -> Result<(), ApplyError> {
    let failed = |what: &str| failed(format!("{what} of the machine {address}"));
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| failed("make the network namespace")(errno.into()))?;
    File::create(path).map_err(failed("make the file"))?;
    mount(
        Some(Path::new(HERE)),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|errno| failed("keep the network namespace")(errno.into()))?;
    let mut netlink = Netlink::open()?;
    let pair = link::Veth {
        name: "eth0".to_owned(),
        index: ETH0,
        peer: port_name(index),
        peer_namespace: hub.as_raw_fd(),
        peer_group: PORT_GROUP,
        address: port::mac(index),
        mtu_bytes: plan.mtu_bytes,
    };
    netlink
        .request(link::add_veth(&pair))
        .map_err(needs("veth"))?;
    // Nobody answers solicitations, so a machine without IPv6 addresses has none of its own.
    let quiet = address.is_ipv4().then(|| link::no_link_local(ETH0, "eth0"));
    let requests = quiet
        .into_iter()
        .chain([
            link::set_up(1, "lo", true),
            link::set_up(ETH0, "eth0", true),
            addr::add_alias(ETH0, "eth0", address),
            addr::add_default_route(ETH0, gateway(address)),
        ])
        .collect();
    netlink.batch(requests)?;
    Ok(())
}

fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

/// Attaches the programs to all ports, and tells them where each machine is.
pub(crate) fn attach(
    plan: &Plan,
    netlink: &mut Netlink,
    programs: &Programs,
    ifb: u32,
) -> Result<(), ApplyError> {
    let ports = ports(plan, netlink)?;
    let qdiscs: Vec<Request> = ports
        .iter()
        .map(|(_, _, link)| tc::add_shared_clsact(link.index, &link.name))
        .collect();
    netlink.batch(qdiscs).map_err(needs("sch_ingress"))?;
    let mut maps = programs.ports()?;
    for (index, _, link) in &ports {
        let value = emu_common::layout::Port {
            interface: link.index,
            mtu_bytes: plan.mtu_bytes,
        };
        maps.set(*index as usize, value);
    }
    let program = |name| programs.fd(name);
    netlink.request(tc::add_direct_filter(
        tc::Place::Ports(Hook::Ingress),
        Preference::First,
        program(names::PROG_PORT_IN)?,
        names::PROG_PORT_IN,
    ))?;
    netlink.request(tc::add_direct_filter(
        tc::Place::Ports(Hook::Egress),
        Preference::First,
        program(names::PROG_PORT_OUT)?,
        names::PROG_PORT_OUT,
    ))?;
    netlink
        .request(tc::add_redirect_filter(
            tc::Place::Ports(Hook::Egress),
            Preference::Second,
            program(names::PROG_INGRESS)?,
            names::PROG_INGRESS,
            ifb,
        ))
        .map_err(needs("act_mirred"))
}

/// The ports with the index and the address of their vnodes.
fn ports(plan: &Plan, netlink: &mut Netlink) -> Result<Vec<(u32, IpAddr, link::Link)>, ApplyError> {
    let links = link::links(netlink)?;
    let by_name: std::collections::HashMap<_, _> = links
        .into_iter()
        .map(|link| (link.name.clone(), link))
        .collect();
    plan.machines()
        .map(|(index, address)| {
            let name = port_name(index);
            match by_name.get(&name) {
                Some(link) => Ok((index, address, link.clone())),
                None => Err(ApplyError::NoInterface {
                    name,
                    have: Vec::new(),
                }),
            }
        })
        .collect()
}

/// Sets all ports up, with a route to each machine: from here on packets pass.
pub(crate) fn start(plan: &Plan, netlink: &mut Netlink) -> Result<(), ApplyError> {
    let ports = ports(plan, netlink)?;
    let mut requests = Vec::new();
    for (_, address, link) in &ports {
        if address.is_ipv4() {
            requests.push(link::no_link_local(link.index, &link.name));
            // The access router answers with ICMP errors only if it forwards packets.
            requests.push(link::forward(link.index, &link.name));
        }
        requests.push(link::set_up(link.index, &link.name, true));
        requests.push(addr::add_port_route(link.index, *address));
    }
    netlink.batch(requests)?;
    Ok(())
}
