//! Why a packet was passed, delayed or dropped. One per-CPU counter each.

/// What happened to a packet in one of the programs.
///
/// Only [`Reason::drops`] reasons lose a packet; everything unknown passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// Not an IP packet (ARP, …): passed untouched.
    NotIp = 0,
    /// Too short for its headers: passed untouched.
    Truncated = 1,
    /// Source (egress) or destination (ingress) is no local vnode: passed untouched.
    NotVnode = 2,
    /// A vnode talking to itself: its own loopback, passed untouched.
    ToSelf = 3,
    /// First pass of a packet with a socket: replaced by a clone without one.
    Orphaned = 4,
    /// The kernel could not clone the packet: lost, as on a full queue.
    CloneFailed = 5,
    /// Delayed by an up pipe.
    ShapedUp = 6,
    /// Delayed by a down pipe.
    ShapedDown = 7,
    /// Matched at ingress, sent to the down pipe.
    ToDownPipe = 8,
    /// Dropped: the pipe already holds its limit of packets.
    QueuePackets = 9,
    /// Dropped: the pipe's limit in bytes or time would be exceeded.
    QueueBytes = 10,
    /// An address was found but its pipe was not: passed untouched.
    NoPipe = 11,
    /// Other CPUs changed the pipe's clock at every attempt: sent on the last
    /// clock seen.
    Contended = 12,
    /// Dropped: a loss of the link.
    Loss = 13,
    /// Dropped: the queue's active management.
    Aqm = 14,
    /// Dropped: the two groups cannot reach each other.
    Partitioned = 15,
    /// Dropped: the vnode is down.
    Down = 16,
    /// Dropped: unsolicited, and the vnode's filter is closed.
    Filtered = 17,
    /// Dropped: the queue in front of the capacity between two groups is full.
    CoreQueue = 18,
    /// Sent twice, as the link duplicates.
    Duplicated = 19,
    /// One bit was changed.
    Corrupted = 20,
    /// Congestion was marked instead of a drop (ECN).
    Marked = 21,
    /// Dropped: the active management of the queue in front of the capacity between
    /// two groups.
    CoreAqm = 22,
    /// Arrived for a machine: sent to its port.
    ToPort = 23,
    /// Sent by a vnode of this network namespace to a machine: sent to its up pipe.
    FromPort = 24,
    /// Passed to the router, which answers with an ICMP error: the hop limit is reached, or
    /// the packet is larger than the MTU of the machine's line.
    ToRouter = 25,
    /// Dropped: a machine sent it from an address that is not its own.
    Spoofed = 26,
    /// Dropped: a machine sent it to an address that is no vnode.
    Outside = 27,
    /// Dropped: a machine sent it to a group of receivers.
    Multicast = 28,
    /// Dropped: a machine sent it, and it is not an IP packet.
    Foreign = 29,
}

impl Reason {
    /// Number of reasons, the size of the counter array.
    pub const COUNT: u32 = 30;

    /// All reasons in index order.
    pub const ALL: [Reason; Self::COUNT as usize] = [
        Reason::NotIp,
        Reason::Truncated,
        Reason::NotVnode,
        Reason::ToSelf,
        Reason::Orphaned,
        Reason::CloneFailed,
        Reason::ShapedUp,
        Reason::ShapedDown,
        Reason::ToDownPipe,
        Reason::QueuePackets,
        Reason::QueueBytes,
        Reason::NoPipe,
        Reason::Contended,
        Reason::Loss,
        Reason::Aqm,
        Reason::Partitioned,
        Reason::Down,
        Reason::Filtered,
        Reason::CoreQueue,
        Reason::Duplicated,
        Reason::Corrupted,
        Reason::Marked,
        Reason::CoreAqm,
        Reason::ToPort,
        Reason::FromPort,
        Reason::ToRouter,
        Reason::Spoofed,
        Reason::Outside,
        Reason::Multicast,
        Reason::Foreign,
    ];

    /// Stable name for tables, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::NotIp => "not_ip",
            Reason::Truncated => "truncated",
            Reason::NotVnode => "not_vnode",
            Reason::ToSelf => "to_self",
            Reason::Orphaned => "orphaned",
            Reason::CloneFailed => "clone_failed",
            Reason::ShapedUp => "shaped_up",
            Reason::ShapedDown => "shaped_down",
            Reason::ToDownPipe => "to_down_pipe",
            Reason::QueuePackets => "queue_packets",
            Reason::QueueBytes => "queue_bytes",
            Reason::NoPipe => "no_pipe",
            Reason::Contended => "contended",
            Reason::Loss => "loss",
            Reason::Aqm => "aqm",
            Reason::Partitioned => "partitioned",
            Reason::Down => "down",
            Reason::Filtered => "filtered",
            Reason::CoreQueue => "core_queue",
            Reason::Duplicated => "duplicated",
            Reason::Corrupted => "corrupted",
            Reason::Marked => "marked",
            Reason::CoreAqm => "core_aqm",
            Reason::ToPort => "to_port",
            Reason::FromPort => "from_port",
            Reason::ToRouter => "to_router",
            Reason::Spoofed => "spoofed",
            Reason::Outside => "outside",
            Reason::Multicast => "multicast",
            Reason::Foreign => "foreign",
        }
    }

    /// Whether the packet is lost, as the emulated network would lose it.
    pub const fn drops(self) -> bool {
        // Without a wildcard: a new reason has to say.
        match self {
            Reason::CloneFailed
            | Reason::QueuePackets
            | Reason::QueueBytes
            | Reason::Loss
            | Reason::Aqm
            | Reason::Partitioned
            | Reason::Down
            | Reason::Filtered
            | Reason::CoreQueue
            | Reason::CoreAqm
            | Reason::Spoofed
            | Reason::Outside
            | Reason::Multicast
            | Reason::Foreign => true,
            Reason::NotIp
            | Reason::Truncated
            | Reason::NotVnode
            | Reason::ToSelf
            | Reason::Orphaned
            | Reason::ShapedUp
            | Reason::ShapedDown
            | Reason::ToDownPipe
            | Reason::NoPipe
            | Reason::Contended
            | Reason::Duplicated
            | Reason::Corrupted
            | Reason::Marked
            | Reason::ToPort
            | Reason::FromPort
            | Reason::ToRouter => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_order_and_unique_names() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            for other in &Reason::ALL[i + 1..] {
                assert_ne!(reason.name(), other.name());
            }
        }
    }
}
