//! Queueing disciplines (`qdisc`) and filters (`filter`) at interfaces and at the ports of
//! machines, and the form of their messages.
mod filter;
mod qdisc;

use std::fmt;

use netlink_packet_core::{DefaultNla, Emitable, Nla};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption};

pub use filter::{
    Filter, add_direct_filter, add_program, add_redirect_filter, delete_filter, filters,
    has_filters,
};
pub use qdisc::{
    FQ_HANDLE_MAJOR, Qdisc, add_clsact, add_fq, add_netem, add_shared_clsact, change_fq,
    delete_clsact, delete_root, is_at_least, is_restorable, qdiscs, recreate,
};

/// Parents of filters in the two hooks of clsact (`TC_H_MIN_INGRESS`/`_EGRESS`).
const INGRESS_HOOK: u16 = 0xfff2;
const EGRESS_HOOK: u16 = 0xfff3;

// uapi/linux/rtnetlink.h and netlink.h
const TCA_OPTIONS: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Hook of clsact.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// Incoming packets.
    Ingress,
    /// Outgoing packets.
    Egress,
}

/// Place of a filter among those of a hook: before those of the user, which may end the chain.
/// Emu's filters let the chain continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preference {
    First = 1,
    Second = 2,
}

/// Where filters are.
#[derive(Debug, Clone, Copy)]
pub enum HookPlace<'a> {
    /// At an interface.
    Interface {
        index: u32,
        name: &'a str,
        hook: Hook,
    },
    /// At the ports of all machines, which share their filters.
    Ports(Hook),
}

/// Blocks of filters that the ports of a network namespace share, one for each hook.
const INGRESS_BLOCK: u32 = 0xe301;
const EGRESS_BLOCK: u32 = 0xe302;

impl HookPlace<'_> {
    fn message(self, handle: TcHandle, kind: &str) -> TcMessage {
        match self {
            HookPlace::Interface { index, hook, .. } => message(index, hook.parent(), handle, kind),
            HookPlace::Ports(hook) => {
                let block = TcHandle::from(hook.block());
                message(TcHeader::TCM_IFINDEX_MAGIC_BLOCK, block, handle, kind)
            }
        }
    }
}

impl fmt::Display for HookPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookPlace::Interface { name, .. } => f.write_str(name),
            HookPlace::Ports(_) => f.write_str("the ports of machines"),
        }
    }
}

impl Hook {
    fn block(self) -> u32 {
        match self {
            Hook::Ingress => INGRESS_BLOCK,
            Hook::Egress => EGRESS_BLOCK,
        }
    }

    fn parent(self) -> TcHandle {
        TcHandle {
            major: 0xffff,
            minor: match self {
                Hook::Ingress => INGRESS_HOOK,
                Hook::Egress => EGRESS_HOOK,
            },
        }
    }
}

fn attributes(list: Vec<DefaultNla>) -> Vec<u8> {
    let mut bytes = vec![0; list.as_slice().buffer_len()];
    list.as_slice().emit(&mut bytes);
    bytes
}

fn nested(kind: u16, list: Vec<DefaultNla>) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, attributes(list))
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn message(index: u32, parent: TcHandle, handle: TcHandle, kind: &str) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index as i32;
    message.header.parent = parent;
    message.header.handle = handle;
    if !kind.is_empty() {
        message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    }
    message
}

/// A number in the options of a qdisc or a filter.
fn option(message: &TcMessage, kind: u16) -> Option<u32> {
    let options = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => Some(&options[..]),
        _ => None,
    })?;
    let bytes = match options {
        // The options of a kind that the library does not know, in one piece.
        [TcOption::Other(nla)] if nla.kind() & NLA_TYPE_MASK == TCA_OPTIONS => {
            let mut bytes = vec![0; nla.value_len()];
            nla.emit_value(&mut bytes);
            bytes
        }
        known => {
            let mut bytes = vec![0; known.buffer_len()];
            known.emit(&mut bytes);
            bytes
        }
    };
    let mut rest = &bytes[..];
    // struct nlattr: length with this header, type; padded to four bytes.
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b])).max(4);
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK == kind {
            return value.try_into().ok().map(u32::from_ne_bytes);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}
