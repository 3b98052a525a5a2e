//! `emu_bind4`, `emu_bind6`: sockets are bound to the vnode's address or not at
//! all.
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use emu_common::model::identity::{self, Action};

use crate::{
    identity as who,
    sockaddr::{Family, V4, V6, go_on, refuse},
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
    let Some(vnode) = who::of_task() else {
        return go_on();
    };
    match identity::bind(&vnode, &F::given(ctx)) {
        Action::Keep => {}
        Action::Assign | Action::ToSelf => F::give(ctx, &vnode),
        Action::Refuse(why) => return refuse(why),
    }
    go_on()
}
