//! Names of the programs, maps and pins. The kernel keeps 15 bytes of a name.

/// TC egress program of every interface that carries vnode traffic.
pub const PROG_EGRESS: &str = "emu_egress";
/// TC ingress classifier; its match is redirected to the ifb device.
pub const PROG_INGRESS: &str = "emu_ingress";
/// TC egress program of the ifb device.
pub const PROG_IFB: &str = "emu_ifb";
/// TC ingress program of a machine's port: what the machine sends.
pub const PROG_PORT_IN: &str = "emu_port_in";
/// TC egress program of a machine's port: what vnodes of this network namespace send to it.
pub const PROG_PORT_OUT: &str = "emu_port_out";
/// TC ingress program of every interface that carries vnode traffic: packets for a machine
/// go to its port.
pub const PROG_TO_PORT: &str = "emu_to_port";

/// Hash: address key to [`crate::layout::VnodeRef`].
pub const MAP_VNODES: &str = "EMU_VNODES";
/// Longest-prefix trie: address to group index.
pub const MAP_GROUPS: &str = "EMU_GROUPS";
/// Array: [`crate::layout::PairLink`] of source and destination leaf group.
pub const MAP_PAIRS: &str = "EMU_PAIRS";
/// Array: [`crate::layout::Pipe`], two for each vnode.
pub const MAP_PIPES: &str = "EMU_PIPES";
/// Array: departure times of the last packets of each pipe.
pub const MAP_DEPARTURES: &str = "EMU_DEPARTURES";
/// Array: [`crate::layout::ImpairmentState`], one for each pipe or link with impairments.
pub const MAP_IMPAIRMENTS: &str = "EMU_IMPAIRMENTS";
/// Array: quantiles of the jitter distributions; see
/// [`crate::model::jitter::table_slot`].
pub const MAP_TABLES: &str = "EMU_TABLES";
/// Least-recently-used hash: key of a [`crate::layout::FilterEntry`] to when it was
/// made.
pub const MAP_FILTERS: &str = "EMU_FILTERS";
/// Array: latest due time of flows with jitter, see [`crate::model::order`].
pub const MAP_LATEST: &str = "EMU_LATEST";
/// Per-CPU array: one counter for each [`crate::Reason`].
pub const MAP_REASONS: &str = "EMU_REASONS";

/// Per-CPU array: [`crate::layout::QueueDelayHistogram`], two for each group.
pub const MAP_QUEUE_DELAYS: &str = "EMU_DELAYS";

/// Array: [`crate::layout::Port`] of each vnode that is a machine.
pub const MAP_PORTS: &str = "EMU_PORTS";

/// Array: [`crate::layout::Row`] of all schedules; pipes with the same trace share them.
pub const MAP_ROWS: &str = "EMU_ROWS";

/// Array: [`crate::layout::Schedule`] of each pipe.
pub const MAP_SCHEDULES: &str = "EMU_SCHEDULES";

/// The maps of the TC programs, in the order in which they are pinned.
pub const MAPS: [&str; 14] = [
    MAP_VNODES,
    MAP_GROUPS,
    MAP_PAIRS,
    MAP_PIPES,
    MAP_DEPARTURES,
    MAP_IMPAIRMENTS,
    MAP_TABLES,
    MAP_FILTERS,
    MAP_LATEST,
    MAP_REASONS,
    MAP_QUEUE_DELAYS,
    MAP_PORTS,
    MAP_ROWS,
    MAP_SCHEDULES,
];
/// All TC programs.
pub const PROGS: [&str; 6] = [
    PROG_EGRESS,
    PROG_INGRESS,
    PROG_IFB,
    PROG_PORT_IN,
    PROG_PORT_OUT,
    PROG_TO_PORT,
];

/// The TC programs that a topology with these [`crate::layout::feature`]s needs.
pub fn programs(features: u32) -> &'static [&'static str] {
    let basic = PROGS.len() - 3;
    if features & crate::layout::feature::MACHINES != 0 {
        &PROGS
    } else {
        &PROGS[..basic]
    }
}

/// Cgroup programs that give the processes of a vnode its address.
pub const PROGS_IDENTITY: [&str; 16] = [
    "emu_socket",
    "emu_bind4",
    "emu_bind6",
    "emu_connect4",
    "emu_connect6",
    "emu_sendmsg4",
    "emu_sendmsg6",
    "emu_recvmsg4",
    "emu_recvmsg6",
    "emu_sockname4",
    "emu_sockname6",
    "emu_peername4",
    "emu_peername6",
    "emu_guard",
    "emu_guard_in",
    "emu_setsockopt",
];
/// Hash: cgroup identifier to the [`crate::layout::Identity`] of its vnode.
pub const MAP_IDENTITY: &str = "EMU_IDENTITY";
/// Least-recently-used hash: cookie of a socket to the [`crate::layout::Identity`] of the vnode
/// whose process made it.
///
/// Not the storage of sockets: User-Mode Linux from about 6.18 on cannot allocate it in a hook.
pub const MAP_SOCKETS: &str = "EMU_SOCKETS";
/// Least-recently-used hash: address in the kernel of each socket with `IPV6_V6ONLY`.
pub const MAP_V6_ONLY: &str = "EMU_V6_ONLY";
/// Per-CPU array: one counter for each [`crate::model::identity::SocketEvent`].
pub const MAP_EVENTS: &str = "EMU_EVENTS";

/// Read-only global of the object: 0 makes the egress program treat every
/// packet as already free of its socket. Only unit tests of the bytecode set it.
pub const GLOBAL_ORPHAN: &str = "EMU_ORPHAN";

/// Read-only global of the object: which of [`crate::layout::feature`] the
/// topology uses. The verifier removes the code of all others.
pub const GLOBAL_FEATURES: &str = "EMU_FEATURES";

/// Read-only global of the object: slots of [`MAP_LATEST`] less one.
pub const GLOBAL_LATEST_MASK: &str = "EMU_LATEST_MASK";

/// Read-only global of the object: one-way latency of the network between the hosts in
/// nanoseconds, which is deducted from the latency of packets that leave this host.
pub const GLOBAL_HOST_LATENCY: &str = "EMU_HOST_LATENCY_NS";

/// Read-only global of the object: index of the interface to the other hosts; 0 if there is
/// no other host.
pub const GLOBAL_UPLINK: &str = "EMU_UPLINK";

/// Name of the device that carries arriving packets to their down pipe.
pub const IFB: &str = "emu-ifb0";

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> impl Iterator<Item = &'static str> {
        let identity = [MAP_IDENTITY, MAP_SOCKETS, MAP_V6_ONLY, MAP_EVENTS];
        MAPS.into_iter()
            .chain(PROGS)
            .chain(PROGS_IDENTITY)
            .chain(identity)
    }

    #[test]
    fn names_fit_the_kernel() {
        for name in objects().chain([IFB]) {
            assert!(name.len() <= 15, "{name} is longer than 15 bytes");
        }
        for name in objects() {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.'),
                "{name} has a character that BPF object names do not allow"
            );
        }
    }
}
