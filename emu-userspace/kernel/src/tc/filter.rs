//! Filters: the BPF programs, and the redirect to the ifb device.
use std::os::fd::{AsRawFd, BorrowedFd};

use emu_common::names;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::{Hook, HookPlace, Preference, TCA_OPTIONS, message, nested, number, option, text};
use crate::netlink::{Netlink, NetlinkError, Request};

/// Handle of emu's filters, so that only these are deleted.
const FILTER_HANDLE: TcHandle = TcHandle {
    major: 0,
    minor: 0xe30,
};

const ETH_P_ALL: u16 = 0x0003;

// uapi/linux/pkt_cls.h and tc_act/tc_mirred.h
const TCA_BPF_ACT: u16 = 1;
const TCA_BPF_CLASSID: u16 = 3;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;

fn filter(place: HookPlace<'_>, preference: Preference) -> TcMessage {
    let mut m = place.message(FILTER_HANDLE, "bpf");
    m.header.info = (preference as u32) << 16 | u32::from(ETH_P_ALL.to_be());
    m
}

/// Attaches a program whose return value is the verdict.
///
/// Through netlink, not as a TCX link: TCX does not know `TC_ACT_STOLEN`.
pub fn add_direct_filter(
    place: HookPlace<'_>,
    preference: Preference,
    program: BorrowedFd<'_>,
    program_name: &str,
) -> Request {
    let mut m = filter(place, preference);
    m.attributes.push(TcAttribute::Other(nested(
        TCA_OPTIONS,
        vec![
            number(TCA_BPF_FD, program.as_raw_fd() as u32),
            text(TCA_BPF_NAME, program_name),
            number(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
        ],
    )));
    Request {
        message: RouteNetlinkMessage::NewTrafficFilter(m),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("attach {program_name} to {place}"),
        tolerate: &[],
    }
}

/// Attaches a program as a classifier whose match is redirected to the egress
/// of `target`.
pub fn add_redirect_filter(
    place: HookPlace<'_>,
    preference: Preference,
    program: BorrowedFd<'_>,
    program_name: &str,
    target: u32,
) -> Request {
    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
    let parms: Vec<u8> = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target]
        .iter()
        .flat_map(|field: &u32| field.to_ne_bytes())
        .collect();
    let action = nested(
        1,
        vec![
            text(TCA_ACT_KIND, "mirred"),
            nested(
                TCA_ACT_OPTIONS,
                vec![DefaultNla::new(TCA_MIRRED_PARMS, parms)],
            ),
        ],
    );
    let mut m = filter(place, preference);
    m.attributes.push(TcAttribute::Other(nested(
        TCA_OPTIONS,
        vec![
            nested(TCA_BPF_ACT, vec![action]),
            number(TCA_BPF_CLASSID, 1),
            number(TCA_BPF_FD, program.as_raw_fd() as u32),
            text(TCA_BPF_NAME, program_name),
        ],
    )));
    Request {
        message: RouteNetlinkMessage::NewTrafficFilter(m),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("attach {program_name} to {place}"),
        tolerate: &[],
    }
}

/// Attaches one of emu's programs, and names the kernel module that this needs: the match of
/// [`names::PROG_INGRESS`] is redirected to the interface `ifb`, the return value of the other
/// programs is the verdict.
pub fn add_program(
    place: HookPlace<'_>,
    preference: Preference,
    program: BorrowedFd<'_>,
    name: &str,
    ifb: u32,
) -> (Request, &'static str) {
    if name == names::PROG_INGRESS {
        let request = add_redirect_filter(place, preference, program, name, ifb);
        (request, "act_mirred")
    } else {
        let request = add_direct_filter(place, preference, program, name);
        (request, "cls_bpf")
    }
}

/// Deletes emu's filter from a hook.
pub fn delete_filter(place: HookPlace<'_>, preference: Preference) -> Request {
    Request {
        message: RouteNetlinkMessage::DelTrafficFilter(filter(place, preference)),
        flags: 0,
        operation: format!("delete the emu filter of {place}"),
        tolerate: &[libc::ENOENT, libc::EINVAL, libc::ENODEV],
    }
}

/// Whether any filter is attached to either hook of an interface.
pub fn has_filters(netlink: &mut Netlink, index: u32) -> Result<bool, NetlinkError> {
    for hook in [Hook::Ingress, Hook::Egress] {
        let query = message(index, hook.parent(), TcHandle::UNSPEC, "");
        let found = netlink.dump(RouteNetlinkMessage::GetTrafficFilter(query), "list filters")?;
        if !found.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A filter in a hook of clsact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// Its place among the filters of the hook.
    pub preference: Preference,
    /// Whether it has emu's handle.
    pub is_ours: bool,
    /// Identifier of its BPF program, if it has one.
    pub program_id: Option<u32>,
}

/// The filters in a hook of an interface that has a clsact qdisc.
pub fn filters(netlink: &mut Netlink, place: HookPlace<'_>) -> Result<Vec<Filter>, NetlinkError> {
    let query = place.message(TcHandle::UNSPEC, "");
    let found = netlink.dump(RouteNetlinkMessage::GetTrafficFilter(query), "list filters")?;
    let filter = |answer: RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewTrafficFilter(message) = answer else {
            return None;
        };
        // The head of a dump of filters has no handle.
        (message.header.handle != TcHandle::UNSPEC).then(|| Filter {
            preference: match message.header.info >> 16 {
                2 => Preference::Second,
                _ => Preference::First,
            },
            is_ours: message.header.handle == FILTER_HANDLE,
            program_id: option(&message, TCA_BPF_ID),
        })
    };
    Ok(found.into_iter().filter_map(filter).collect())
}
