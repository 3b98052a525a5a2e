//! The semantics table of docs/exec.md, row by row.
use std::net::IpAddr;

use proptest::prelude::*;

use super::{Bind::*, Refusal::*, *};
use crate::layout::AddrKey;

fn address(text: &str) -> SocketAddress {
    SocketAddress::from_key(match text.parse().unwrap() {
        IpAddr::V4(a) => AddrKey::from_v4(a.octets()),
        IpAddr::V6(a) => AddrKey::from_v6(a.octets()),
    })
}

const V4: &str = "10.1.0.1";
const V6: &str = "fd10::1";
/// 127.0.0.0 and `::1` of the vnode in place 0.
const OWN_V4: &str = "127.1.0.1";
const OWN_V6: &str = "fd65:6d75:6c6f::7f01:1";

/// A vnode with the machine's loopback.
fn shared(vnode: &str) -> Identity {
    Identity {
        address: address(vnode),
        ..Identity::default()
    }
}

/// A vnode with loopback of its own.
fn own(vnode: &str) -> Identity {
    Identity {
        loopback_v4: loopback::v4(0).unwrap(),
        loopback_v6: loopback::v6(0).unwrap(),
        ..shared(vnode)
    }
}

fn to(text: &str) -> Bind {
    To(address(text))
}

#[test]
fn words_are_the_octets_of_the_key() {
    let word = u32::from_ne_bytes([10, 1, 0, 1]);
    assert_eq!(SocketAddress::from_v4(word), address(V4));
    assert_eq!(address("::ffff:10.1.0.1"), address(V4));
    assert_eq!(SocketAddress::from_v6(address(V6).words), address(V6));
}

#[test]
fn binds() {
    for (vnode, wanted, with_own, with_shared) in [
        (V4, "0.0.0.0", to(V4), to(V4)),
        (V4, "::", to(V4), to(V4)),
        (V4, "::ffff:0.0.0.0", to(V4), to(V4)),
        (V4, "10.1.0.1", Keep, Keep),
        (V4, "::ffff:10.1.0.1", Keep, Keep),
        (V4, "10.1.0.2", Refuse(NotOurs), Refuse(NotOurs)),
        (V4, "192.0.2.1", Refuse(NotOurs), Refuse(NotOurs)),
        (V4, "fd10::1", Refuse(NotOurs), Refuse(NotOurs)),
        (V4, "255.255.255.255", Refuse(NotOurs), Refuse(NotOurs)),
        (V4, "127.0.0.1", to(OWN_V4), to("127.0.0.1")),
        (V4, "127.77.0.3", to("127.1.0.3"), to("127.77.0.3")),
        (V4, "127.1.5.1", to(OWN_V4), to("127.1.5.1")),
        (V4, "::ffff:127.0.0.1", to(OWN_V4), to("127.0.0.1")),
        (V4, "::1", to(OWN_V6), to("::1")),
        (V4, OWN_V6, Refuse(NotOurs), Refuse(NotOurs)),
        (V4, "239.1.2.3", Keep, Keep),
        (V4, "ff02::1", Keep, Keep),
        (V6, "::", to(V6), to(V6)),
        (V6, "fd10::1", Keep, Keep),
        (V6, "fd10::2", Refuse(NotOurs), Refuse(NotOurs)),
        (V6, "fe80::1", Refuse(NotOurs), Refuse(NotOurs)),
        (V6, "0.0.0.0", to(OWN_V4), to("127.0.0.1")),
        (V6, "::ffff:0.0.0.0", to(OWN_V4), to("127.0.0.1")),
        (V6, "10.1.0.1", Refuse(NotOurs), Refuse(NotOurs)),
        (V6, "127.0.0.1", to(OWN_V4), to("127.0.0.1")),
        (V6, "::1", to(OWN_V6), to("::1")),
    ] {
        let found = (
            bind(&own(vnode), &address(wanted)),
            bind(&shared(vnode), &address(wanted)),
        );
        assert_eq!(found, (with_own, with_shared), "{wanted} in {vnode}");
    }
}

/// An IPv4 vnode has no IPv6 address but `::1`, and an IPv6 vnode has both.
#[test]
fn the_wildcard_of_ipv6_alone() {
    let only = |of: Identity| Identity {
        flags: socket_flag::V6_ONLY,
        ..of
    };
    for (identity, expected) in [
        (own(V4), OWN_V6),
        (shared(V4), "::1"),
        (own(V6), V6),
        (shared(V6), V6),
    ] {
        assert_eq!(bind(&only(identity), &address("::")), to(expected));
        assert_eq!(bind(&only(identity), &address("fd10::2")), Refuse(NotOurs));
    }
}

/// Destination and source that a table's cell names: `=` for what was given.
type Cell = Result<(&'static str, &'static str), Refusal>;

