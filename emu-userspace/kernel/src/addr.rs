//! Addresses of vnodes: one alias each, or one AnyIP local route for a prefix;
//! and the routes to vnodes on other hosts.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};

use super::netlink::{Netlink, NetlinkError, Request};

/// Routing table of local addresses (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u8 = 255;
/// Protocol number that marks emu's routes in `ip route` (free in rt_protos).
const ROUTE_PROTOCOL: u8 = 0xe3;

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn host_bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn alias(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = host_bits(address);
    message.header.index = index;
    if address.is_ipv6() {
        // The address is emu's own, so duplicate address detection is off.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

/// Adds a vnode's address as an alias.
pub fn add_alias(index: u32, name: &str, address: IpAddr) -> Request {
    Request {
        message: RouteNetlinkMessage::NewAddress(alias(index, address)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("add {address} to {name}"),
        tolerate: &[libc::EEXIST],
    }
}

/// Removes a vnode's alias.
pub fn delete_alias(index: u32, name: &str, address: IpAddr) -> Request {
    Request {
        message: RouteNetlinkMessage::DelAddress(alias(index, address)),
        flags: 0,
        operation: format!("remove {address} from {name}"),
        tolerate: &[libc::EADDRNOTAVAIL, libc::ENODEV],
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

fn route(prefix: IpNet, interface: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(prefix.addr());
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.attributes = vec![
        RouteAttribute::Destination(route_address(prefix.network())),
        RouteAttribute::Oif(interface),
    ];
    message
}

fn local_message(prefix: IpNet, lo: u32) -> RouteMessage {
    let mut message = route(prefix, lo);
    message.header.table = LOCAL_TABLE;
    // IPv6 routes have no scope.
    if prefix.addr().is_ipv4() {
        message.header.scope = RouteScope::Host;
    }
    message.header.kind = RouteType::Local;
    message
}

fn via_message(prefix: IpNet, interface: u32, gateway: IpAddr) -> RouteMessage {
    let mut message = route(prefix, interface);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message
        .attributes
        .push(RouteAttribute::Gateway(route_address(gateway)));
    message
}

/// Makes every address of a prefix local (AnyIP).
pub fn add_local_route(lo: u32, prefix: IpNet) -> Request {
    Request {
        message: RouteNetlinkMessage::NewRoute(local_message(prefix, lo)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("add the local route {prefix}"),
        // An alias of the user has a local route already; its protocol differs, so deleting
        // emu's route leaves it alone.
        tolerate: &[libc::EEXIST],
    }
}

/// Removes an AnyIP route.
pub fn delete_local_route(lo: u32, prefix: IpNet) -> Request {
    Request {
        message: RouteNetlinkMessage::DelRoute(local_message(prefix, lo)),
        flags: 0,
        operation: format!("remove the local route {prefix}"),
        tolerate: &[libc::ESRCH, libc::ENODEV],
    }
}

/// Routes a prefix of another host's vnodes to that host.
pub fn add_route(interface: u32, prefix: IpNet, gateway: IpAddr) -> Request {
    Request {
        message: RouteNetlinkMessage::NewRoute(via_message(prefix, interface, gateway)),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("add the route {prefix} via {gateway}"),
        tolerate: &[],
    }
}

/// Routes everything by a gateway that is reached without a route.
pub fn add_default_route(interface: u32, gateway: IpAddr) -> Request {
    let any = match gateway {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut message = via_message(IpNet::from(any), interface, gateway);
    message.header.destination_prefix_length = 0;
    message.header.protocol = RouteProtocol::Boot;
    message.header.flags = RouteFlags::Onlink;
    message
        .attributes
        .retain(|a| !matches!(a, RouteAttribute::Destination(_)));
    Request {
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("add the default route via {gateway}"),
        tolerate: &[],
    }
}

/// Routes an address to an interface. The route goes with the interface.
pub fn add_port_route(interface: u32, address: IpAddr) -> Request {
    let mut message = route(IpNet::from(address), interface);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    if address.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    Request {
        message: RouteNetlinkMessage::NewRoute(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("add the route {address}"),
        tolerate: &[libc::EEXIST],
    }
}

pub fn delete_route(interface: u32, prefix: IpNet, gateway: IpAddr) -> Request {
    Request {
        message: RouteNetlinkMessage::DelRoute(via_message(prefix, interface, gateway)),
        flags: 0,
        operation: format!("remove the route {prefix} via {gateway}"),
        tolerate: &[libc::ESRCH, libc::ENODEV],
    }
}

/// Removes a route with our protocol, as the kernel lists it.
pub fn delete_ours(route: &Route) -> Option<Request> {
    let interface = route.interface?;
    match route.gateway {
        _ if route.local => Some(delete_local_route(interface, route.prefix)),
        Some(gateway) => Some(delete_route(interface, route.prefix, gateway)),
        None => None,
    }
}

/// Index of the interface of the default route, of IPv4 or else of IPv6.
pub fn default_interface(netlink: &mut Netlink) -> Result<Option<u32>, NetlinkError> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let found = netlink.dump(RouteNetlinkMessage::GetRoute(message), "list routes")?;
        let index = found.into_iter().find_map(|answer| {
            let RouteNetlinkMessage::NewRoute(message) = answer else {
                return None;
            };
            let header = &message.header;
            if header.destination_prefix_length > 0 || header.kind != RouteType::Unicast {
                return None;
            }
            message.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            })
        });
        if index.is_some() {
            return Ok(index);
        }
    }
    Ok(None)
}

/// A route of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its destination.
    pub prefix: IpNet,
    /// Whether it has emu's protocol number.
    pub is_ours: bool,
    local: bool,
    interface: Option<u32>,
    gateway: Option<IpAddr>,
}

impl Route {
    /// Whether it makes the addresses of a prefix local.
    pub fn is_local_for(&self, prefix: IpNet) -> bool {
        self.local && self.prefix == prefix.trunc()
    }

    /// Destination and interface of a route of emu's to the port of a machine.
    pub fn to_port(&self) -> Option<(IpNet, u32)> {
        let interface = self
            .interface
            .filter(|_| self.is_ours && self.gateway.is_none())?;
        Some((self.prefix, interface))
    }

    /// Whether it is emu's, and leads to a prefix by a gateway and an interface.
    pub fn leads_to(&self, prefix: IpNet, gateway: IpAddr, interface: u32) -> bool {
        let way = (self.interface, self.gateway) == (Some(interface), Some(gateway));
        self.is_ours && way && self.prefix == prefix.trunc()
    }
}

/// All routes of all tables.
pub fn routes(netlink: &mut Netlink) -> Result<Vec<Route>, NetlinkError> {
    let mut list = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let found = netlink.dump(RouteNetlinkMessage::GetRoute(message), "list routes")?;
        list.extend(found.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => listed(&message),
            _ => None,
        }));
    }
    Ok(list)
}

