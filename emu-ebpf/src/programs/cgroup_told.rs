//! `emu_sockname4`, `emu_peername4`, `emu_recvmsg4` and those of IPv6: a program is told 127.0.0.1
//! and `::1` for the vnode's own loopback.
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use emu_common::model::identity;

use crate::{
    identity as who,
    sockaddr::{Family, V4, V6, go_on},
};

/// getsockname(2) of an IPv4 address.
#[cgroup_sock_addr(getsockname4)]
pub fn emu_sockname4(ctx: SockAddrContext) -> i32 {
    tell::<V4>(&ctx)
}

/// getsockname(2) of an IPv6 address, which may be a mapped IPv4 one.
#[cgroup_sock_addr(getsockname6)]
pub fn emu_sockname6(ctx: SockAddrContext) -> i32 {
    tell::<V6>(&ctx)
}

/// getpeername(2) and accept(2) of an IPv4 address.
#[cgroup_sock_addr(getpeername4)]
pub fn emu_peername4(ctx: SockAddrContext) -> i32 {
    tell::<V4>(&ctx)
}

/// getpeername(2) and accept(2) of an IPv6 address, which may be a mapped IPv4 one.
#[cgroup_sock_addr(getpeername6)]
pub fn emu_peername6(ctx: SockAddrContext) -> i32 {
    tell::<V6>(&ctx)
}

/// recvfrom(2) from an IPv4 address.
#[cgroup_sock_addr(recvmsg4)]
pub fn emu_recvmsg4(ctx: SockAddrContext) -> i32 {
    tell::<V4>(&ctx)
}

/// recvfrom(2) from an IPv6 address, which may be a mapped IPv4 one.
#[cgroup_sock_addr(recvmsg6)]
pub fn emu_recvmsg6(ctx: SockAddrContext) -> i32 {
    tell::<V6>(&ctx)
}

#[inline(always)]
fn tell<F: Family>(ctx: &SockAddrContext) -> i32 {
    if let Some(own) = who::of_caller(ctx) {
        let told = identity::told(&own, &F::given(ctx));
        F::give(ctx, &told);
    }
    // These hooks cannot fail a call.
    go_on()
}
