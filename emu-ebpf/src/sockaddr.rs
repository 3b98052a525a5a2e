//! Reading and writing the addresses of sockets. The only place that touches a
//! socket hook's context.
//!
//! The verifier takes each field as one 32-bit access, so every access is
//! volatile: the compiler may not join two.
use aya_ebpf::{
    bindings::sockaddr,
    helpers::{bpf_bind, bpf_set_retval, bpf_sk_fullsock},
    programs::{SkBuffContext, SockAddrContext},
};
use emu_common::{
    layout::{SocketAddress, socket_flag},
    model::identity::{self, Refusal, SocketEvent},
};

use crate::maps;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// Verdicts of a socket hook.
const GOES_ON: i32 = 1;
const FAILS: i32 = 0;

/// `struct sockaddr_in`.
#[repr(C)]
struct Ipv4 {
    family: u16,
    port: u16,
    address: u32,
    zero: [u32; 2],
}

/// `struct sockaddr_in6`.
#[repr(C)]
struct Ipv6 {
    family: u16,
    port: u16,
    flow: u32,
    address: [u32; 4],
    scope: u32,
}

/// A hook of one address family.
pub trait Family {
    /// The address that the program gave: to bind, or the destination.
    fn given(ctx: &SockAddrContext) -> SocketAddress;
    /// Replaces it.
    fn give(ctx: &SockAddrContext, address: &SocketAddress);
    /// The address that the socket has.
    fn bound(ctx: &SockAddrContext) -> Option<SocketAddress>;
    /// The source of a datagram.
    fn source(ctx: &SockAddrContext) -> SocketAddress;
    /// Sets it.
    fn set_source(ctx: &SockAddrContext, address: &SocketAddress);
    /// Binds the socket, the port to be found by the kernel; false if it already
    /// has a port.
    fn bind(ctx: &SockAddrContext, address: &SocketAddress) -> bool;
}

/// Lets the call go on.
#[inline(always)]
pub fn go_on() -> i32 {
    GOES_ON
}

/// Lets the call fail and counts it.
///
/// # Minimum kernel version
/// 6.1, for `bpf_set_retval` in socket hooks (kernel commit b44123b4a3dc).
#[inline(always)]
pub fn refuse(why: Refusal) -> i32 {
    maps::count_event(SocketEvent::Refused);
    fail(why.errno())
}

/// Lets the call fail with an error number.
#[inline(always)]
pub fn fail(errno: i32) -> i32 {
    // SAFETY: the helper takes a number and stores it for this run.
    unsafe { bpf_set_retval(-errno) };
    FAILS
}

#[inline(always)]
fn read(field: *const u32) -> u32 {
    // SAFETY: callers pass the address of a field of the live context, or of its
    // socket after a null check, which the verifier lets this program read.
    unsafe { field.read_volatile() }
}

#[inline(always)]
fn write(field: *mut u32, value: u32) {
    // SAFETY: callers pass the address of a field of the live context that this
    // hook may write.
    unsafe { field.write_volatile(value) }
}

macro_rules! four {
    ($ctx:ident . $field:ident) => {{
        let c = $ctx.sock_addr;
        // SAFETY: taking addresses of fields of the live context.
        unsafe {
            [
                &raw mut (*c).$field[0],
                &raw mut (*c).$field[1],
                &raw mut (*c).$field[2],
                &raw mut (*c).$field[3],
            ]
        }
    }};
}

/// Flags of the socket of a call, [`socket_flag`].
#[inline(always)]
pub fn flags(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the context is live; the verifier turns `sk` into a checked pointer.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if maps::is_v6_only(sk as u64) {
        socket_flag::V6_ONLY
    } else {
        0
    }
}

/// The kind of a packet's socket, as far as the guards need it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// A TCP or UDP socket with this very address, which the hooks of bind and connect allowed.
    Has,
    /// Another TCP or UDP socket, or a request that is no socket yet.
    Other,
    /// A socket of another protocol: raw, ping, UDP-Lite, SCTP. They have no such hooks, or not
    /// all of them.
    Raw,
}

/// What the socket of a packet is to an address of the packet.
#[inline(always)]
pub fn kind(ctx: &SkBuffContext, address: &SocketAddress) -> HookKind {
    const SOCK_RAW: u32 = 3;
    const IPPROTO_TCP: u32 = 6;
    const IPPROTO_UDP: u32 = 17;
    // SAFETY: the context is live; the verifier turns `sk` into a checked pointer.
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return HookKind::Other;
    }
    // SAFETY: not null (checked above); null for a request that is no socket yet.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return HookKind::Other;
    }
    // SAFETY: not null (checked above); taking addresses of fields.
    let (kind, protocol, v4, v6) = unsafe {
        (
            &raw const (*sk).type_,
            &raw const (*sk).protocol,
            &raw const (*sk).src_ip4,
            [
                &raw const (*sk).src_ip6[0],
                &raw const (*sk).src_ip6[1],
                &raw const (*sk).src_ip6[2],
                &raw const (*sk).src_ip6[3],
            ],
        )
    };
    let protocol = read(protocol);
    if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) || read(kind) == SOCK_RAW {
        return HookKind::Raw;
    }
    let has = if identity::is_v4(address) {
        read(v4) == address.words[3]
    } else {
        let own = SocketAddress::from_v6(v6.map(|field| read(field)));
        identity::same(&own, address)
    };
    if has { HookKind::Has } else { HookKind::Other }
}

