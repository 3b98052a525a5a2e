//! Start order of programs: a program with a `ready` condition delays the programs after it
//! until all of its processes are ready.
use std::{fs, net::IpAddr};

use emu_model::experiment::{Experiment, Sign};

/// Index of a process in the schedule.
pub(super) type ProcessId = usize;

/// The state of the start order.
pub(super) struct Gate {
    /// For each program, its local processes that are not ready yet.
    pending: Vec<Vec<ProcessId>>,
    /// Whether each program is ready on all other hosts; `None` in a run on one host.
    elsewhere: Option<Vec<bool>>,
    /// Whether each program has a `ready` condition.
    tells: Vec<bool>,
    /// Number of programs that may start: the first ones of the experiment.
    released: usize,
}

impl Gate {
    /// `local` gives the program of each local process; `others` is whether other hosts run
    /// the remaining processes.
    pub fn new(experiment: &Experiment, local: impl Iterator<Item = usize>, others: bool) -> Self {
        let mut pending = vec![Vec::new(); experiment.programs.len()];
        let programs = experiment.programs.iter();
        let tells: Vec<bool> = programs.map(|p| p.ready.is_some()).collect();
        for (process, program) in local.enumerate() {
            if experiment.programs[program].ready.is_some() {
                pending[program].push(process);
            }
        }
        Self {
            pending,
            elsewhere: others.then(|| vec![false; tells.len()]),
            tells,
            released: 0,
        }
    }

    /// Releases the programs that may start now, and returns them.
    pub fn release(&mut self) -> std::ops::Range<usize> {
        let from = self.released;
        while self.released < self.pending.len() {
            // The first program that is not ready is released; the programs after it wait.
            if self.released > 0 && !self.is_ready(self.released - 1) {
                break;
            }
            self.released += 1;
        }
        from..self.released
    }

    /// Whether a program no longer delays the programs after it.
    fn is_ready(&self, program: usize) -> bool {
        let elsewhere = self.elsewhere.as_ref().is_none_or(|e| e[program]);
        self.pending[program].is_empty() && (elsewhere || !self.tells[program])
    }

    /// Programs of which all local processes are ready.
    pub fn ready_here(&self) -> Vec<usize> {
        let programs = 0..self.pending.len();
        programs.filter(|p| self.pending[*p].is_empty()).collect()
    }

    /// Records that these programs are ready on all other hosts.
    pub fn ready_elsewhere(&mut self, programs: &[usize]) {
        let Some(elsewhere) = &mut self.elsewhere else {
            return;
        };
        for program in programs {
            if let Some(ready) = elsewhere.get_mut(*program) {
                *ready = true;
            }
        }
    }

    /// Processes of released programs that are not ready.
    pub fn waited_for(&self) -> Vec<ProcessId> {
        self.pending[..self.released].concat()
    }

    /// Records that a process is ready.
    pub fn ready(&mut self, process: ProcessId) {
        for list in &mut self.pending {
            list.retain(|p| *p != process);
        }
    }
}

/// Whether a socket listens at a port of one of `addresses`, according to the kernel's tables of
/// the network namespace of a process; sends no packet.
pub(super) fn listens(process: i32, addresses: &[IpAddr], sign: Sign) -> bool {
    let (protocol, port, state) = match sign {
        Sign::Tcp(port) => ("tcp", port, Some("0A")),
        Sign::Udp(port) => ("udp", port, None),
        Sign::After(_) | Sign::Exited => return false,
    };
    let four = fs::read_to_string(format!("/proc/{process}/net/{protocol}"));
    let six = fs::read_to_string(format!("/proc/{process}/net/{protocol}6"));
    let wanted: Vec<String> = (addresses.iter().copied())
        .flat_map(|address| forms(address, port))
        .collect();
    let found = |text: String| {
        text.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, _, now) = (fields.next(), fields.next(), fields.next());
            state.is_none_or(|state| now == Some(state))
                && local.is_some_and(|l| wanted.iter().any(|w| w == l))
        })
    };
    [four, six].into_iter().flatten().any(found)
}

/// The kernel's notation of an address with a port: 32-bit words in host byte order, in
/// hexadecimal. An IPv4 address also occurs as a mapped IPv6 address.
fn forms(address: IpAddr, port: u16) -> Vec<String> {
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        word.copy_from_slice(bytes);
        format!("{:08X}", u32::from_ne_bytes(word))
    };
    let words = |bytes: &[u8]| -> String { bytes.chunks_exact(4).map(word).collect() };
    match address {
        IpAddr::V4(four) => vec![
            format!("{}:{port:04X}", words(&four.octets())),
            format!("{}:{port:04X}", words(&four.to_ipv6_mapped().octets())),
        ],
        IpAddr::V6(six) => vec![format!("{}:{port:04X}", words(&six.octets()))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_the_kernel_s_tables() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let here = IpAddr::from([127, 0, 0, 1]);
        let other = IpAddr::from([127, 0, 0, 2]);
        let own = std::process::id().cast_signed();
        assert!(listens(own, &[here], Sign::Tcp(port)));
        assert!(listens(own, &[other, here], Sign::Tcp(port)));
        assert!(!listens(own, &[other], Sign::Tcp(port)));
        assert!(!listens(-1, &[here], Sign::Tcp(port)));
        drop(listener);
        assert!(!listens(own, &[here], Sign::Tcp(port)));
        let socket = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(listens(own, &["::1".parse().unwrap()], Sign::Udp(port)));
        assert!(!listens(own, &["::1".parse().unwrap()], Sign::Tcp(port)));
    }
}
