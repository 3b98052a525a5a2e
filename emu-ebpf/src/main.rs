//! The TC and cgroup programs of the emulator.
//!
//! `emu_egress` delays what a vnode sends, `emu_ingress` picks what arrives for
//! a vnode, `emu_ifb` delays that. The programs parse, look up, call
//! `emu_common::model` and store; they hold no arithmetic of their own. The only
//! bytes of a packet that they change are those of a corruption or an ECN mark.
//!
//! `emu_bind4` and the other hooks of cgroups give the sockets of a vnode's processes its address;
//! `emu_guard` drops what would leave from another, `emu_guard_in` what would arrive for another;
//! `emu_socket` records the vnode that made a socket; `emu_sockname4`
//! and similar programs tell a vnode's own loopback as 127.0.0.1; `emu_setsockopt` answers socket options
//! that assume another network.
//!
//! # Minimum kernel version
//! 5.18, for `bpf_skb_set_tstamp` (kernel commit 8d21ec0e46ed); the cgroup
//! programs 6.1 (see sockaddr.rs).
#![cfg_attr(
    target_arch = "bpf",
    no_std,
    no_main,
    feature(core_intrinsics),
    expect(internal_features, reason = "atomics: see atomic.rs")
)]

#[cfg(target_arch = "bpf")]
mod aqm;
#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod clock;
#[cfg(target_arch = "bpf")]
mod filter;
#[cfg(target_arch = "bpf")]
mod identity;
#[cfg(target_arch = "bpf")]
mod impair;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod option;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod pipe;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod schedule;
#[cfg(target_arch = "bpf")]
mod sockaddr;

/// The kernel checks this before it gives a program the GPL helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a program that can reach this, so none does.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    // Built for the host only by tools that check the whole workspace.
}
