//! Several VMs in one emulated time: the controller of their clocks, which is also the
//! Ethernet segment between them.
//!
//! A frame takes a fixed time L. If the earliest event of all other VMs is at T, no frame
//! reaches a VM before T + L. If the VM's own next event is at U, no answer to it arrives
//! before U + 2 L. The VM may run up to the earlier of the two times, its horizon; all VMs
//! run in parallel, each on its processor. Then they wait, and get the frames that are due
//! before their next horizon, in the order of due time and sender.
use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{self, MsgFlags, SockFlag},
};
use vm_protocol::segment::{FrameKind, LONGEST, NEVER, header, parse};

use super::segment::{Plug, ready, receivers, sockets};

/// Makes a segment for a number of VMs in one emulated time, on which a frame takes
/// `latency`. The segment works until all VMs have ended.
pub fn segment(places: usize, latency: Duration) -> anyhow::Result<Vec<Plug>> {
    let (plugs, ends) = sockets(places, SockFlag::empty())?;
    thread::spawn(move || control(&ends, latency));
    Ok(plugs)
}

/// The controller's state of one VM.
#[derive(Debug, Default)]
struct Vm {
    /// The VM has ended.
    is_gone: bool,
    /// The VM waits, and has no event before this time.
    waits_until_ns: Option<u64>,
    /// Frames on their way to the VM, by due time, sender and a count.
    frames: BTreeMap<(u64, usize, u64), Vec<u8>>,
}

impl Vm {
    /// Time of the VM's next event.
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

/// The controller's state of all VMs.
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

    /// Handles a message of a VM; an empty or unknown message is its end.
    fn hear(&mut self, from: usize, message: &[u8]) {
        match parse(message) {
            Some((FrameKind::Sent, sent_ns, frame)) => {
                self.frames += 1;
                let key = (sent_ns + self.latency_ns, from, self.frames);
                for to in receivers(frame, from, self.vms.len()) {
                    self.vms[to].frames.insert(key, frame.to_vec());
                }
            }
            Some((FrameKind::Waiting, time_ns, _)) => self.vms[from].waits_until_ns = Some(time_ns),
            // The VM ended, or its messages are not of this protocol.
            _ => {
                self.vms[from] = Vm {
                    is_gone: true,
                    ..Vm::default()
                }
            }
        }
    }

    /// The horizon of each VM, once all VMs wait and at least one of them has an event.
    fn horizons_ns(&self) -> Option<Vec<u64>> {
        let next = |vm: &Vm| match vm {
            Vm { is_gone: true, .. } => Some(NEVER),
            vm => vm.waits_until_ns.map(|_| vm.next_ns()),
        };
        let next_ns: Vec<u64> = self.vms.iter().map(next).collect::<Option<_>>()?;
        if next_ns.iter().all(|next| *next == NEVER) {
            return None;
        }
        let left = self.vms.iter().filter(|vm| !vm.is_gone).count();
        let horizon = |vm: usize| {
            if left == 1 {
                return NEVER;
            }
            let others = next_ns.iter().enumerate().filter(|(other, _)| *other != vm);
            let first = others.map(|(_, next)| *next).min().unwrap_or(NEVER);
            let answer = next_ns[vm].saturating_add(self.latency_ns);
            first.min(answer).saturating_add(self.latency_ns)
        };
        Some((0..next_ns.len()).map(horizon).collect())
    }
}

/// Controls the clocks until all VMs have ended.
fn control(ends: &[OwnedFd], latency: Duration) {
    let mut vms = Vms::new(ends.len(), latency);
    let mut message = [0; LONGEST];
    loop {
        let listened: Vec<usize> = (0..ends.len()).filter(|i| !vms.vms[*i].is_gone).collect();
        if listened.is_empty() {
            return;
        }
        let Some(ready) = ready(ends, &listened) else {
            return;
        };
        for from in ready {
            // All messages that have arrived: frames come before the message that it waits.
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
        if let Some(until_ns) = vms.horizons_ns() {
            go_on(&mut vms, ends, &until_ns);
        }
    }
}

/// Sends its frames and its horizon to every VM that has an event before its horizon.
fn go_on(vms: &mut Vms, ends: &[OwnedFd], horizons_ns: &[u64]) {
    for ((vm, end), until_ns) in vms.vms.iter_mut().zip(ends).zip(horizons_ns) {
        let until_ns = *until_ns;
        if vm.is_gone || vm.next_ns() >= until_ns {
            continue;
        }
        let send = |message: &[u8]| {
            // The next receive notices a VM that has ended.
            let _ = socket::send(end.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL);
        };
        for (due_ns, frame) in vm.due_before(until_ns) {
            send(&[&header(FrameKind::Frame, due_ns)[..], &frame].concat());
        }
        vm.waits_until_ns = None;
        send(&header(FrameKind::Until, until_ns));
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
        vms.hear(vm, &header(FrameKind::Waiting, time_ns));
    }

    fn sends(vms: &mut Vms, vm: usize, time_ns: u64, frame: &[u8]) {
        vms.hear(vm, &[&header(FrameKind::Sent, time_ns)[..], frame].concat());
    }

    #[test]
    fn nobody_goes_on_before_all_wait_and_then_by_what_is_first() {
        let mut vms = vms(2);
        waits(&mut vms, 0, 5_000);
        assert_eq!(vms.horizons_ns(), None);
        waits(&mut vms, 1, 900_000);
        let ahead = 5_000 + 2 * LATENCY_NS;
        assert_eq!(vms.horizons_ns().unwrap(), [ahead, 5_000 + LATENCY_NS]);
        waits(&mut vms, 0, NEVER);
        waits(&mut vms, 1, NEVER);
        assert_eq!(vms.horizons_ns(), None, "nothing happens by itself");
        vms.hear(1, &[]);
        waits(&mut vms, 0, 7_000);
        assert_eq!(vms.horizons_ns().unwrap()[0], NEVER, "1 has ended");
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
        let horizons = vms.horizons_ns().unwrap();
        let first = 500 + LATENCY_NS;
        assert_eq!(horizons, [first + LATENCY_NS; 3], "the first frame's time");
        let until = horizons[0];
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
