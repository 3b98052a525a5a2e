//! Several VMs in one emulated time: the controller of their clocks, which is also the
//! Ethernet segment between them.
//!
//! A frame takes a fixed time. So when the earliest thing that happens anywhere is at T,
//! nothing that a VM does can reach another one before T and that time: up to there all
//! of them run at once, each on its processor. Then they wait, and get the frames that are
//! due before the next such moment, in the order of their times and senders.
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::Context;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, socketpair},
};
use vm_protocol::segment::{Kind, LONGEST, NEVER, header, parse};

use super::segment::{Plug, receivers};

/// Time that a frame takes between two VMs. A round trip over hosts is longer by two of
/// them; shorter ones let the VMs run shorter stretches at once.
pub const LATENCY: Duration = Duration::from_micros(20);

/// Makes a segment with so many places in one emulated time; it works until all of them
/// are gone.
pub fn segment(places: usize) -> anyhow::Result<Vec<Plug>> {
    let (mut plugs, mut ends) = (Vec::new(), Vec::new());
    for rank in 0..places {
        let (socket, end) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context("make a network between VMs")?;
        plugs.push(Plug::new(rank, socket));
        ends.push(end);
    }
    thread::spawn(move || control(&ends));
    Ok(plugs)
}

/// One VM, as the controller knows it.
#[derive(Debug, Default)]
struct Vm {
    /// It has ended.
    is_gone: bool,
    /// It waits, and nothing happens there before this time.
    waits_until_ns: Option<u64>,
    /// Frames on their way to it, by when they are due, their sender, and a count.
    frames: BTreeMap<(u64, usize, u64), Vec<u8>>,
}

impl Vm {
    /// When the next thing happens there.
    fn next_ns(&self) -> u64 {
        let due = self.frames.keys().next().map_or(NEVER, |(due, _, _)| *due);
        self.waits_until_ns.unwrap_or(NEVER).min(due)
    }

    /// Takes the frames that are due before a time, in order.
    fn due_before(&mut self, time_ns: u64) -> Vec<(u64, Vec<u8>)> {
        let later = self.frames.split_off(&(time_ns, 0, 0));
        let due = std::mem::replace(&mut self.frames, later);
        due.into_iter()
            .map(|((due, _, _), frame)| (due, frame))
            .collect()
    }
}

/// All of them.
#[derive(Debug)]
struct Vms {
    vms: Vec<Vm>,
    latency_ns: u64,
    frames: u64,
}

impl Vms {
    fn new(count: usize, latency: Duration) -> Self {
        Self {
            vms: (0..count).map(|_| Vm::default()).collect(),
            latency_ns: latency.as_nanos() as u64,
            frames: 0,
        }
    }

    /// A VM says something.
    fn hear(&mut self, from: usize, message: &[u8]) {
        match parse(message) {
            Some((Kind::Sent, sent_ns, frame)) => {
                self.frames += 1;
                let key = (sent_ns + self.latency_ns, from, self.frames);
                for to in receivers(frame, from, self.vms.len()) {
                    self.vms[to].frames.insert(key, frame.to_vec());
                }
            }
            Some((Kind::Waiting, time_ns, _)) => self.vms[from].waits_until_ns = Some(time_ns),
            // It ended, or is none of ours.
            _ => {
                self.vms[from] = Vm {
                    is_gone: true,
                    ..Vm::default()
                }
            }
        }
    }

    /// Up to when all may go on, once all of them wait and something happens at all.
    fn horizon_ns(&self) -> Option<u64> {
        let mut there = self.vms.iter().filter(|vm| !vm.is_gone).peekable();
        there.peek()?;
        let mut next_ns = NEVER;
        for vm in there {
            vm.waits_until_ns?;
            next_ns = next_ns.min(vm.next_ns());
        }
        (next_ns != NEVER).then(|| next_ns + self.latency_ns)
    }
}

