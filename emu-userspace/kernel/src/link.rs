//! Interfaces: looking them up, MTU, up and down, the ifb device.
use std::collections::HashMap;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, InfoData, InfoKind,
        InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, State,
    },
};

use super::netlink::{Netlink, NetlinkError, Request};

/// The properties of an interface that the loader needs.
#[derive(Debug, Clone)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Largest IP packet in bytes.
    pub mtu_bytes: u32,
    /// Largest number of segments that TCP may put into one packet for this interface.
    pub gso_max_segments: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it passes packets: after its other end came up, the kernel needs a moment.
    pub operational: bool,
    /// Whether its frames start with an Ethernet header (`lo` counts).
    pub ethernet: bool,
    /// Group, 0 unless somebody set it.
    pub group: u32,
    /// Hardware address; empty if it has none.
    pub address: Vec<u8>,
}

/// All interfaces of the namespace.
pub fn links(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let found = netlink.dump(
        RouteNetlinkMessage::GetLink(LinkMessage::default()),
        "list interfaces",
    )?;
    let mut list = Vec::new();
    for answer in found {
        let RouteNetlinkMessage::NewLink(message) = answer else {
            continue;
        };
        let (mut name, mut mtu_bytes, mut gso_max_segments) = (String::new(), 0, 0);
        let (mut group, mut address, mut operational) = (0, Vec::new(), false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(n) => name.clone_from(n),
                LinkAttribute::Mtu(m) => mtu_bytes = *m,
                LinkAttribute::GsoMaxSegs(s) => gso_max_segments = *s,
                LinkAttribute::Group(g) => group = *g,
                LinkAttribute::OperState(state) => operational = *state == State::Up,
                LinkAttribute::Address(a) => address.clone_from(a),
                _ => {}
            }
        }
        list.push(Link {
            index: message.header.index,
            name,
            mtu_bytes,
            gso_max_segments,
            up: message.header.flags.contains(LinkFlags::Up),
            operational,
            ethernet: matches!(
                message.header.link_layer_type,
                LinkLayerType::Ether | LinkLayerType::Loopback
            ),
            group,
            address,
        });
    }
    Ok(list)
}

/// All interfaces of the namespace, by their names.
pub fn by_name(netlink: &mut Netlink) -> Result<HashMap<String, Link>, NetlinkError> {
    let links = links(netlink)?.into_iter();
    Ok(links.map(|link| (link.name.clone(), link)).collect())
}

/// One interface by name; `None` if there is none.
pub fn link(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    Ok(links(netlink)?.into_iter().find(|link| link.name == name))
}

fn set(index: u32, operation: String, change: impl FnOnce(&mut LinkMessage)) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    change(&mut message);
    Request {
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
        operation,
        tolerate: &[],
    }
}

/// Sets the MTU in bytes.
pub fn set_mtu(index: u32, name: &str, mtu_bytes: u32) -> Request {
    set(
        index,
        format!("set the MTU of {name} to {mtu_bytes}"),
        |m| {
            m.attributes.push(LinkAttribute::Mtu(mtu_bytes));
        },
    )
}

/// Sets the number of segments that TCP may put into one packet.
///
/// TCP builds super-packets even if the offload is off (kernel commit 0a6b2a1dc2a2), and the
/// stack splits them behind the qdisc; only this limit prevents them.
pub fn set_gso_max_segments(index: u32, name: &str, segments: u32) -> Request {
    let operation = format!("set gso_max_segs of {name} to {segments}");
    set(index, operation, |m| {
        m.attributes.push(LinkAttribute::GsoMaxSegs(segments));
    })
}

/// Sets an interface up or down.
pub fn set_up(index: u32, name: &str, up: bool) -> Request {
    let word = if up { "up" } else { "down" };
    set(index, format!("set {name} {word}"), |m| {
        m.header.change_mask = LinkFlags::Up;
        if up {
            m.header.flags = LinkFlags::Up;
        }
    })
}

/// Creates an ifb device with one queue.
pub fn add_ifb(name: &str, mtu_bytes: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu_bytes),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
    ];
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("create the ifb device {name}"),
        tolerate: &[],
    }
}

/// Two interfaces that are joined, one of them in another network namespace.
pub struct Veth {
    /// Name of the one in this namespace.
    pub name: String,
    /// Its index, which must be free.
    pub index: u32,
    /// Name of the other one.
    pub peer: String,
    /// File descriptor of its namespace.
    pub peer_namespace: i32,
    /// Its group.
    pub peer_group: u32,
    /// Hardware address of both: without ARP (`IFF_NOARP`) the kernel sends frames to the
    /// interface's own address, for which the other one then takes them.
    pub address: [u8; 6],
    /// MTU of both in bytes.
    pub mtu_bytes: u32,
}

/// Creates a pair of interfaces without ARP, neither of them up.
pub fn add_veth(pair: &Veth) -> Request {
    let end = |name: &str| {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Noarp;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(pair.address.to_vec()),
            LinkAttribute::Mtu(pair.mtu_bytes),
            LinkAttribute::GsoMaxSegs(1),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
        ];
        message
    };
    let mut peer = end(&pair.peer);
    peer.attributes.extend([
        LinkAttribute::NetNsFd(pair.peer_namespace),
        LinkAttribute::Group(pair.peer_group),
    ]);
    let mut message = end(&pair.name);
    message.header.index = pair.index;
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    Request {
        message: RouteNetlinkMessage::NewLink(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("create the port {}", pair.peer),
        tolerate: &[],
    }
}

/// Gives an interface no link-local address; without IPv6 in the kernel it has none anyway.
pub fn no_link_local(index: u32, name: &str) -> Request {
    let operation = format!("set the link-local addresses of {name}");
    let mut request = set(index, operation, |m| {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let family = vec![AfSpecUnspec::Inet6(vec![mode])];
        m.attributes.push(LinkAttribute::AfSpecUnspec(family));
    });
    request.tolerate = &[libc::EAFNOSUPPORT, libc::EINVAL];
    request
}

/// Lets the kernel forward IPv4 packets that arrive by an interface.
pub fn forward(index: u32, name: &str) -> Request {
    set(index, format!("forward packets of {name}"), |m| {
        let mut settings = InetDevConf::default();
        settings.forwarding = 1;
        let family = vec![AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(
            settings,
        )])];
        m.attributes.push(LinkAttribute::AfSpecUnspec(family));
    })
}

/// Deletes all interfaces of a group.
pub fn delete_group(group: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::Group(group)];
    Request {
        message: RouteNetlinkMessage::DelLink(message),
        flags: 0,
        operation: format!("delete the interfaces of the group {group}"),
        tolerate: &[libc::ENODEV],
    }
}

/// Deletes an interface by name.
pub fn delete(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    Request {
        message: RouteNetlinkMessage::DelLink(message),
        flags: 0,
        operation: format!("delete the interface {name}"),
        tolerate: &[libc::ENODEV],
    }
}
