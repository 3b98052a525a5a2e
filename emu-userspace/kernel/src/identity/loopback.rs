//! Loopback of a vnode's own, see [`emu_common::model::identity::loopback`].
use std::{
    fs,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use emu_common::{
    layout::{Identity, SocketAddress},
    model::identity::loopback,
};
use ipnet::{IpNet, Ipv6Net};

use super::IdentityError;
use crate::{
    addr,
    bpf::address_key,
    link,
    netlink::Netlink,
    state::{StateDir, Undo, WriterLock},
};

/// A vnode with the loopback of the machine.
pub fn with_shared_loopback(vnode: IpAddr) -> Identity {
    Identity {
        address: SocketAddress::from_key(address_key(vnode)),
        ..Identity::default()
    }
}

/// A vnode with the loopback of its place in the maps; without a place, that of the machine.
/// `has_v6`: whether it has a `::1` of its own, too.
pub(crate) fn with_loopback(
    vnode: IpAddr,
    place: Option<u32>,
    has_v6: bool,
) -> Result<Identity, IdentityError> {
    let shared = with_shared_loopback(vnode);
    let Some(place) = place else {
        return Ok(shared);
    };
    let (Some(loopback_v4), Some(loopback_v6)) = (loopback::v4(place), loopback::v6(place)) else {
        return Err(IdentityError::NoLoopback { vnode });
    };
    Ok(Identity {
        loopback_v4,
        loopback_v6: if has_v6 {
            loopback_v6
        } else {
            shared.loopback_v6
        },
        ..shared
    })
}

/// The prefix of the addresses that stand for `::1` of vnodes.
fn prefix_v6() -> IpNet {
    let address = Ipv6Addr::from(loopback::PREFIX_V6);
    IpNet::V6(Ipv6Net::new_assert(address, loopback::PREFIX_V6_BITS))
}

/// Makes all addresses local that stand for `::1` of vnodes, and lets programs bind them; false
/// if the kernel or `lo` has no IPv6.
pub(super) fn add_v6(dir: &StateDir, lock: &WriterLock) -> Result<bool, IdentityError> {
    let path = Path::new("/proc/sys/net/ipv6/ip_nonlocal_bind");
    let is_off = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    if !path.exists() || is_off.is_ok_and(|text| text.trim() == "1") {
        tracing::warn!("without IPv6 on lo, vnodes have no ::1 of their own");
        return Ok(false);
    }
    let error = |source| IdentityError::Sysctl {
        path: path.to_owned(),
        source,
    };
    let before = fs::read_to_string(path).map_err(error)?.trim().to_owned();
    if before != "1" {
        let path = path.to_owned();
        dir.record(lock, &Undo::Sysctl { path, before })?;
        fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").map_err(error)?;
    }
    let prefix = prefix_v6();
    dir.record(lock, &Undo::LoopbackRoute { prefix })?;
    let mut netlink = Netlink::open()?;
    let lo = link::link(&mut netlink, "lo")?.map_or(1, |lo| lo.index);
    netlink.request(addr::add_local_route(lo, prefix))?;
    Ok(true)
}
