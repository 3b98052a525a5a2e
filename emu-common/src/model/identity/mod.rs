//! Which address a socket of a vnode's process gets.
//!
//! A vnode is a host with one address and with loopback of both families: what
//! such a host would answer, the hooks answer. Nothing else may be bound, and
//! nothing else may be the source of a packet.
mod option;

use crate::layout::SocketAddress;
pub use option::{ENOPROTOOPT, OptionAction, option};

/// What becomes of a bind, a connect or a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Goes on as it is.
    Keep,
    /// Goes on from the vnode's address.
    Assign,
    /// Goes on from the vnode's address to the vnode's address: the destination
    /// was the wildcard, which means oneself.
    ToSelf,
    /// Fails.
    Refuse(Refusal),
}

/// Why something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The address is not the vnode's.
    NotOurs,
    /// The vnode has no address of the destination's family.
    NoRoute,
    /// From loopback to the network.
    FromLoopback,
}

impl Refusal {
    /// The error that the program sees, as it would on a host without the
    /// address: `EADDRNOTAVAIL`, `ENETUNREACH`, `EINVAL`. The numbers are those
    /// of every architecture but MIPS, SPARC, Alpha and PA-RISC.
    #[inline(always)]
    pub const fn errno(self) -> i32 {
        match self {
            Refusal::NotOurs => 99,
            Refusal::NoRoute => 101,
            Refusal::FromLoopback => 22,
        }
    }
}

/// What the hooks count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// Binds, connects and datagrams that failed with a [`Refusal`].
    Refused = 0,
    /// Packets dropped because their source was not the vnode's address.
    ForeignSource = 1,
    /// Calls that would have bound a socket to an interface, and had no effect.
    DeviceIgnored = 2,
    /// Calls that would have let a UDP socket send several packets as one.
    SegmentationRefused = 3,
}

impl Event {
    /// Number of events, the size of the counter array.
    pub const COUNT: u32 = 4;
    /// All events in index order.
    pub const ALL: [Event; Self::COUNT as usize] = [
        Event::Refused,
        Event::ForeignSource,
        Event::DeviceIgnored,
        Event::SegmentationRefused,
    ];

    /// Stable name for tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Event::Refused => "refused",
            Event::ForeignSource => "foreign_source",
            Event::DeviceIgnored => "device_ignored",
            Event::SegmentationRefused => "segmentation_refused",
        }
    }
}

const MAPPED: u32 = 0xffff_u32.to_be();

/// Whether an address is IPv4, that is, in mapped form.
#[inline(always)]
pub const fn is_v4(a: &SocketAddress) -> bool {
    a.words[0] == 0 && a.words[1] == 0 && a.words[2] == MAPPED
}

/// Whether an address is the wildcard of its family.
#[inline(always)]
pub const fn is_wildcard(a: &SocketAddress) -> bool {
    let [w0, w1, w2, w3] = a.words;
    w0 == 0 && w1 == 0 && (w2 == 0 || w2 == MAPPED) && w3 == 0
}

/// Whether an address is in 127.0.0.0/8 or is `::1`.
#[inline(always)]
pub const fn is_loopback(a: &SocketAddress) -> bool {
    let [w0, w1, w2, w3] = a.words;
    if w0 != 0 || w1 != 0 {
        return false;
    }
    (w2 == MAPPED && u32::from_be(w3) >> 24 == 127) || (w2 == 0 && w3 == 1_u32.to_be())
}

/// Whether an address is in 224.0.0.0/4 or ff00::/8.
#[inline(always)]
pub const fn is_multicast(a: &SocketAddress) -> bool {
    if is_v4(a) {
        u32::from_be(a.words[3]) >> 28 == 0xe
    } else {
        u32::from_be(a.words[0]) >> 24 == 0xff
    }
}

/// Whether two addresses are the same; word by word, for the kernel has no
/// `memcmp`.
#[inline(always)]
pub const fn same(a: &SocketAddress, b: &SocketAddress) -> bool {
    a.words[3] == b.words[3]
        && a.words[2] == b.words[2]
        && a.words[1] == b.words[1]
        && a.words[0] == b.words[0]
}

/// What a bind to `wanted` becomes in `vnode`. Multicast groups may be bound:
/// such a socket has no source address until it sends.
#[inline(always)]
pub const fn bind(vnode: &SocketAddress, wanted: &SocketAddress) -> Action {
    if is_wildcard(wanted) {
        // The IPv6 wildcard takes IPv4 too, so an IPv4 vnode answers there.
        if is_v4(wanted) && !is_v4(vnode) {
            return Action::Refuse(Refusal::NotOurs);
        }
        return Action::Assign;
    }
    if same(wanted, vnode) || is_loopback(wanted) || is_multicast(wanted) {
        return Action::Keep;
    }
    Action::Refuse(Refusal::NotOurs)
}

/// What a connect or an unconnected datagram to `destination` becomes, from a
/// socket that has `source`, or the wildcard while it has none.
#[inline(always)]
pub const fn speak(
    vnode: &SocketAddress,
    source: &SocketAddress,
    destination: &SocketAddress,
) -> Action {
    let local = is_loopback(destination);
    let same_family = is_v4(destination) == is_v4(vnode);
    if is_wildcard(source) || same(source, vnode) {
        if local {
            return Action::Keep;
        }
        return match (is_wildcard(destination), same_family) {
            (true, true) => Action::ToSelf,
            // The kernel takes the other family's wildcard for its loopback.
            (true, false) => Action::Keep,
            (false, true) if is_wildcard(source) => Action::Assign,
            (false, true) => Action::Keep,
            (false, false) => Action::Refuse(Refusal::NoRoute),
        };
    }
    if is_loopback(source) {
        return if local || is_wildcard(destination) || same(destination, vnode) {
            Action::Keep
        } else {
            Action::Refuse(Refusal::FromLoopback)
        };
    }
    Action::Refuse(Refusal::NotOurs)
}

/// Whether a packet from `source` may leave a socket of `vnode`.
#[inline(always)]
pub const fn may_emit(vnode: &SocketAddress, source: &SocketAddress) -> bool {
    same(source, vnode) || is_loopback(source)
}

#[cfg(test)]
mod tests;