/// Controls their clocks until nobody is there any more.
fn control(ends: &[OwnedFd]) {
    let mut vms = Vms::new(ends.len(), LATENCY);
    let mut message = [0; LONGEST];
    loop {
        let listened: Vec<usize> = (0..ends.len()).filter(|i| !vms.vms[*i].is_gone).collect();
        if listened.is_empty() {
            return;
        }
        let mut polled: Vec<PollFd<'_>> = listened
            .iter()
            .map(|i| PollFd::new(ends[*i].as_fd(), PollFlags::POLLIN))
            .collect();
        if poll(&mut polled, PollTimeout::NONE).is_err_and(|errno| errno != Errno::EINTR) {
            return;
        }
        let ready: Vec<bool> = polled.iter().map(|fd| fd.any() == Some(true)).collect();
        for (from, _) in listened.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            // All that it has said by now: frames come before the word that it waits.
            loop {
                let flags = MsgFlags::MSG_DONTWAIT;
                match socket::recv(ends[from].as_raw_fd(), &mut message, flags) {
                    Ok(length) => vms.hear(from, &message[..length]),
                    Err(Errno::EINTR) => continue,
                    Err(Errno::EAGAIN) => break,
                    Err(_) => vms.hear(from, &[]),
                }
                if vms.vms[from].is_gone || vms.vms[from].waits_until_ns.is_some() {
                    break;
                }
            }
        }
        if let Some(until_ns) = vms.horizon_ns() {
            go_on(&mut vms, ends, until_ns);
        }
    }
}

/// Gives every VM its frames and lets it go on.
fn go_on(vms: &mut Vms, ends: &[OwnedFd], until_ns: u64) {
    for (vm, end) in vms.vms.iter_mut().zip(ends).filter(|(vm, _)| !vm.is_gone) {
        let send = |message: &[u8]| {
            // One that has ended is noticed when it is listened to.
            let _ = socket::send(end.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL);
        };
        for (due_ns, frame) in vm.due_before(until_ns) {
            send(&[&header(Kind::Frame, due_ns)[..], &frame].concat());
        }
        vm.waits_until_ns = None;
        send(&header(Kind::Until, until_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY_NS: u64 = 20_000;

    fn vms(count: usize) -> Vms {
        Vms::new(count, Duration::from_nanos(LATENCY_NS))
    }

    fn waits(vms: &mut Vms, vm: usize, time_ns: u64) {
        vms.hear(vm, &header(Kind::Waiting, time_ns));
    }

    fn sends(vms: &mut Vms, vm: usize, time_ns: u64, frame: &[u8]) {
        vms.hear(vm, &[&header(Kind::Sent, time_ns)[..], frame].concat());
    }

    #[test]
    fn nobody_goes_on_before_all_wait_and_then_by_what_is_first() {
        let mut vms = vms(2);
        waits(&mut vms, 0, 5_000);
        assert_eq!(vms.horizon_ns(), None);
        waits(&mut vms, 1, 900_000);
        assert_eq!(vms.horizon_ns(), Some(5_000 + LATENCY_NS));
        waits(&mut vms, 0, NEVER);
        waits(&mut vms, 1, NEVER);
        assert_eq!(vms.horizon_ns(), None, "nothing happens by itself");
        vms.hear(1, &[]);
        waits(&mut vms, 0, 7_000);
        assert_eq!(vms.horizon_ns(), Some(7_000 + LATENCY_NS), "1 has ended");
    }

    #[test]
    fn frames_come_at_their_times_in_one_order() {
        let mut vms = vms(3);
        let to_all = |n: u8| [&[0xff; 6][..], &[n; 60]].concat();
        sends(&mut vms, 2, 1_000, &to_all(2));
        sends(&mut vms, 1, 1_000, &to_all(1));
        sends(&mut vms, 1, 500, &to_all(0));
        for vm in 0..3 {
            waits(&mut vms, vm, NEVER);
        }
        let until = vms.horizon_ns().unwrap();
        assert_eq!(until, 500 + 2 * LATENCY_NS, "the first frame's time");
        let due: Vec<(u64, u8)> = vms.vms[0]
            .due_before(until)
            .into_iter()
            .map(|(due, frame)| (due - LATENCY_NS, frame[6]))
            .collect();
        assert_eq!(due, [(500, 0), (1_000, 1), (1_000, 2)]);
        assert_eq!(vms.vms[2].due_before(until).len(), 2, "not its own");
        assert!(vms.vms[0].due_before(NEVER).is_empty());
    }
}
