//! Queueing disciplines: `fq`, `clsact`, and those that an interface had before.
use emu_model::plan::FqPlan;
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla, Parseable,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::{EGRESS_BLOCK, INGRESS_BLOCK, TCA_OPTIONS, message, nested, number, option};
use crate::netlink::{Netlink, NetlinkError, Request};

/// Major handle of emu's root qdisc, which distinguishes it from the user's.
pub const FQ_HANDLE_MAJOR: u16 = 0xe30;
/// Largest delay of fq's timer, in nanoseconds.
const TIMER_SLACK_NS: u32 = 1_000;
const CLSACT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};

// uapi/linux/rtnetlink.h and pkt_sched.h
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;
const TCA_FQ_PLIMIT: u16 = 1;
const TCA_FQ_FLOW_PLIMIT: u16 = 2;
const TCA_FQ_BUCKETS_LOG: u16 = 8;
const TCA_FQ_ORPHAN_MASK: u16 = 10;
const TCA_FQ_TIMER_SLACK: u16 = 13;
const TCA_FQ_HORIZON: u16 = 14;
const TCA_FQ_HORIZON_DROP: u16 = 15;

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

/// Adds the clsact qdisc of a port, whose filters are those of [`HookPlace::Ports`].
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
    pub(crate) fn message(&self) -> &TcMessage {
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
