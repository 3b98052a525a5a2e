//! The packets that a vnode's filter accepts (RFC 4787, section 5), with real sockets.
use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use integration::{command::TopologyFile, netns::isolated, udp};
use socket2::{Domain, Socket, Type};

const QUIET: Duration = Duration::from_millis(180);

/// Loads a filtered group, a second filtered group and an open one, for both address
/// families.
fn load(class: &str) -> [[&'static str; 3]; 2] {
    let file = TopologyFile::new(&format!(
        "
version: 1
groups:
  a: {{prefix: 10.1.0.0/24, nodes: 2, latency: 2ms, filtering: {class}}}
  b: {{prefix: 10.2.0.0/24, nodes: 2, latency: 2ms, filtering: {class}}}
  c: {{prefix: 10.3.0.0/24, nodes: 3, latency: 2ms}}
  a6: {{prefix: 'fd01::/64', nodes: 2, latency: 2ms, filtering: {class}}}
  b6: {{prefix: 'fd02::/64', nodes: 2, latency: 2ms, filtering: {class}}}
  c6: {{prefix: 'fd03::/64', nodes: 3, latency: 2ms}}
"
    ));
    file.load();
    [
        ["10.1.0.1", "10.2.0.1", "10.3.0."],
        ["fd01::1", "fd02::1", "fd03::"],
    ]
}

fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

/// Whether a datagram from one socket reaches the other.
fn reaches(from: &UdpSocket, to: &UdpSocket) -> bool {
    let address = to.local_addr().unwrap().to_string();
    udp::send(from, &address, 1, 100).unwrap();
    !udp::receive(to, 1, QUIET).is_empty()
}

#[test]
fn filters_open_as_far_as_their_behaviour_says() {
    // From the same address and port, from another port, from another address.
    for (class, expected) in [
        ("endpoint-independent", [true, true, true]),
        ("address-dependent", [true, true, false]),
        ("address-and-port-dependent", [true, false, false]),
    ] {
        isolated(move || {
            for [inside, _, outside] in load(class) {
                let home = udp::socket(&at(inside, 7000));
                let peers = [("1", 7000), ("1", 7001), ("2", 7000)]
                    .map(|(host, port)| udp::socket(&at(&format!("{outside}{host}"), port)));
                for peer in &peers {
                    assert!(!reaches(peer, &home), "{class} {inside}: unsolicited");
                }
                assert!(reaches(&home, &peers[0]), "{class} {inside}: outwards");
                let seen = [0, 1, 2].map(|i| reaches(&peers[i], &home));
                assert_eq!(seen, expected, "{class} {inside}");
                // The vnode has sent nothing from this other port.
                let other = udp::socket(&at(inside, 7009));
                assert!(!reaches(&peers[0], &other), "{class} {inside}");
            }
        });
    }
}

#[test]
fn two_filtered_vnodes_punch_a_hole() {
    isolated(|| {
        for [left, right, _] in load("address-dependent") {
            let (left, right) = (udp::socket(left), udp::socket(right));
            // The first datagram is dropped, but creates the filter entry for the reverse
            // direction.
            assert!(!reaches(&left, &right));
            assert!(reaches(&right, &left));
            assert!(reaches(&left, &right));
        }
    });
}

/// Connects from an address; returns the kernel's answer.
fn connect(from: &str, to: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    let own = SocketAddr::new(from.parse().unwrap(), 0);
    socket.bind(&own.into()).unwrap();
    // The timeout includes one retransmission of the SYN.
    socket.connect_timeout(&to.into(), Duration::from_millis(1_300))
}

#[test]
fn tcp_connects_outwards_only() {
    isolated(|| {
        for [inside, _, outside] in load("address-and-port-dependent") {
            let outside = format!("{outside}1");
            let [home, far] = [inside, &outside].map(|a| TcpListener::bind((a, 0)).unwrap());
            let error = connect(&outside, home.local_addr().unwrap()).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
            connect(inside, far.local_addr().unwrap()).unwrap();
        }
    });
}
