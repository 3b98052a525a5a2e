//! `emu_connect4`, `emu_connect6`: a socket that connects without an address
//! gets the vnode's.
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use emu_common::model::identity::{self, Refusal, Speech};

use crate::{
    identity as who,
    sockaddr::{Family, V4, V6, go_on, refuse},
};

/// connect(2) to an IPv4 address.
#[cgroup_sock_addr(connect4)]
pub fn emu_connect4(ctx: SockAddrContext) -> i32 {
    connect::<V4>(&ctx)
}

/// connect(2) to an IPv6 address, which may be a mapped IPv4 one.
#[cgroup_sock_addr(connect6)]
pub fn emu_connect6(ctx: SockAddrContext) -> i32 {
    connect::<V6>(&ctx)
}

#[inline(always)]
fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(own) = who::of_call(ctx) else {
        return go_on();
    };
    let Some(source) = F::bound(ctx) else {
        return go_on();
    };
    let (to, from) = match identity::speak(&own, &source, &F::given(ctx)) {
        Speech::Go { to, from } => (to, from),
        Speech::Refuse(why) => return refuse(why),
    };
    F::give(ctx, &to);
    // A socket that sent datagrams before has a port of every address, which
    // cannot become a port of one.
    let is_new = identity::is_wildcard(&source) && !identity::is_wildcard(&from);
    if is_new && !F::bind(ctx, &from) {
        return refuse(Refusal::NotOurs);
    }
    go_on()
}
