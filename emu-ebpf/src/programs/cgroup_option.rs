//! `emu_setsockopt`: socket options of vnodes' processes that assume another network.
use aya_ebpf::{macros::cgroup_sockopt, programs::SockoptContext};
use emu_common::model::identity::{self, ENOPROTOOPT, OptionAction, SocketEvent};

use crate::{identity as who, maps, option, sockaddr};

/// setsockopt(2).
#[cgroup_sockopt(setsockopt)]
pub fn emu_setsockopt(ctx: SockoptContext) -> i32 {
    let (level, name) = option::asked(&ctx);
    match identity::option(level, name) {
        OptionAction::Apply => option::apply(&ctx),
        OptionAction::RecordV6Only => {
            if let Some(number) = option::number(&ctx) {
                maps::set_v6_only(option::socket(&ctx), number != 0);
            }
            option::apply(&ctx)
        }
        _ if who::of_task().is_none() => option::apply(&ctx),
        OptionAction::Ignore => {
            maps::count_event(SocketEvent::DeviceIgnored);
            option::ignore(&ctx)
        }
        OptionAction::Refuse => {
            maps::count_event(SocketEvent::SegmentationRefused);
            sockaddr::fail(ENOPROTOOPT)
        }
    }
}
