//! Queueing disciplines and filters: `fq`, `clsact`, the eBPF filters and the
//! redirect to the ifb device.
use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
};

use emu_common::names;
use emu_model::plan::FqPlan;
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla, Parseable,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption},
};

use super::netlink::{Netlink, NetlinkError, Request};

/// Major handle of emu's root qdisc, which distinguishes it from the user's.
pub const FQ_HANDLE_MAJOR: u16 = 0xe30;
/// Largest delay of fq's timer, in nanoseconds.
const TIMER_SLACK_NS: u32 = 1_000;
/// Handle of emu's filters, so that only these are deleted.
const FILTER_HANDLE: TcHandle = TcHandle {
    major: 0,
    minor: 0xe30,
};

const CLSACT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};
/// Parents of filters in the two hooks of clsact (`TC_H_MIN_INGRESS`/`_EGRESS`).
const INGRESS_HOOK: u16 = 0xfff2;
const EGRESS_HOOK: u16 = 0xfff3;
const ETH_P_ALL: u16 = 0x0003;

// uapi/linux/rtnetlink.h and pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h
const TCA_OPTIONS: u16 = 2;
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;
const TCA_FQ_PLIMIT: u16 = 1;
const TCA_FQ_FLOW_PLIMIT: u16 = 2;
const TCA_FQ_BUCKETS_LOG: u16 = 8;
const TCA_FQ_ORPHAN_MASK: u16 = 10;
const TCA_FQ_TIMER_SLACK: u16 = 13;
const TCA_FQ_HORIZON: u16 = 14;
const TCA_FQ_HORIZON_DROP: u16 = 15;
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
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Hook of clsact.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// Incoming packets.
    Ingress,
    /// Outgoing packets.
    Egress,
}

/// Place of a filter among those of a hook: before those of the user, which may end the chain.
/// Emu's filters let the chain continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preference {
    First = 1,
    Second = 2,
}

/// Where filters are.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// At an interface.
    Interface {
        index: u32,
        name: &'a str,
        hook: Hook,
    },
    /// At the ports of all machines, which share their filters.
    Ports(Hook),
}

/// Blocks of filters that the ports of a network namespace share, one for each hook.
const INGRESS_BLOCK: u32 = 0xe301;
const EGRESS_BLOCK: u32 = 0xe302;

impl Place<'_> {
    fn message(self, handle: TcHandle, kind: &str) -> TcMessage {
        match self {
            Place::Interface { index, hook, .. } => message(index, hook.parent(), handle, kind),
            Place::Ports(hook) => {
                let block = TcHandle::from(hook.block());
                message(TcHeader::TCM_IFINDEX_MAGIC_BLOCK, block, handle, kind)
            }
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Interface { name, .. } => f.write_str(name),
            Place::Ports(_) => f.write_str("the ports of machines"),
        }
    }
}

impl Hook {
    fn block(self) -> u32 {
        match self {
            Hook::Ingress => INGRESS_BLOCK,
            Hook::Egress => EGRESS_BLOCK,
        }
    }

    fn parent(self) -> TcHandle {
        TcHandle {
            major: 0xffff,
            minor: match self {
                Hook::Ingress => INGRESS_HOOK,
                Hook::Egress => EGRESS_HOOK,
            },
        }
    }
}

fn attributes(list: Vec<DefaultNla>) -> Vec<u8> {
    let mut bytes = vec![0; list.as_slice().buffer_len()];
    list.as_slice().emit(&mut bytes);
    bytes
}

fn nested(kind: u16, list: Vec<DefaultNla>) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, attributes(list))
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn message(index: u32, parent: TcHandle, handle: TcHandle, kind: &str) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index as i32;
    message.header.parent = parent;
    message.header.handle = handle;
    if !kind.is_empty() {
        message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    }
    message
}

/// Makes `fq` the root qdisc of an interface.
pub fn add_fq(index: u32, name: &str, fq: &FqPlan) -> Request {
    Request {
        message: fq_message(index, fq),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        operation: format!("make fq the root qdisc of {name}"),
        tolerate: &[],
    }
}

/// Changes the settings of emu's root qdisc, which keeps its packets.
pub fn change_fq(index: u32, name: &str, fq: &FqPlan) -> Request {
    Request {
        message: fq_message(index, fq),
        flags: 0,
        operation: format!("change fq, the root qdisc of {name}"),
        tolerate: &[],
    }
}

