//! Making machines in bulk, by netlink.
use std::{
    fmt::Write as _,
    fs::{self, File, Permissions},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use emu_common::{layout::Port, model::port};
use emu_model::plan::Plan;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::gettid,
};

use super::{Machines, PORT_GROUP, PORT_PROGRAMS, inside, keeper, port_name};
use crate::{
    addr,
    bpf::Programs,
    error::{ApplyError, needs},
    link,
    netlink::{Netlink, Request},
    state::StateDir,
    tc,
};

/// The network namespace of the calling thread.
pub(super) const NETWORK: &str = "/proc/thread-self/ns/net";
/// Index of `eth0` in its machine: a new namespace may have more interfaces than `lo`.
const ETH0: u32 = 64;
/// Gateway of a machine: the address of its access router, from the link-local addresses, so
/// that no vnode has it (RFC 3927, RFC 4291).
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Longest wait for the carrier of machines; the kernel needs milliseconds.
const CARRIER: Duration = Duration::from_secs(2);

fn failed(operation: String) -> impl FnOnce(io::Error) -> ApplyError {
    move |source| ApplyError::Machine { operation, source }
}

/// Makes the namespaces of a plan's machines, with `eth0` and a port that is down.
pub(crate) fn make(plan: &Plan, state: &Path) -> Result<(), ApplyError> {
    write_names(plan, state)?;
    let keeper = keeper(state);
    File::create(&keeper).map_err(failed(format!("make {}", keeper.display())))?;
    // A mount namespace cannot be mounted where the mount would be copied into itself.
    bind(state, state, MsFlags::MS_BIND)
        .and_then(|()| bind(state, state, MsFlags::MS_PRIVATE))
        .map_err(failed(format!("mount {}", state.display())))?;
    let hub = File::open(NETWORK).map_err(failed(format!("open {NETWORK}")))?;
    let (made, mounts) = mpsc::channel();
    let (kept, keep) = mpsc::channel::<()>();
    // A thread of its own, which does not come back from the last namespace.
    thread::scope(|scope| {
        let worker = thread::Builder::new().spawn_scoped(scope, move || {
            let all = make_all(plan, state, hub.as_fd());
            // The namespace lasts until it is mounted, or else ends with this thread.
            if all.is_ok()
                && made
                    .send(format!("/proc/self/task/{}/ns/mnt", gettid()))
                    .is_ok()
            {
                let _ = keep.recv();
            }
            all
        });
        let worker = worker.map_err(failed("start a thread".to_owned()))?;
        let mounted = mounts.recv().map(|path| {
            bind(Path::new(&path), &keeper, MsFlags::MS_BIND)
                .map_err(failed(format!("mount {}", keeper.display())))
        });
        drop(kept);
        let made = worker.join().unwrap_or_else(|_| {
            let source = io::Error::other("the thread panicked");
            Err(failed("make the machines".to_owned())(source))
        });
        made.and(mounted.unwrap_or(Ok(())))
    })
}

fn bind(from: &Path, to: &Path, flags: MsFlags) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, flags, None::<&str>)?)
}

/// Makes all machines; their namespaces are mounted in the calling thread's mount namespace.
fn make_all(plan: &Plan, state: &Path, hub: BorrowedFd<'_>) -> Result<(), ApplyError> {
    let failed = |errno: nix::Error| {
        failed("make the mount namespace of the machines".to_owned())(errno.into())
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(failed)?;
    mount(
        Some("emu"),
        state,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(failed)?;
    for (index, address) in plan.machines() {
        let path = state.join(address.to_string());
        make_one(plan, (index, address), &path, hub)?;
    }
    Ok(())
}

/// Writes the files with the names of vnodes that programs in machines read.
fn write_names(plan: &Plan, state: &Path) -> Result<(), ApplyError> {
    let mut hosts = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n".to_owned();
    for (vnode, place) in plan.placed_vnodes() {
        let name = plan.host_name(vnode, place);
        let _ = writeln!(hosts, "{} {name} {name}.emu", vnode.address);
    }
    let resolver = "# The network of this machine has no name server; names are in /etc/hosts.\n";
    for (file, text) in [("hosts", hosts.as_str()), ("resolv.conf", resolver)] {
        let path = state.join(file);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)))
            .map_err(failed(format!("write {}", path.display())))?;
    }
    Ok(())
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
    bind(Path::new(NETWORK), path, MsFlags::MS_BIND)
        .map_err(failed("keep the network namespace"))?;
    furnish(plan, (index, address), "eth0", Some(ETH0), hub)
}

