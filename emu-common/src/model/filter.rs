//! Filtering of unsolicited packets as NATs and firewalls do it (RFC 4787,
//! section 5): which traffic a vnode's own packets open it for.

/// Everything comes in.
pub const OPEN: u32 = 0;
/// A packet sent from a port opens the port for everybody.
pub const ENDPOINT_INDEPENDENT: u32 = 1;
/// It opens the port for the address it was sent to.
pub const ADDRESS_DEPENDENT: u32 = 2;
/// It opens the port for the address and port it was sent to.
pub const ADDRESS_AND_PORT_DEPENDENT: u32 = 3;

/// Whether the remote address is a part of what is opened.
#[inline(always)]
pub const fn keeps_address(class: u32) -> bool {
    class >= ADDRESS_DEPENDENT
}

/// Whether the remote port is a part of what is opened.
#[inline(always)]
pub const fn keeps_port(class: u32) -> bool {
    class >= ADDRESS_AND_PORT_DEPENDENT
}

/// Whether an opening made at `opened_ns` still holds. Only packets that the
/// vnode sends renew it (RFC 4787 REQ-6: outbound refresh).
#[inline(always)]
pub const fn is_open(opened_ns: u64, now_ns: u64, timeout_ns: u64) -> bool {
    now_ns.saturating_sub(opened_ns) <= timeout_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_keep_more_and_more() {
        let kept = |class| (keeps_address(class), keeps_port(class));
        assert_eq!(kept(ENDPOINT_INDEPENDENT), (false, false));
        assert_eq!(kept(ADDRESS_DEPENDENT), (true, false));
        assert_eq!(kept(ADDRESS_AND_PORT_DEPENDENT), (true, true));
    }

    #[test]
    fn openings_close() {
        assert!(is_open(10, 110, 100) && !is_open(10, 111, 100));
        // Another CPU's clock may be ahead by a little.
        assert!(is_open(200, 100, 10));
    }
}
