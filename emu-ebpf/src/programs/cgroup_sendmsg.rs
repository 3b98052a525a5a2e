//! `emu_sendmsg4`, `emu_sendmsg6`: datagrams of a socket without an address
//! leave from the vnode's.
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use emu_common::model::identity::{self, Speech};

use crate::{
    identity as who,
    sockaddr::{Family, V4, V6, go_on, refuse},
};

/// sendto(2) of an unconnected socket to an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
pub fn emu_sendmsg4(ctx: SockAddrContext) -> i32 {
    send::<V4>(&ctx)
}

/// sendto(2) of an unconnected socket to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
pub fn emu_sendmsg6(ctx: SockAddrContext) -> i32 {
    send::<V6>(&ctx)
}

#[inline(always)]
fn send<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(own) = who::of_call(ctx) else {
        return go_on();
    };
    match identity::speak(&own, &F::source(ctx), &F::given(ctx)) {
        Speech::Go { to, from } => {
            F::give(ctx, &to);
            F::set_source(ctx, &from);
        }
        Speech::Refuse(why) => return refuse(why),
    }
    go_on()
}