/// Makes the machine's interface in the calling thread's network namespace, with its address
/// and a default route; the port is in `hub`, and down.
pub(super) fn furnish(
    plan: &Plan,
    (vnode, address): (u32, IpAddr),
    name: &str,
    index: Option<u32>,
    hub: BorrowedFd<'_>,
) -> Result<(), ApplyError> {
    let mut netlink = Netlink::open()?;
    let pair = link::Veth {
        name: name.to_owned(),
        index: index.unwrap_or(0),
        peer: port_name(vnode),
        peer_namespace: hub.as_raw_fd(),
        peer_group: PORT_GROUP,
        address: port::mac(vnode),
        mtu_bytes: plan.mtu_bytes,
    };
    netlink
        .request(link::add_veth(&pair))
        .map_err(needs("veth"))?;
    let index = match index {
        Some(index) => index,
        None => one(&mut netlink, name)?.index,
    };
    // Nobody answers solicitations, so a machine without IPv6 addresses has none of its own.
    let quiet = address.is_ipv4().then(|| link::no_link_local(index, name));
    let requests = quiet
        .into_iter()
        .chain([
            link::set_up(1, "lo", true),
            link::set_up(index, name, true),
            addr::add_alias(index, name, address),
            addr::add_default_route(index, gateway(address)),
        ])
        .collect();
    Ok(netlink.batch(requests)?)
}

/// An interface of the calling thread's network namespace.
pub(super) fn one(netlink: &mut Netlink, name: &str) -> Result<link::Link, ApplyError> {
    link::link(netlink, name)?.ok_or_else(|| ApplyError::NoInterface {
        name: name.to_owned(),
        have: Vec::new(),
    })
}

/// What the maps tell the programs of a port.
pub(super) fn entry(plan: &Plan, link: &link::Link) -> Port {
    Port {
        interface: link.index,
        mtu_bytes: plan.mtu_bytes,
    }
}

pub(super) fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

/// Attaches the programs to all ports, and tells them where each machine is.
pub(crate) fn install(
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
        maps.set(*index as usize, entry(plan, link));
    }
    for (hook, preference, name) in PORT_PROGRAMS {
        let place = tc::HookPlace::Ports(hook);
        let (request, module) = tc::add_program(place, preference, programs.fd(name)?, name, ifb);
        netlink.request(request).map_err(needs(module))?;
    }
    Ok(())
}

/// The ports with the index and the address of their vnodes.
fn ports(plan: &Plan, netlink: &mut Netlink) -> Result<Vec<(u32, IpAddr, link::Link)>, ApplyError> {
    let by_name = link::by_name(netlink)?;
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
    let requests = ports.iter();
    let requests = requests.flat_map(|(_, address, link)| starting(link, *address));
    Ok(netlink.batch(requests.collect())?)
}

/// Sets a port up, with a route to its machine.
pub(super) fn starting(link: &link::Link, address: IpAddr) -> Vec<Request> {
    let mut requests = vec![
        link::no_link_local(link.index, &link.name),
        // The source of the router's ICMP errors. No packet to this address gets here.
        addr::add_alias(link.index, &link.name, gateway(address)),
    ];
    if address.is_ipv4() {
        // The access router answers with ICMP errors only if it forwards packets.
        requests.push(link::forward(link.index, &link.name));
    }
    requests.push(link::set_up(link.index, &link.name, true));
    requests.push(addr::add_port_route(link.index, address));
    requests
}

/// Waits until an interface of the calling thread's network namespace passes packets. A kernel
/// worker begins that after the other end came up (net/core/link_watch.c), and drops packets
/// until then.
///
/// # Errors
/// The kernel's answer; it is no error if the wait takes too long.
pub(super) fn wait_for_carrier(name: &str) -> Result<(), ApplyError> {
    let mut netlink = Netlink::open()?;
    let start = Instant::now();
    while !one(&mut netlink, name)?.operational && start.elapsed() < CARRIER {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits until all machines pass packets. The worker takes the interfaces in the order in which
/// their ports came up, so the last one is looked at.
pub(crate) fn wait(plan: &Plan, dir: &StateDir) -> Result<(), ApplyError> {
    let Some((_, last)) = plan.machines().last() else {
        return Ok(());
    };
    let namespace = Machines::of(dir, plan).namespace(last);
    match namespace.map_err(|e| ApplyError::System(io::Error::other(e)))? {
        Some(namespace) => inside(namespace.as_fd(), || wait_for_carrier("eth0")),
        None => Ok(()),
    }
}
