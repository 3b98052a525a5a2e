//! Loopback of a vnode's own: addresses of 127.0.0.0/8 and of one IPv6 prefix that stand for
//! 127.0.0.0/24 and `::1` in one vnode.
//!
//! The machine has one 127.0.0.0/8, and all of it is local. The vnode in place `p` of the maps has
//! the 256 addresses from `127.(p + 256)`, the two octets after 127: `127.1.0.0` for place 0, then
//! `127.1.1.0`. The addresses below belong to the machine (127.0.0.1, 127.0.0.53, 127.0.1.1). For
//! `::1` it has the address of [`PREFIX_V6`] that ends with its 127.x.y.1.
use crate::layout::{Identity, SocketAddress};

use super::{is_loopback, is_v4, is_wildcard, same};

/// Places that the machine's own addresses take.
const FIRST: u32 = 256;
/// Vnodes of a host that can have loopback of their own.
pub const PLACES: u32 = 65_536 - FIRST;
/// The prefix of the addresses that stand for `::1`, a unique local one (RFC 4193).
pub const PREFIX_V6: [u16; 8] = [0xfd65, 0x6d75, 0x6c6f, 0, 0, 0, 0, 0];
/// Length of [`PREFIX_V6`] in bits.
pub const PREFIX_V6_BITS: u8 = 96;
/// `::1`.
pub const V6: SocketAddress = SocketAddress::from_v6([0, 0, 0, 1_u32.to_be()]);
/// 127.0.0.1.
pub const V4: SocketAddress = SocketAddress::from_v4(0x7f00_0001_u32.to_be());
/// The octets of an IPv4 address that say whose loopback it is.
const OWNER: u32 = 0xffff_ff00_u32.to_be();
/// The last octet.
const LAST: u32 = 0xff_u32.to_be();

/// [`Identity::loopback_v4`] of the vnode in a place; `None` from [`PLACES`] on.
pub const fn v4(place: u32) -> Option<u32> {
    if place >= PLACES {
        return None;
    }
    Some((0x7f00_0000 | ((place + FIRST) << 8)).to_be())
}

/// [`Identity::loopback_v6`] of the vnode in a place; `None` from [`PLACES`] on.
pub const fn v6(place: u32) -> Option<SocketAddress> {
    let Some(base) = v4(place) else {
        return None;
    };
    let [a, b, c, d, ..] = PREFIX_V6;
    Some(SocketAddress::from_v6([
        (((a as u32) << 16) | b as u32).to_be(),
        (((c as u32) << 16) | d as u32).to_be(),
        0,
        base | 1_u32.to_be(),
    ]))
}

/// What a loopback address stands for in a vnode.
#[inline(always)]
pub const fn own(own: &Identity, address: &SocketAddress) -> SocketAddress {
    if is_v4(address) {
        if own.loopback_v4 == 0 {
            return *address;
        }
        return SocketAddress::from_v4(own.loopback_v4 | (address.words[3] & LAST));
    }
    if is_wildcard(&own.loopback_v6) {
        return *address;
    }
    own.loopback_v6
}

/// The loopback address that a destination, loopback or a wildcard, means for a socket: the kernel
/// takes a wildcard as the loopback of the source's family, or else of its own.
#[inline(always)]
pub const fn meant(source: &SocketAddress, destination: &SocketAddress) -> SocketAddress {
    if !is_wildcard(destination) {
        return *destination;
    }
    let by = if is_wildcard(source) {
        destination
    } else {
        source
    };
    if is_v4(by) { V4 } else { V6 }
}

/// The source of packets to the loopback address `to` of a vnode, from a socket without an
/// address: 127.0.0.1 or `::1` of the vnode; the wildcard if loopback is the machine's.
#[inline(always)]
pub const fn source(own: &Identity, to: &SocketAddress) -> SocketAddress {
    if is_v4(to) {
        if own.loopback_v4 == 0 {
            return SocketAddress::from_v4(0);
        }
        return SocketAddress::from_v4(own.loopback_v4 | 1_u32.to_be());
    }
    own.loopback_v6
}

/// Whether an address is loopback of the vnode.
#[inline(always)]
pub const fn is_own(own: &Identity, address: &SocketAddress) -> bool {
    if is_v4(address) {
        if own.loopback_v4 == 0 {
            return is_loopback(address);
        }
        return address.words[3] & OWNER == own.loopback_v4;
    }
    if is_wildcard(&own.loopback_v6) {
        return is_loopback(address);
    }
    same(address, &own.loopback_v6)
}

/// See [`super::told`].
#[inline(always)]
pub const fn told(own: &Identity, address: &SocketAddress) -> SocketAddress {
    if is_v4(address) {
        if own.loopback_v4 != 0 && address.words[3] & OWNER == own.loopback_v4 {
            let last = address.words[3] & LAST;
            return SocketAddress::from_v4(0x7f00_0000_u32.to_be() | last);
        }
        return *address;
    }
    if !is_wildcard(&own.loopback_v6) && same(address, &own.loopback_v6) {
        return V6;
    }
    *address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(word: u32) -> [u8; 4] {
        word.to_ne_bytes()
    }

    #[test]
    fn places_have_addresses_of_their_own() {
        assert_eq!(octets(v4(0).unwrap()), [127, 1, 0, 0]);
        assert_eq!(octets(v4(257).unwrap()), [127, 2, 1, 0]);
        assert_eq!(octets(v4(PLACES - 1).unwrap()), [127, 255, 255, 0]);
        assert_eq!((v4(PLACES), v6(PLACES)), (None, None));
        let expected = [0xfd65_6d75_u32, 0x6c6f_0000, 0, 0x7f01_0001].map(u32::to_be);
        assert_eq!(v6(0).unwrap().words, expected);
    }
}
