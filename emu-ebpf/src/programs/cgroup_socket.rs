//! `emu_socket`: a new socket belongs to the vnode of the process that makes it.
use aya_ebpf::{macros::cgroup_sock, programs::SockContext};

use crate::{identity as who, sockaddr::go_on};

/// socket(2) of an IP family.
#[cgroup_sock(sock_create)]
pub fn emu_socket(ctx: SockContext) -> i32 {
    if let Some(own) = who::of_task() {
        who::record(&ctx, &own);
    }
    go_on()
}