fn check(identity: &Identity, source: &str, destination: &str, expected: Cell) {
    let found = match speak(identity, &address(source), &address(destination)) {
        Speech::Go { to, from } => Ok((to, from)),
        Speech::Refuse(why) => Err(why),
    };
    let given = |cell: &str, given: &str| address(if cell == "=" { given } else { cell });
    let expected = expected.map(|(to, from)| (given(to, destination), given(from, source)));
    // The kernel chooses the source, of whatever family.
    let plain = |r: Result<(SocketAddress, SocketAddress), Refusal>| {
        r.map(|(to, from)| {
            (
                to,
                if is_wildcard(&from) {
                    address("::")
                } else {
                    from
                },
            )
        })
    };
    let what = format!("{source} to {destination} in {identity:?}");
    assert_eq!(plain(found), plain(expected), "{what}");
}

#[test]
fn connects_and_datagrams() {
    for (vnode, source, destination, with_own, with_shared) in [
        (V4, "0.0.0.0", "10.1.0.2", Ok(("=", V4)), Ok(("=", V4))),
        (V4, "::", "::ffff:10.1.0.2", Ok(("=", V4)), Ok(("=", V4))),
        (V4, "0.0.0.0", "10.1.0.1", Ok(("=", V4)), Ok(("=", V4))),
        (V4, "0.0.0.0", "239.1.2.3", Ok(("=", V4)), Ok(("=", V4))),
        (
            V4,
            "0.0.0.0",
            "127.0.0.1",
            Ok((OWN_V4, OWN_V4)),
            Ok(("=", "=")),
        ),
        (
            V4,
            "0.0.0.0",
            "127.9.9.9",
            Ok(("127.1.0.9", OWN_V4)),
            Ok(("=", "=")),
        ),
        (V4, "::", "::1", Ok((OWN_V6, OWN_V6)), Ok(("=", "="))),
        (V4, "0.0.0.0", "0.0.0.0", Ok((V4, V4)), Ok((V4, V4))),
        (V4, "::", "::", Ok((OWN_V6, OWN_V6)), Ok(("::1", "="))),
        (V4, "::", "fd10::1", Err(NoRoute), Err(NoRoute)),
        (V4, "10.1.0.1", "10.1.0.2", Ok(("=", "=")), Ok(("=", "="))),
        (
            V4,
            "10.1.0.1",
            "127.0.0.1",
            Ok((OWN_V4, "=")),
            Ok(("=", "=")),
        ),
        (V4, "10.1.0.1", "0.0.0.0", Ok((V4, "=")), Ok((V4, "="))),
        (
            V4,
            "10.1.0.1",
            "::",
            Ok((OWN_V4, "=")),
            Ok(("127.0.0.1", "=")),
        ),
        (V4, "10.1.0.1", "fd10::1", Err(NoRoute), Err(NoRoute)),
        (V4, "127.0.0.1", "127.0.0.2", Err(NotOurs), Ok(("=", "="))),
        (
            V4,
            OWN_V4,
            "127.0.0.2",
            Ok(("127.1.0.2", "=")),
            Ok(("=", "=")),
        ),
        (V4, OWN_V4, "127.1.3.1", Ok((OWN_V4, "=")), Ok(("=", "="))),
        (
            V4,
            OWN_V4,
            "0.0.0.0",
            Ok((OWN_V4, "=")),
            Ok(("127.0.0.1", "=")),
        ),
        (V4, OWN_V4, "10.1.0.1", Ok(("=", "=")), Ok(("=", "="))),
        (V4, OWN_V4, "10.1.0.2", Err(FromLoopback), Err(FromLoopback)),
        (V4, OWN_V6, "::1", Ok((OWN_V6, "=")), Err(NotOurs)),
        (V4, "10.1.0.9", "10.1.0.2", Err(NotOurs), Err(NotOurs)),
        (V4, "10.1.0.9", "127.0.0.1", Err(NotOurs), Err(NotOurs)),
        (V4, "127.1.7.1", "127.1.7.1", Err(NotOurs), Ok(("=", "="))),
        (V4, "239.1.2.3", "10.1.0.2", Err(NotOurs), Err(NotOurs)),
        (V6, "::", "fd10::2", Ok(("=", V6)), Ok(("=", V6))),
        (V6, "::", "::", Ok((V6, V6)), Ok((V6, V6))),
        (V6, "::", "::1", Ok((OWN_V6, OWN_V6)), Ok(("=", "="))),
        (V6, "::", "::ffff:10.1.0.1", Err(NoRoute), Err(NoRoute)),
        (V6, "0.0.0.0", "10.1.0.1", Err(NoRoute), Err(NoRoute)),
        (
            V6,
            "0.0.0.0",
            "0.0.0.0",
            Ok((OWN_V4, OWN_V4)),
            Ok(("127.0.0.1", "=")),
        ),
        (
            V6,
            "0.0.0.0",
            "127.0.0.1",
            Ok((OWN_V4, OWN_V4)),
            Ok(("=", "=")),
        ),
        (V6, "fd10::1", "fd10::2", Ok(("=", "=")), Ok(("=", "="))),
        (V6, OWN_V6, "fd10::2", Err(FromLoopback), Err(NotOurs)),
        (V6, "::1", "fd10::2", Err(NotOurs), Err(FromLoopback)),
        (V6, "fd10::9", "fd10::2", Err(NotOurs), Err(NotOurs)),
    ] {
        check(&own(vnode), source, destination, with_own);
        check(&shared(vnode), source, destination, with_shared);
    }
}