fn fq_message(index: u32, fq: &FqPlan) -> RouteNetlinkMessage {
    let handle = TcHandle {
        major: FQ_HANDLE_MAJOR,
        minor: 0,
    };
    let mut m = message(index, TcHandle::ROOT, handle, "fq");
    m.attributes.push(TcAttribute::Other(nested(
        TCA_OPTIONS,
        vec![
            number(TCA_FQ_PLIMIT, fq.limit_packets),
            number(TCA_FQ_FLOW_PLIMIT, fq.flow_limit_packets),
            number(TCA_FQ_BUCKETS_LOG, fq.buckets.max(1).ilog2()),
            number(TCA_FQ_ORPHAN_MASK, fq.orphan_mask),
            // A round trip passes four timers; the default is 10 us each.
            number(TCA_FQ_TIMER_SLACK, TIMER_SLACK_NS),
            number(TCA_FQ_HORIZON, fq.horizon_us),
            // Beyond the horizon a packet is sent at the horizon, not dropped:
            // only the model drops.
            DefaultNla::new(TCA_FQ_HORIZON_DROP, vec![0]),
        ],
    )));
    RouteNetlinkMessage::NewQueueDiscipline(m)
}

/// Deletes the root qdisc, which gives an interface its default one again.
pub fn delete_root(index: u32, name: &str) -> Request {
    let m = message(index, TcHandle::ROOT, TcHandle::UNSPEC, "");
    Request {
        message: RouteNetlinkMessage::DelQueueDiscipline(m),
        flags: 0,
        operation: format!("delete the root qdisc of {name}"),
        tolerate: &[libc::ENOENT, libc::EINVAL, libc::ENODEV],
    }
}

/// Adds the clsact qdisc that holds filters.
pub fn add_clsact(index: u32, name: &str) -> Request {
    Request {
        message: RouteNetlinkMessage::NewQueueDiscipline(message(
            index,
            TcHandle::INGRESS,
            CLSACT,
            "clsact",
        )),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("add qdisc clsact to {name}"),
        tolerate: &[libc::EEXIST],
    }
}

/// Adds the clsact qdisc of a port, whose filters are those of [`Place::Ports`].
pub fn add_shared_clsact(index: u32, name: &str) -> Request {
    let mut m = message(index, TcHandle::INGRESS, CLSACT, "clsact");
    for (kind, block) in [
        (TCA_INGRESS_BLOCK, INGRESS_BLOCK),
        (TCA_EGRESS_BLOCK, EGRESS_BLOCK),
    ] {
        m.attributes.push(TcAttribute::Other(number(kind, block)));
    }
    Request {
        message: RouteNetlinkMessage::NewQueueDiscipline(m),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        operation: format!("add qdisc clsact to {name}"),
        tolerate: &[libc::EEXIST],
    }
}

/// Deletes the clsact qdisc and all its filters.
pub fn delete_clsact(index: u32, name: &str) -> Request {
    Request {
        message: RouteNetlinkMessage::DelQueueDiscipline(message(
            index,
            TcHandle::INGRESS,
            CLSACT,
            "clsact",
        )),
        flags: 0,
        operation: format!("delete qdisc clsact of {name}"),
        tolerate: &[libc::ENOENT, libc::EINVAL, libc::ENODEV],
    }
}

fn filter(place: Place<'_>, preference: Preference) -> TcMessage {
    let mut m = place.message(FILTER_HANDLE, "bpf");
    m.header.info = (preference as u32) << 16 | u32::from(ETH_P_ALL.to_be());
    m
}