/// A route with a destination, from a dump of the kernel.
fn listed(message: &RouteMessage) -> Option<Route> {
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    };
    let (mut to, mut gateway, mut interface) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => to = address(a),
            RouteAttribute::Gateway(a) => gateway = address(a),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let header = &message.header;
    Some(Route {
        prefix: IpNet::new(to?, header.destination_prefix_length).ok()?,
        is_ours: header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL),
        local: header.kind == RouteType::Local,
        interface,
        gateway,
    })
}

/// An address that the machine already has.
#[derive(Debug, Clone)]
pub struct Existing {
    /// Index of its interface.
    pub index: u32,
    /// The address with the length of its subnet.
    pub net: IpNet,
}

/// All addresses of the namespace.
pub fn addresses(netlink: &mut Netlink) -> Result<Vec<Existing>, NetlinkError> {
    let found = netlink.dump(
        RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        "list addresses",
    )?;
    let mut list = Vec::new();
    for answer in found {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            continue;
        };
        let mut address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        for attribute in &message.attributes {
            match attribute {
                // IFA_LOCAL takes precedence: on point-to-point links IFA_ADDRESS is the
                // peer.
                AddressAttribute::Local(a) => {
                    address = *a;
                    break;
                }
                AddressAttribute::Address(a) => address = *a,
                _ => {}
            }
        }
        if let Ok(net) = IpNet::new(address, message.header.prefix_len) {
            list.push(Existing {
                index: message.header.index,
                net,
            });
        }
    }
    Ok(list)
}
