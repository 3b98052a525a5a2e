//! Addresses of sockets, and the vnode that a process or a socket belongs to.
use core::mem::{align_of, offset_of, size_of};

use super::AddrKey;

/// An address as socket hooks have it: four 32-bit words in network order, IPv4 in
/// mapped form.
///
/// 32-bit words instead of the octets of [`AddrKey`], because the fields of a socket
/// are read and written as 32-bit words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SocketAddress {
    /// 32-bit words in network byte order.
    pub words: [u32; 4],
}

impl SocketAddress {
    /// An IPv4 address, given as the 32-bit word in network byte order.
    #[inline(always)]
    pub const fn from_v4(word: u32) -> Self {
        Self {
            words: [0, 0, 0xffff_u32.to_be(), word],
        }
    }

    /// An IPv6 address, given as 32-bit words in network byte order.
    #[inline(always)]
    pub const fn from_v6(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The same address as a key.
    #[inline(always)]
    pub const fn from_key(key: AddrKey) -> Self {
        let o = key.octets;
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }
}

/// The vnode of a process or a socket: value of the identity hash, whose key is a cgroup, and of
/// the hash of sockets that vnodes' processes made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Identity {
    /// Address of the vnode.
    pub address: SocketAddress,
    /// The address that `::1` stands for in the vnode; `::`: the machine's own `::1`.
    pub loopback_v6: SocketAddress,
    /// The address that 127.0.0.0 stands for in the vnode, in network byte order, its last
    /// octet 0; 0: the machine's own loopback.
    pub loopback_v4: u32,
    /// Of the socket of a call: [`socket_flag`]. In the maps: 0.
    pub flags: u32,
}

/// Flags of [`Identity::flags`].
pub mod socket_flag {
    /// `IPV6_V6ONLY` is set.
    pub const V6_ONLY: u32 = 1;
}

const _: () = {
    assert!(size_of::<SocketAddress>() == 16 && align_of::<SocketAddress>() == 4);
    assert!(offset_of!(SocketAddress, words) == 0);
    assert!(size_of::<Identity>() == 40 && align_of::<Identity>() == 4);
    assert!(offset_of!(Identity, loopback_v6) == 16 && offset_of!(Identity, loopback_v4) == 32);
    assert!(offset_of!(Identity, flags) == 36);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), four u32: no padding, every bit pattern valid.
    unsafe impl aya::Pod for super::SocketAddress {}
    // SAFETY: repr(C), u32 alone, 40 bytes as asserted: no padding, every bit pattern valid.
    unsafe impl aya::Pod for super::Identity {}
}
