//! Socket options that assume a network other than a vnode's.

/// `SOL_SOCKET` and `SOL_UDP` (uapi asm-generic/socket.h, linux/socket.h); on every
/// architecture but MIPS, SPARC, Alpha and PA-RISC.
const SOL_SOCKET: i32 = 1;
const SOL_UDP: i32 = 17;
/// `SO_BINDTODEVICE` and `SO_BINDTOIFINDEX` (uapi asm-generic/socket.h).
const SO_BINDTODEVICE: i32 = 25;
const SO_BINDTOIFINDEX: i32 = 62;
/// `UDP_SEGMENT` (uapi linux/udp.h).
const UDP_SEGMENT: i32 = 103;

/// `SOL_IPV6` (linux/socket.h) and `IPV6_V6ONLY` (uapi linux/in6.h).
const SOL_IPV6: i32 = 41;
const IPV6_V6ONLY: i32 = 26;

/// What happens to a call of setsockopt(2) by a vnode's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionAction {
    /// The kernel handles it.
    Apply,
    /// The call succeeds and has no effect.
    ///
    /// Programs that look up the interface of their address find `lo`, and a socket that is
    /// bound to `lo` reaches no vnode of another host: libtorrent does this.
    Ignore,
    /// The kernel handles it, and the hook of bind needs to know it: no hook can read it.
    RecordV6Only,
    /// The call fails as on a kernel without the option.
    ///
    /// A datagram of many segments would be charged, queued and dropped as one packet. QUIC
    /// libraries that find no segmentation offload send packets one by one.
    Refuse,
}

/// `ENOPROTOOPT`, the answer of a kernel that does not know an option.
pub const ENOPROTOOPT: i32 = 92;

/// What happens to the option `name` of `level`.
#[inline(always)]
pub const fn option(level: i32, name: i32) -> OptionAction {
    match (level, name) {
        (SOL_SOCKET, SO_BINDTODEVICE | SO_BINDTOIFINDEX) => OptionAction::Ignore,
        (SOL_UDP, UDP_SEGMENT) => OptionAction::Refuse,
        (SOL_IPV6, IPV6_V6ONLY) => OptionAction::RecordV6Only,
        _ => OptionAction::Apply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_options_are_special() {
        for (level, name, action) in [
            (1, 25, OptionAction::Ignore),
            (1, 62, OptionAction::Ignore),
            (17, 103, OptionAction::Refuse),
            (41, 26, OptionAction::RecordV6Only),
            // SO_REUSEADDR, UDP_GRO, TCP_NODELAY, IP_TOS.
            (1, 2, OptionAction::Apply),
            (17, 104, OptionAction::Apply),
            (6, 1, OptionAction::Apply),
            (0, 1, OptionAction::Apply),
        ] {
            assert_eq!(option(level, name), action, "{level} {name}");
        }
    }
}