/// Hooks of IPv4 addresses; the socket itself may be an IPv6 one.
pub struct V4;
/// Hooks of IPv6 addresses.
pub struct V6;

impl Family for V4 {
    #[inline(always)]
    fn given(ctx: &SockAddrContext) -> SocketAddress {
        // SAFETY: taking the address of a field of the live context.
        SocketAddress::from_v4(read(unsafe { &raw const (*ctx.sock_addr).user_ip4 }))
    }

    #[inline(always)]
    fn give(ctx: &SockAddrContext, address: &SocketAddress) {
        // SAFETY: taking the address of a field of the live context.
        write(
            unsafe { &raw mut (*ctx.sock_addr).user_ip4 },
            address.words[3],
        );
    }

    #[inline(always)]
    fn bound(ctx: &SockAddrContext) -> Option<SocketAddress> {
        // SAFETY: the context is live; the verifier turns `sk` into a checked pointer.
        let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
        if sk.is_null() {
            return None;
        }
        // SAFETY: not null (checked above).
        Some(SocketAddress::from_v4(read(unsafe {
            &raw const (*sk).src_ip4
        })))
    }

    #[inline(always)]
    fn source(ctx: &SockAddrContext) -> SocketAddress {
        // SAFETY: taking the address of a field of the live context.
        SocketAddress::from_v4(read(unsafe { &raw const (*ctx.sock_addr).msg_src_ip4 }))
    }

    #[inline(always)]
    fn set_source(ctx: &SockAddrContext, address: &SocketAddress) {
        // SAFETY: taking the address of a field of the live context.
        write(
            unsafe { &raw mut (*ctx.sock_addr).msg_src_ip4 },
            address.words[3],
        );
    }

    #[inline(always)]
    fn bind(ctx: &SockAddrContext, address: &SocketAddress) -> bool {
        let mut to = Ipv4 {
            family: AF_INET,
            port: 0,
            address: address.words[3],
            zero: [0; 2],
        };
        let to: *mut sockaddr = (&raw mut to).cast();
        // SAFETY: the context is live, and `to` is a local of the size given.
        unsafe { bpf_bind(ctx.sock_addr, to, size_of::<Ipv4>() as i32) == 0 }
    }
}

impl Family for V6 {
    #[inline(always)]
    fn given(ctx: &SockAddrContext) -> SocketAddress {
        SocketAddress::from_v6(four!(ctx.user_ip6).map(|field| read(field)))
    }

    #[inline(always)]
    fn give(ctx: &SockAddrContext, address: &SocketAddress) {
        let [a, b, c, d] = four!(ctx.user_ip6);
        write(a, address.words[0]);
        write(b, address.words[1]);
        write(c, address.words[2]);
        write(d, address.words[3]);
    }

    #[inline(always)]
    fn bound(ctx: &SockAddrContext) -> Option<SocketAddress> {
        // SAFETY: as for IPv4.
        let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
        if sk.is_null() {
            return None;
        }
        // SAFETY: not null (checked above).
        let words = unsafe {
            [
                &raw const (*sk).src_ip6[0],
                &raw const (*sk).src_ip6[1],
                &raw const (*sk).src_ip6[2],
                &raw const (*sk).src_ip6[3],
            ]
        };
        Some(SocketAddress::from_v6(words.map(|field| read(field))))
    }

    #[inline(always)]
    fn source(ctx: &SockAddrContext) -> SocketAddress {
        SocketAddress::from_v6(four!(ctx.msg_src_ip6).map(|field| read(field)))
    }

    #[inline(always)]
    fn set_source(ctx: &SockAddrContext, address: &SocketAddress) {
        let [a, b, c, d] = four!(ctx.msg_src_ip6);
        write(a, address.words[0]);
        write(b, address.words[1]);
        write(c, address.words[2]);
        write(d, address.words[3]);
    }

    #[inline(always)]
    fn bind(ctx: &SockAddrContext, address: &SocketAddress) -> bool {
        let mut to = Ipv6 {
            family: AF_INET6,
            port: 0,
            flow: 0,
            address: address.words,
            scope: 0,
        };
        let to: *mut sockaddr = (&raw mut to).cast();
        // SAFETY: the context is live, and `to` is a local of the size given.
        unsafe { bpf_bind(ctx.sock_addr, to, size_of::<Ipv6>() as i32) == 0 }
    }
}
