//! Rate of wake-ups of an idle DHT node.
//!
//! `mainline` reads its socket with a timeout of 50 ms: twenty wake-ups a second, which is
//! too much for a machine full of idle nodes. The timeout is a property of the socket, so
//! it can be changed through another descriptor of the same socket.
use std::{fs, net::UdpSocket, time::Duration};

use anyhow::Context;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Sets the read timeout of this process's UDP socket with the local port `port`.
pub fn every(port: u16, time: Duration) -> anyhow::Result<()> {
    let socket = socket_of(port).with_context(|| format!("no UDP socket of port {port}"))?;
    socket
        .set_read_timeout(Some(time))
        .context("set the read timeout of the socket")
}

fn socket_of(port: u16) -> Option<UdpSocket> {
    let me = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    for entry in fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let is_socket =
            fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        let Ok(number) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        if !is_socket {
            continue;
        }
        let copy = pidfd_getfd(&me, number, PidfdGetfdFlags::empty()).ok()?;
        let socket = UdpSocket::from(copy);
        if socket.local_addr().is_ok_and(|at| at.port() == port) {
            return Some(socket);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn another_descriptor_changes_the_timeout() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        every(port, Duration::from_millis(20)).unwrap();
        assert_eq!(
            socket.read_timeout().unwrap(),
            Some(Duration::from_millis(20))
        );
        let begin = Instant::now();
        assert!(socket.recv(&mut [0]).is_err());
        assert!(begin.elapsed() >= Duration::from_millis(15));
        drop(socket);
        assert!(every(port, Duration::from_secs(1)).is_err());
    }
}
