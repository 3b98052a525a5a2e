//! `emu_ingress`: picks the packets that arrive for a vnode.
use aya_ebpf::{macros::classifier, programs::TcContext};
use emu_common::{layout::feature, reason::Reason};

use crate::{maps, packet};

/// Class match of a `cls_bpf` filter without direct action.
const MATCH: i32 = -1;
const NO_MATCH: i32 = 0;

/// TC ingress of every interface that carries vnode traffic.
///
/// Also TC egress of the ports of machines, behind [`super::tc_port::emu_port_out`].
///
/// Attached as a classifier whose match runs a `mirred` redirect to the ifb
/// device: `bpf_redirect` to an ifb loses the packet before kernel 6.6.
#[classifier]
pub fn emu_ingress(ctx: TcContext) -> i32 {
    match try_ingress(&ctx) {
        Ok(reason) => {
            maps::count(reason);
            MATCH
        }
        Err(reason) => {
            maps::count(reason);
            NO_MATCH
        }
    }
}

#[inline(always)]
fn try_ingress(ctx: &TcContext) -> Result<Reason, Reason> {
    let packet = packet::parse(ctx)?;
    let vnode = maps::vnode(&packet.destination).ok_or(Reason::NotVnode)?;
    if packet.source == packet.destination {
        return Err(Reason::ToSelf);
    }
    // The down pipe of a machine is at its port, where this program is at egress.
    if maps::features() & feature::MACHINES != 0
        && let Some(port) = maps::port(vnode.index)
        && port.interface != packet::interface(ctx)
    {
        return Err(Reason::ToPort);
    }
    Ok(Reason::ToDownPipe)
}