#[test]
fn programs_are_told_loopback() {
    for (real, with_own, with_shared) in [
        (OWN_V4, "127.0.0.1", OWN_V4),
        ("127.1.0.7", "127.0.0.7", "127.1.0.7"),
        ("127.1.1.1", "127.1.1.1", "127.1.1.1"),
        (OWN_V6, "::1", OWN_V6),
        (V4, V4, V4),
        ("0.0.0.0", "0.0.0.0", "0.0.0.0"),
        ("::", "::", "::"),
    ] {
        assert_eq!(told(&own(V4), &address(real)), address(with_own), "{real}");
        assert_eq!(
            told(&shared(V4), &address(real)),
            address(with_shared),
            "{real}"
        );
    }
}

/// Columns: from or to a TCP or UDP socket with loopback of the vnode's own, a raw one, and a
/// socket with the machine's loopback.
#[test]
fn packets() {
    for (vnode, end, may) in [
        (V4, "10.1.0.1", [true, true, true]),
        (V4, "10.1.0.2", [false, false, false]),
        (V4, "127.0.0.1", [false, true, true]),
        (V4, OWN_V4, [true, true, true]),
        (V4, "127.1.1.1", [false, true, true]),
        (V4, OWN_V6, [true, true, false]),
        (V4, "::1", [false, true, true]),
        (V4, "0.0.0.0", [false, false, false]),
        (V6, "fd10::1", [true, true, true]),
        (V6, "::ffff:10.1.0.1", [false, false, false]),
        (V6, "fe80::1", [false, false, false]),
    ] {
        let end = address(end);
        let cases = [
            (own(vnode), false),
            (own(vnode), true),
            (shared(vnode), false),
        ];
        for ((identity, is_raw), may) in cases.into_iter().zip(may) {
            let what = format!("{end:?} in {identity:?}, raw {is_raw}");
            assert_eq!(may_emit(&identity, &end, is_raw), may, "{what}");
            assert_eq!(may_receive(&identity, &end, is_raw), may, "{what}");
        }
    }
    for group in ["239.1.2.3", "255.255.255.255", "ff02::1"] {
        assert!(may_receive(&own(V4), &address(group), false));
        assert!(!may_emit(&own(V4), &address(group), true));
    }
}

#[test]
fn events_are_in_index_order() {
    for (i, event) in SocketEvent::ALL.iter().enumerate() {
        assert_eq!(*event as usize, i);
    }
}

fn any_address() -> impl Strategy<Value = SocketAddress> {
    let mapped = any::<u32>().prop_map(SocketAddress::from_v4);
    let whole = any::<[u32; 4]>().prop_map(SocketAddress::from_v6);
    let local = any::<[u8; 3]>()
        .prop_map(|[b, c, d]| SocketAddress::from_v4(u32::from_ne_bytes([127, b, c, d])));
    let special = prop::sample::select(vec![V4, V6, "0.0.0.0", "::", "127.0.0.1", "::1"]);
    prop_oneof![mapped, whole, local, special.prop_map(address)]
}

/// Vnodes in all places, with both kinds of loopback.
fn any_identity() -> impl Strategy<Value = Identity> {
    let place = 0..loopback::PLACES;
    (
        prop::sample::select(vec![V4, V6]),
        place,
        any::<bool>(),
        0..2u32,
    )
        .prop_map(|(vnode, place, has_own, flags)| Identity {
            address: address(vnode),
            loopback_v4: loopback::v4(place).filter(|_| has_own).unwrap_or_default(),
            loopback_v6: loopback::v6(place).filter(|_| has_own).unwrap_or_default(),
            flags,
        })
}

proptest! {
    /// Whatever a program asks for, a socket that goes on has the vnode's address, its
    /// loopback, or none yet; it may then send, and loopback leads to the vnode itself.
    #[test]
    fn nobody_speaks_as_another(
        identity in any_identity(),
        wanted in any_address(),
        destination in any_address(),
    ) {
        let source = match bind(&identity, &wanted) {
            Keep if is_multicast(&wanted) => SocketAddress::from_v6([0; 4]),
            Keep => wanted,
            To(address) => address,
            Refuse(_) => return Ok(()),
        };
        prop_assert!(is_wildcard(&source) || may_emit(&identity, &source, false));
        let Speech::Go { to, from } = speak(&identity, &source, &destination) else {
            return Ok(());
        };
        let has_own = identity.loopback_v4 != 0;
        prop_assert!(may_emit(&identity, &from, false) || (!has_own && is_loopback(&to)));
        if is_loopback(&destination) || is_wildcard(&destination) {
            prop_assert!(may_receive(&identity, &to, false));
        }
    }

    /// What is told leads back to the same address.
    #[test]
    fn what_is_told_means_the_same(identity in any_identity(), wanted in any_address()) {
        if let To(bound) = bind(&identity, &wanted) {
            let again = bind(&identity, &told(&identity, &bound));
            prop_assert!(again == To(bound) || (again == Keep && bound == identity.address));
        }
    }
}
