//! Several VMs in one emulated time: this one goes on only as far as the controller, which
//! knows them all, lets it, and gets frames of the others at their times.
//!
//! A frame takes a fixed time between two VMs, so what another one does now cannot matter
//! here before that time is over; up to then all of them run at once (conservative
//! parallel simulation: Chandy and Misra 1979, Bryant 1977).
use core::{
    cell::UnsafeCell,
    ffi::c_int,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use vm_protocol::segment::{FrameKind, HEADER, LONGEST, LONGEST_FRAME, NEVER, header, parse};

use crate::{clock::Clock, host};

/// Frames that may wait here: those of one window.
const PLACES: usize = 4_096;

struct Frame {
    due_ns: u64,
    length: usize,
    bytes: [u8; LONGEST_FRAME],
}

/// Frames that wait, first come first served; a ring.
struct Waiting(UnsafeCell<[Frame; PLACES]>);

// SAFETY: only the kernel's one thread touches it; the handler of the spin watch, which
// runs on that thread, may only interrupt code that made no progress for longer than any
// of the functions here takes.
unsafe impl Sync for Waiting {}

static WAITING: Waiting = Waiting(UnsafeCell::new(
    [const {
        Frame {
            due_ns: 0,
            length: 0,
            bytes: [0; LONGEST_FRAME],
        }
    }; PLACES],
));

/// The way to the controller.
pub struct Controller {
    socket: c_int,
    /// Our end of the pair of which the kernel has the other.
    local: AtomicI32,
    begun: AtomicBool,
    /// Time stays below this.
    until_ns: AtomicU64,
    /// Frames taken and put so far.
    taken: AtomicUsize,
    put: AtomicUsize,
}

impl Controller {
    /// Over this socket.
    pub const fn new(socket: c_int) -> Self {
        Self {
            socket,
            local: AtomicI32::new(-1),
            begun: AtomicBool::new(false),
            until_ns: AtomicU64::new(0),
            taken: AtomicUsize::new(0),
            put: AtomicUsize::new(0),
        }
    }

    /// Gives the kernel its end of the Ethernet segment under a number.
    pub fn connect(&self, number: c_int) {
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK;
        let mut pair = [-1; 2];
        // SAFETY: the first call writes two numbers to an array that lives across it; the
        // others take numbers only.
        let made = unsafe {
            host::raw(
                libc::SYS_socketpair,
                [
                    i64::from(libc::AF_UNIX),
                    i64::from(kind),
                    0,
                    &raw mut pair as i64,
                    0,
                    0,
                ],
            ) == 0
                && host::raw(
                    libc::SYS_dup2,
                    [i64::from(pair[0]), i64::from(number), 0, 0, 0, 0],
                ) >= 0
        };
        if !made {
            std::process::abort();
        }
        // SAFETY: the call takes numbers only.
        unsafe { host::raw(libc::SYS_close, [i64::from(pair[0]), 0, 0, 0, 0, 0]) };
        self.local.store(pair[1], Relaxed);
    }

    /// From this time on the controller says how far time may go.
    pub fn begin(&self, now_ns: u64) {
        self.until_ns.store(now_ns, Relaxed);
        self.begun.store(true, Relaxed);
    }

    /// Lets time go on to this, with the frames that come before it at their times.
    pub fn reach(&self, clock: &Clock, time_ns: u64) {
        if !self.begun.load(Relaxed) {
            return clock.reach(time_ns);
        }
        loop {
            let next_ns = time_ns.min(self.first_due_ns());
            self.wait_for(next_ns);
            // Frames may have come.
            let next_ns = time_ns.min(self.first_due_ns());
            if next_ns >= self.until_ns.load(Relaxed) {
                continue;
            }
            clock.reach(next_ns);
            if !self.deliver(clock.now_ns()) || next_ns == time_ns {
                return clock.reach(time_ns);
            }
        }
    }

    /// Lets time go on to the timer's deadline, or to the first frame if that is earlier.
    pub fn skip(&self, clock: &Clock, deadline_ns: u64) {
        loop {
            let next_ns = deadline_ns.min(self.first_due_ns());
            if next_ns < self.until_ns.load(Relaxed) {
                clock.reach(next_ns);
                self.deliver(clock.now_ns());
                return;
            }
            self.wait_for(next_ns);
        }
    }

    /// Waits until time may reach this, or frames have come that are earlier.
    fn wait_for(&self, time_ns: u64) {
        if time_ns < self.until_ns.load(Relaxed) {
            return;
        }
        self.send(&header(FrameKind::Waiting, time_ns));
        loop {
            let mut message = [0; LONGEST];
            let length = self.receive(&mut message);
            match parse(&message[..length]) {
                Some((FrameKind::Frame, due_ns, bytes)) => self.put(due_ns, bytes),
                Some((FrameKind::Until, until_ns, _)) => {
                    return self.until_ns.store(until_ns, Relaxed);
                }
                // Nobody is there any more; the VM comes to its own end.
                _ => return self.until_ns.store(NEVER, Relaxed),
            }
        }
    }

    fn first_due_ns(&self) -> u64 {
        let taken = self.taken.load(Relaxed);
        if taken == self.put.load(Relaxed) {
            return NEVER;
        }
        // SAFETY: see `Waiting`; the reference ends with this expression.
        unsafe { (&(*WAITING.0.get()))[taken % PLACES].due_ns }
    }

    fn put(&self, due_ns: u64, bytes: &[u8]) {
        let (taken, put) = (self.taken.load(Relaxed), self.put.load(Relaxed));
        if put - taken == PLACES || bytes.len() > LONGEST_FRAME {
            // The controller keeps to one window and to this length.
            std::process::abort();
        }
        // SAFETY: see `Waiting`; the reference ends with this block.
        let frame = unsafe { &mut (&mut (*WAITING.0.get()))[put % PLACES] };
        frame.due_ns = due_ns;
        frame.length = bytes.len();
        frame.bytes[..bytes.len()].copy_from_slice(bytes);
        self.put.store(put + 1, Relaxed);
    }

    /// Gives the kernel what is due. False if it has no room: it has not looked yet at what
    /// it has.
    fn deliver(&self, now_ns: u64) -> bool {
        while self.first_due_ns() <= now_ns {
            let taken = self.taken.load(Relaxed);
            // SAFETY: see `Waiting`; the reference ends with this block.
            let frame = unsafe { &(&(*WAITING.0.get()))[taken % PLACES] };
            // SAFETY: the buffer lives across the call and has the length given.
            let sent = unsafe {
                host::raw(
                    libc::SYS_sendto,
                    [
                        i64::from(self.local.load(Relaxed)),
                        frame.bytes.as_ptr() as i64,
                        frame.length as i64,
                        i64::from(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL),
                        0,
                        0,
                    ],
                )
            };
            if sent == -i64::from(libc::EAGAIN) {
                return false;
            }
            self.taken.store(taken + 1, Relaxed);
        }
        true
    }

    /// A frame leaves for the other VMs.
    pub fn frame(&self, clock: &Clock, parts: &[libc::iovec]) -> i64 {
        let mut message = [0; LONGEST];
        message[..HEADER].copy_from_slice(&header(FrameKind::Sent, clock.now_ns()));
        let mut end = HEADER;
        for part in parts {
            if part.iov_len > LONGEST - end {
                return -i64::from(libc::EMSGSIZE);
            }
            // SAFETY: the kernel gives an iovec of readable memory to a call that sends it.
            let bytes =
                unsafe { core::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len) };
            message[end..end + bytes.len()].copy_from_slice(bytes);
            end += bytes.len();
        }
        self.send(&message[..end]);
        (end - HEADER) as i64
    }

    fn send(&self, message: &[u8]) {
        loop {
            // SAFETY: the buffer lives across the call and has the length given.
            let sent = unsafe {
                host::raw(
                    libc::SYS_sendto,
                    [
                        i64::from(self.socket),
                        message.as_ptr() as i64,
                        message.len() as i64,
                        i64::from(libc::MSG_NOSIGNAL),
                        0,
                        0,
                    ],
                )
            };
            if sent != -i64::from(libc::EINTR) {
                return;
            }
        }
    }

    fn receive(&self, message: &mut [u8]) -> usize {
        loop {
            // SAFETY: the buffer lives across the call and has the length given.
            let length = unsafe {
                host::raw(
                    libc::SYS_recvfrom,
                    [
                        i64::from(self.socket),
                        message.as_mut_ptr() as i64,
                        message.len() as i64,
                        0,
                        0,
                        0,
                    ],
                )
            };
            if length != -i64::from(libc::EINTR) {
                return usize::try_from(length).unwrap_or(0);
            }
        }
    }
}
