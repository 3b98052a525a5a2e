//! Which address a socket of a vnode's process gets.
//!
//! A vnode is a host with one address and with loopback of both families: what
//! such a host would answer, the hooks answer. Nothing else may be bound, and
//! nothing else may be the source of a packet.
pub mod loopback;
mod option;

use crate::layout::{Identity, SocketAddress, socket_flag};
pub use option::{ENOPROTOOPT, OptionAction, option};

/// What happens to a bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bind {
    /// The socket is bound as the program asked.
    Keep,
    /// The socket is bound to this address.
    To(SocketAddress),
    /// The call fails.
    Refuse(Refusal),
}

/// What happens to a connect or a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// It goes to `to`, from `from`; if `from` is the wildcard, the kernel chooses.
    Go {
        to: SocketAddress,
        from: SocketAddress,
    },
    /// The call fails.
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
pub enum SocketEvent {
    /// Binds, connects and datagrams that failed with a [`Refusal`].
    Refused = 0,
    /// Packets dropped because their source was not the vnode's address.
    ForeignSource = 1,
    /// Calls that would have bound a socket to an interface, and had no effect.
    DeviceIgnored = 2,
    /// Calls that would have let a UDP socket send several packets as one.
    SegmentationRefused = 3,
    /// Packets to another address that a socket without an address would have received.
    ForeignDestination = 4,
}

impl SocketEvent {
    /// Number of events, the size of the counter array.
    pub const COUNT: u32 = 5;
    /// All events in index order.
    pub const ALL: [SocketEvent; Self::COUNT as usize] = [
        SocketEvent::Refused,
        SocketEvent::ForeignSource,
        SocketEvent::DeviceIgnored,
        SocketEvent::SegmentationRefused,
        SocketEvent::ForeignDestination,
    ];

    /// Stable name for tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            SocketEvent::Refused => "refused",
            SocketEvent::ForeignSource => "foreign_source",
            SocketEvent::DeviceIgnored => "device_ignored",
            SocketEvent::SegmentationRefused => "segmentation_refused",
            SocketEvent::ForeignDestination => "foreign_destination",
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

/// Whether an address is 255.255.255.255.
#[inline(always)]
pub const fn is_broadcast(a: &SocketAddress) -> bool {
    is_v4(a) && a.words[3] == u32::MAX
}

/// Whether two addresses are the same; one 32-bit word after another, for the kernel has no
/// `memcmp`.
#[inline(always)]
pub const fn same(a: &SocketAddress, b: &SocketAddress) -> bool {
    a.words[3] == b.words[3]
        && a.words[2] == b.words[2]
        && a.words[1] == b.words[1]
        && a.words[0] == b.words[0]
}

/// What happens to a bind to `wanted` by a process or of a socket of a vnode. Multicast groups
/// may be bound: such a socket has no source address until it sends.
#[inline(always)]
pub const fn bind(own: &Identity, wanted: &SocketAddress) -> Bind {
    let vnode = &own.address;
    if is_wildcard(wanted) {
        return match (is_v4(wanted), is_v4(vnode)) {
            // On a host without an IPv4 address, all IPv4 addresses are those of loopback.
            (true, false) => Bind::To(loopback::own(own, &loopback::V4)),
            // And for a socket for IPv6 alone, on a host without an IPv6 address, ::1.
            (false, true) if own.flags & socket_flag::V6_ONLY != 0 => {
                Bind::To(loopback::own(own, &loopback::V6))
            }
            // The IPv6 wildcard includes IPv4, so an IPv4 vnode answers there.
            _ => Bind::To(*vnode),
        };
    }
    if is_loopback(wanted) {
        return Bind::To(loopback::own(own, wanted));
    }
    if same(wanted, vnode) || is_multicast(wanted) {
        return Bind::Keep;
    }
    Bind::Refuse(Refusal::NotOurs)
}

/// What happens to a connect or an unconnected datagram to `destination`, from a socket that has
/// `source`, or the wildcard while it has none.
#[inline(always)]
pub const fn speak(own: &Identity, source: &SocketAddress, destination: &SocketAddress) -> Speech {
    let vnode = &own.address;
    let has_none = is_wildcard(source);
    let is_local = is_loopback(destination);
    if has_none || same(source, vnode) {
        let same_family = is_v4(destination) == is_v4(vnode);
        if is_wildcard(destination) && same_family {
            return Speech::Go {
                to: *vnode,
                from: *vnode,
            };
        }
        // The kernel takes the wildcard of the other family as its loopback.
        if is_local || is_wildcard(destination) {
            let to = loopback::own(own, &loopback::meant(source, destination));
            let from = if has_none {
                loopback::source(own, &to)
            } else {
                *source
            };
            return Speech::Go { to, from };
        }
        if !same_family {
            return Speech::Refuse(Refusal::NoRoute);
        }
        return Speech::Go {
            to: *destination,
            from: *vnode,
        };
    }
    if loopback::is_own(own, source) {
        let to = if is_local || is_wildcard(destination) {
            loopback::own(own, &loopback::meant(source, destination))
        } else if same(destination, vnode) {
            *destination
        } else {
            return Speech::Refuse(Refusal::FromLoopback);
        };
        return Speech::Go { to, from: *source };
    }
    Speech::Refuse(Refusal::NotOurs)
}

/// The address that a program of the vnode is told: its loopback addresses as 127.0.0.0/24 and
/// `::1`, all others as they are.
#[inline(always)]
pub const fn told(own: &Identity, address: &SocketAddress) -> SocketAddress {
    loopback::told(own, address)
}

/// Whether a packet from `source` may leave a socket of the vnode. Raw and ping sockets, whose
/// addresses no hook can change, may use the machine's loopback.
#[inline(always)]
pub const fn may_emit(own: &Identity, source: &SocketAddress, is_raw: bool) -> bool {
    same(source, &own.address) || loopback::is_own(own, source) || (is_raw && is_loopback(source))
}

/// Whether a packet to `destination` may reach a socket of the vnode: a socket without an address
/// would also get those of other vnodes.
#[inline(always)]
pub const fn may_receive(own: &Identity, destination: &SocketAddress, is_raw: bool) -> bool {
    may_emit(own, destination, is_raw) || is_multicast(destination) || is_broadcast(destination)
}

#[cfg(test)]
mod tests;
