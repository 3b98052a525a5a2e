//! Interfaces: looking them up, MTU, up and down, the ifb device.
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
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
    /// Whether its frames start with an Ethernet header (`lo` counts).
    pub ethernet: bool,
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
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(n) => name.clone_from(n),
                LinkAttribute::Mtu(m) => mtu_bytes = *m,
                LinkAttribute::GsoMaxSegs(s) => gso_max_segments = *s,
                _ => {}
            }
        }
        list.push(Link {
            index: message.header.index,
            name,
            mtu_bytes,
            gso_max_segments,
            up: message.header.flags.contains(LinkFlags::Up),
            ethernet: matches!(
                message.header.link_layer_type,
                LinkLayerType::Ether | LinkLayerType::Loopback
            ),
        });
    }
    Ok(list)
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
