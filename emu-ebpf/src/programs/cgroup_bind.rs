//! `emu_bind4`, `emu_bind6`: sockets are bound to the vnode's address or not at
//! all.
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use emu_common::model::identity::{self, Bind};

use crate::{
    identity as who,
    sockaddr::{self, Family, V4, V6, go_on, refuse},
};

/// bind(2) of an IPv4 address.
#[cgroup_sock_addr(bind4)]
pub fn emu_bind4(ctx: SockAddrContext) -> i32 {
    bind::<V4>(&ctx)
}

/// bind(2) of an IPv6 address, which may be a mapped IPv4 one.
#[cgroup_sock_addr(bind6)]
pub fn emu_bind6(ctx: SockAddrContext) -> i32 {
    bind::<V6>(&ctx)
}

#[inline(always)]
fn bind<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(mut own) = who::of_call(ctx) else {
        return go_on();
    };
    own.flags = sockaddr::flags(ctx);
    match identity::bind(&own, &F::given(ctx)) {
        Bind::Keep => {}
        Bind::To(address) => F::give(ctx, &address),
        Bind::Refuse(why) => return refuse(why),
    }
    go_on()
}
