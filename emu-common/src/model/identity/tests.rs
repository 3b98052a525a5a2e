//! The semantics table of docs/exec.md, row by row.
use std::net::IpAddr;

use proptest::prelude::*;

use super::{Action::*, Refusal::*, *};
use crate::layout::AddrKey;

fn address(text: &str) -> SocketAddress {
    SocketAddress::from_key(match text.parse().unwrap() {
        IpAddr::V4(a) => AddrKey::from_v4(a.octets()),
        IpAddr::V6(a) => AddrKey::from_v6(a.octets()),
    })
}

const V4: &str = "10.1.0.1";
const V6: &str = "fd10::1";

#[test]
fn words_are_the_octets_of_the_key() {
    let word = u32::from_ne_bytes([10, 1, 0, 1]);
    assert_eq!(SocketAddress::from_v4(word), address(V4));
    assert_eq!(address("::ffff:10.1.0.1"), address(V4));
    assert_eq!(SocketAddress::from_v6(address(V6).words), address(V6));
}

#[test]
fn binds() {
    for (vnode, wanted, action) in [
        (V4, "0.0.0.0", Assign),
        (V4, "::", Assign),
        (V4, "::ffff:0.0.0.0", Assign),
        (V4, "10.1.0.1", Keep),
        (V4, "::ffff:10.1.0.1", Keep),
        (V4, "10.1.0.2", Refuse(NotOurs)),
        (V4, "192.0.2.1", Refuse(NotOurs)),
        (V4, "fd10::1", Refuse(NotOurs)),
        (V4, "255.255.255.255", Refuse(NotOurs)),
        (V4, "127.0.0.1", Keep),
        (V4, "127.77.0.1", Keep),
        (V4, "::ffff:127.0.0.1", Keep),
        (V4, "::1", Keep),
        (V4, "239.1.2.3", Keep),
        (V4, "ff02::1", Keep),
        (V6, "::", Assign),
        (V6, "fd10::1", Keep),
        (V6, "fd10::2", Refuse(NotOurs)),
        (V6, "fe80::1", Refuse(NotOurs)),
        (V6, "0.0.0.0", Refuse(NotOurs)),
        (V6, "10.1.0.1", Refuse(NotOurs)),
        (V6, "127.0.0.1", Keep),
        (V6, "::1", Keep),
    ] {
        assert_eq!(
            bind(&address(vnode), &address(wanted)),
            action,
            "{wanted} in {vnode}"
        );
    }
}

#[test]
fn connects_and_datagrams() {
    for (vnode, source, destination, action) in [
        (V4, "0.0.0.0", "10.1.0.2", Assign),
        (V4, "::", "::ffff:10.1.0.2", Assign),
        (V4, "0.0.0.0", "10.1.0.1", Assign),
        (V4, "0.0.0.0", "239.1.2.3", Assign),
        (V4, "0.0.0.0", "127.0.0.1", Keep),
        (V4, "::", "::1", Keep),
        (V4, "0.0.0.0", "0.0.0.0", ToSelf),
        (V4, "::", "::", Keep),
        (V4, "::", "fd10::1", Refuse(NoRoute)),
        (V4, "10.1.0.1", "10.1.0.2", Keep),
        (V4, "10.1.0.1", "127.0.0.1", Keep),
        (V4, "10.1.0.1", "0.0.0.0", ToSelf),
        (V4, "10.1.0.1", "fd10::1", Refuse(NoRoute)),
        (V4, "127.0.0.1", "127.0.0.2", Keep),
        (V4, "127.0.0.1", "0.0.0.0", Keep),
        (V4, "127.0.0.1", "10.1.0.1", Keep),
        (V4, "127.0.0.1", "10.1.0.2", Refuse(FromLoopback)),
        (V4, "10.1.0.9", "10.1.0.2", Refuse(NotOurs)),
        (V4, "10.1.0.9", "127.0.0.1", Refuse(NotOurs)),
        (V6, "::", "fd10::2", Assign),
        (V6, "::", "::", ToSelf),
        (V6, "::", "::1", Keep),
        (V6, "::", "::ffff:10.1.0.1", Refuse(NoRoute)),
        (V6, "0.0.0.0", "10.1.0.1", Refuse(NoRoute)),
        (V6, "0.0.0.0", "0.0.0.0", Keep),
        (V6, "0.0.0.0", "127.0.0.1", Keep),
        (V6, "fd10::1", "fd10::2", Keep),
        (V6, "::1", "fd10::2", Refuse(FromLoopback)),
        (V6, "fd10::9", "fd10::2", Refuse(NotOurs)),
    ] {
        assert_eq!(
            speak(&address(vnode), &address(source), &address(destination)),
            action,
            "{source} to {destination} in {vnode}"
        );
    }
}

#[test]
fn packets() {
    for (vnode, source, may) in [
        (V4, "10.1.0.1", true),
        (V4, "10.1.0.2", false),
        (V4, "127.0.0.1", true),
        (V4, "::1", true),
        (V4, "0.0.0.0", false),
        (V6, "fd10::1", true),
        (V6, "::ffff:10.1.0.1", false),
        (V6, "fe80::1", false),
    ] {
        assert_eq!(
            may_emit(&address(vnode), &address(source)),
            may,
            "{source} from {vnode}"
        );
    }
}

#[test]
fn events_are_in_index_order() {
    for (i, event) in Event::ALL.iter().enumerate() {
        assert_eq!(*event as usize, i);
    }
}

fn any_address() -> impl Strategy<Value = SocketAddress> {
    let mapped = any::<u32>().prop_map(SocketAddress::from_v4);
    let whole = any::<[u32; 4]>().prop_map(SocketAddress::from_v6);
    let special = prop::sample::select(vec![V4, V6, "0.0.0.0", "::", "127.0.0.1", "::1"]);
    prop_oneof![mapped, whole, special.prop_map(address)]
}

proptest! {
    /// Whatever a program asks for, a socket that goes on has the vnode's
    /// address, loopback, or none yet; and may then send.
    #[test]
    fn nobody_speaks_as_somebody_else(
        vnode in prop::sample::select(vec![V4, V6]),
        wanted in any_address(),
        destination in any_address(),
    ) {
        let vnode = address(vnode);
        let source = match bind(&vnode, &wanted) {
            Keep if is_multicast(&wanted) => SocketAddress::from_v6([0; 4]),
            Keep => wanted,
            Assign => vnode,
            ToSelf | Refuse(_) => return Ok(()),
        };
        prop_assert!(is_wildcard(&source) || may_emit(&vnode, &source));
        let leaves = match speak(&vnode, &source, &destination) {
            Keep => source,
            Assign | ToSelf => vnode,
            Refuse(_) => return Ok(()),
        };
        let to_itself = is_loopback(&destination) || is_wildcard(&destination);
        prop_assert!(may_emit(&vnode, &leaves) || to_itself);
    }
}