/// Attaches a program whose return value is the verdict.
///
/// Through netlink, not as a TCX link: TCX does not know `TC_ACT_STOLEN`.
pub fn add_direct_filter(
    place: Place<'_>,
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
    place: Place<'_>,
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
    place: Place<'_>,
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
pub fn delete_filter(place: Place<'_>, preference: Preference) -> Request {
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
pub fn filters(netlink: &mut Netlink, place: Place<'_>) -> Result<Vec<Filter>, NetlinkError> {
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

/// A number in the options of a qdisc or a filter.
fn option(message: &TcMessage, kind: u16) -> Option<u32> {
    let options = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Options(options) => Some(&options[..]),
        _ => None,
    })?;
    let bytes = match options {
        // The options of a kind that the library does not know, in one piece.
        [TcOption::Other(nla)] if nla.kind() & NLA_TYPE_MASK == TCA_OPTIONS => {
            let mut bytes = vec![0; nla.value_len()];
            nla.emit_value(&mut bytes);
            bytes
        }
        known => {
            let mut bytes = vec![0; known.buffer_len()];
            known.emit(&mut bytes);
            bytes
        }
    };
    let mut rest = &bytes[..];
    // struct nlattr: length with this header, type; padded to four bytes.
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b])).max(4);
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([c, d]) & NLA_TYPE_MASK == kind {
            return value.try_into().ok().map(u32::from_ne_bytes);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// Whether the limits of emu's fq are those of a plan, or larger.
pub fn is_at_least(fq: &Qdisc, plan: &FqPlan) -> bool {
    let wanted = [
        (TCA_FQ_PLIMIT, plan.limit_packets),
        (TCA_FQ_FLOW_PLIMIT, plan.flow_limit_packets),
        (TCA_FQ_HORIZON, plan.horizon_us),
    ];
    let mut wanted = wanted.into_iter();
    wanted.all(|(kind, least)| option(&fq.message, kind).is_none_or(|now| now >= least))
}

/// A qdisc as the kernel reports it.
#[derive(Debug, Clone)]
pub struct Qdisc {
    pub index: u32,
    /// Kind, for example `fq_codel`.
    pub kind: String,
    /// Where it is attached.
    pub parent: TcHandle,
    /// Its handle; major 0 if the kernel attached it by default.
    pub handle: TcHandle,
    message: TcMessage,
}

/// All qdiscs of the namespace.
pub fn qdiscs(netlink: &mut Netlink) -> Result<Vec<Qdisc>, NetlinkError> {
    let found = netlink.dump(
        RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()),
        "list qdiscs",
    )?;
    let mut list = Vec::new();
    for answer in found {
        let RouteNetlinkMessage::NewQueueDiscipline(message) = answer else {
            continue;
        };
        let kind = message.attributes.iter().find_map(|a| match a {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        });
        list.push(Qdisc {
            index: message.header.index as u32,
            kind: kind.unwrap_or_default(),
            parent: message.header.parent,
            handle: message.header.handle,
            message,
        });
    }
    Ok(list)
}

impl Qdisc {
    /// The kernel's message.
    pub(super) fn message(&self) -> &TcMessage {
        &self.message
    }

    /// Whether the kernel attached it by default, so that deleting emu's qdisc restores it.
    pub fn is_default(&self) -> bool {
        self.handle.major == 0
    }

    /// The message that would create this qdisc again, to be stored.
    pub fn recipe(&self) -> Vec<u8> {
        let mut message = self.message.clone();
        message
            .attributes
            .retain(|a| matches!(a, TcAttribute::Kind(_)) || a.kind() & 0x3fff == TCA_OPTIONS);
        message.header.info = 0;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }
}

/// Creates a root qdisc again from [`Qdisc::recipe`].
///
/// # Errors
/// [`NetlinkError::Answer`] if the recipe is invalid.
pub fn recreate(index: u32, name: &str, recipe: &[u8]) -> Result<Request, NetlinkError> {
    let operation = format!("restore the root qdisc of {name}");
    let mut message = TcMessage::parse(recipe).map_err(|e| NetlinkError::Answer {
        operation: operation.clone(),
        detail: e.to_string(),
    })?;
    message.header.index = index as i32;
    Ok(Request {
        message: RouteNetlinkMessage::NewQueueDiscipline(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        operation,
        tolerate: &[],
    })
}

/// Whether a root qdisc can be restored from its dump: classless kinds, whose dumped options
/// are those that create it.
pub fn is_restorable(kind: &str) -> bool {
    matches!(
        kind,
        "noqueue" | "pfifo_fast" | "pfifo" | "bfifo" | "fq" | "fq_codel" | "cake" | "sfq" | "codel"
    ) || kind == "pie"
}

/// Makes `netem` without impairments the root of an interface, to probe whether the kernel
/// has it.
pub fn add_netem(index: u32, name: &str) -> Request {
    let mut m = message(index, TcHandle::ROOT, TcHandle::UNSPEC, "netem");
    // struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter.
    let options: Vec<u8> = [0u32, 1000, 0, 0, 0, 0]
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect();
    m.attributes
        .push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)));
    Request {
        message: RouteNetlinkMessage::NewQueueDiscipline(m),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        operation: format!("make netem the root qdisc of {name}"),
        tolerate: &[],
    }
}
