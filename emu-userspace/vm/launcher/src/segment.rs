//! An Ethernet segment between VMs: a socket for each VM, and a thread that carries every
//! frame to the VM with the frame's address, or to all VMs.
use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread,
};

use anyhow::Context;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, socketpair},
};

use vm_protocol::segment::LONGEST_FRAME;

use super::channel::inherit;

/// One VM's place on a segment.
#[derive(Debug)]
pub struct Plug {
    rank: usize,
    socket: OwnedFd,
}

impl Plug {
    /// Number of the socket, which the VM inherits.
    pub fn number(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// The address of the VM's interface: locally administered, with its number.
    pub fn address(&self) -> String {
        let words = address(self.rank).map(|byte| format!("{byte:02x}"));
        words.join(":")
    }

    /// Whether programs that are started inherit the socket.
    pub fn inherit(&self, wanted: bool) -> anyhow::Result<()> {
        inherit(&self.socket, wanted)
    }
}

fn address(rank: usize) -> [u8; 6] {
    let [high, low] = u16::try_from(rank + 1).unwrap_or(u16::MAX).to_be_bytes();
    [2, 0, 0, 0, high, low]
}

/// Makes a segment for a number of VMs, which works until all of them have ended.
pub fn segment(places: usize) -> anyhow::Result<Vec<Plug>> {
    // A frame for which a socket has no room is dropped.
    let (plugs, ends) = sockets(places, SockFlag::SOCK_NONBLOCK)?;
    thread::spawn(move || carry(&ends));
    Ok(plugs)
}

/// A pair of message sockets for each VM: the VM's end, and the segment's end.
pub fn sockets(places: usize, flags: SockFlag) -> anyhow::Result<(Vec<Plug>, Vec<OwnedFd>)> {
    let pair = |rank| {
        let flags = SockFlag::SOCK_CLOEXEC | flags;
        let (socket, end) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .context("make a network between VMs")?;
        Ok((Plug { rank, socket }, end))
    };
    (0..places).map(pair).collect()
}

/// Waits until some of the listed ends are readable, and returns them; `None` if waiting
/// fails.
pub fn ready(ends: &[OwnedFd], listened: &[usize]) -> Option<Vec<usize>> {
    let mut polled: Vec<PollFd<'_>> = listened
        .iter()
        .map(|i| PollFd::new(ends[*i].as_fd(), PollFlags::POLLIN))
        .collect();
    if poll(&mut polled, PollTimeout::NONE).is_err_and(|errno| errno != Errno::EINTR) {
        return None;
    }
    let pairs = listened.iter().zip(&polled);
    let ready = pairs.filter(|(_, fd)| fd.any() == Some(true));
    Some(ready.map(|(end, _)| *end).collect())
}

/// Carries frames until all VMs have ended.
fn carry(ends: &[OwnedFd]) {
    let mut there = vec![true; ends.len()];
    let mut frame = [0; LONGEST_FRAME];
    while there.contains(&true) {
        let listened: Vec<usize> = (0..ends.len()).filter(|i| there[*i]).collect();
        let Some(ready) = ready(ends, &listened) else {
            return;
        };
        for from in ready {
            match receive(&ends[from], &mut frame) {
                Ok(0) => there[from] = false,
                Ok(length) => send(ends, from, &frame[..length]),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => there[from] = false,
            }
        }
    }
}

fn receive(end: &OwnedFd, frame: &mut [u8]) -> Result<usize, Errno> {
    socket::recv(end.as_raw_fd(), frame, MsgFlags::empty())
}

/// The receivers of a frame: the VM with its address, or else all other VMs.
pub fn receivers(frame: &[u8], from: usize, places: usize) -> impl Iterator<Item = usize> {
    let to = (0..places).find(|rank| frame.starts_with(&address(*rank)));
    (0..places).filter(move |rank| *rank != from && to.is_none_or(|to| to == *rank))
}

fn send(ends: &[OwnedFd], from: usize, frame: &[u8]) {
    for to in receivers(frame, from, ends.len()) {
        put(&ends[to], frame);
    }
}

/// A receiver without room misses the frame, as on a link that is full.
fn put(end: &OwnedFd, frame: &[u8]) {
    let _ = socket::send(end.as_raw_fd(), frame, MsgFlags::MSG_NOSIGNAL);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nix::errno::Errno;

    use super::{Plug, address, put, receive, segment};

    /// The next frame at a place, if one arrives soon.
    fn frame(plug: &Plug) -> Option<Vec<u8>> {
        let (mut bytes, start) = ([0; 2_000], Instant::now());
        while start.elapsed() < Duration::from_secs(5) {
            match receive(&plug.socket, &mut bytes) {
                Ok(length) => return Some(bytes[..length].to_vec()),
                Err(Errno::EAGAIN) => std::thread::sleep(Duration::from_millis(1)),
                Err(errno) => panic!("{errno}"),
            }
        }
        None
    }

    #[test]
    fn a_frame_goes_where_it_is_addressed_to_or_everywhere() {
        let plugs = segment(3).unwrap();
        assert_eq!(plugs[2].address(), "02:00:00:00:00:03");
        let to = |rank: usize, more: u8| [&address(rank)[..], &[more; 60]].concat();
        let everybody = [&[0xff; 6][..], &[7; 1_400]].concat();
        put(&plugs[0].socket, &to(2, 1));
        put(&plugs[0].socket, &everybody);
        put(&plugs[1].socket, &to(0, 2));
        assert_eq!(frame(&plugs[2]).unwrap(), to(2, 1));
        assert_eq!(frame(&plugs[2]).unwrap(), everybody);
        assert_eq!(frame(&plugs[1]).unwrap(), everybody, "and not what is 2's");
        assert_eq!(frame(&plugs[0]).unwrap(), to(0, 2));
    }
}
