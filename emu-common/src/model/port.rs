//! The access router of a machine: addresses of frames, and which packets it answers.
use crate::layout::AddrKey;

/// Hardware address of both ends of the link of a machine: locally administered, and as unique
/// as the vnode's index.
#[inline(always)]
pub const fn mac(vnode: u32) -> [u8; 6] {
    let [_, high, middle, low] = vnode.to_be_bytes();
    [0x02, b'e', b'm', high, middle, low]
}

/// Whether an address is that of a group of receivers: multicast of either family, or the
/// broadcast address of IPv4.
#[inline(always)]
pub const fn is_multicast(address: &AddrKey) -> bool {
    let o = &address.octets;
    if o[0] == 0xff {
        return true;
    }
    let is_v4 = o[10] == 0xff && o[11] == 0xff && o[0] == 0 && o[1] == 0;
    let is_broadcast = o[12] == 0xff && o[13] == 0xff && o[14] == 0xff && o[15] == 0xff;
    is_v4 && (o[12] >> 4 == 0xe || is_broadcast)
}

/// Whether a router answers a packet with an ICMP error instead of forwarding it: the hop
/// limit is reached (RFC 1812, section 5.3.1; RFC 4443, section 3.3), or the packet is larger
/// than the MTU of the line behind it (RFC 1191; RFC 4443, section 3.2).
#[inline(always)]
pub const fn needs_router(hops: u8, ip_bytes: u32, mtu_bytes: u32) -> bool {
    hops <= 1 || ip_bytes > mtu_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_machine_has_a_unicast_address_of_its_own() {
        assert_eq!(mac(0), [2, 0x65, 0x6d, 0, 0, 0]);
        assert_eq!(mac(0x01_0203), [2, 0x65, 0x6d, 1, 2, 3]);
        for vnode in [0, 1, 255, 256, 65_535] {
            assert_eq!(mac(vnode)[0] & 3, 2, "{vnode}");
            assert_ne!(mac(vnode), mac(vnode + 1));
        }
    }

    #[test]
    fn groups_of_receivers() {
        let v4 = |octets| is_multicast(&AddrKey::from_v4(octets));
        for octets in [[224, 0, 0, 251], [239, 255, 255, 250], [255; 4]] {
            assert!(v4(octets), "{octets:?}");
        }
        for octets in [
            [10, 1, 0, 1],
            [223, 255, 255, 255],
            [240, 0, 0, 1],
            [255, 255, 255, 254],
        ] {
            assert!(!v4(octets), "{octets:?}");
        }
        let v6 = |first, last| {
            let mut octets = [0; 16];
            (octets[0], octets[15]) = (first, last);
            is_multicast(&AddrKey::from_v6(octets))
        };
        assert!(v6(0xff, 1));
        assert!(!v6(0xfe, 1) && !v6(0xfd, 0xff) && !v6(0, 1));
    }

    #[test]
    fn what_a_router_answers() {
        assert!(needs_router(0, 84, 1500) && needs_router(1, 84, 1500));
        assert!(!needs_router(2, 84, 1500) && !needs_router(64, 1500, 1500));
        assert!(needs_router(64, 1501, 1500));
    }
}
