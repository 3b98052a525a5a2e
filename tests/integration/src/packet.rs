//! Packets built by hand, and test runs of a program on a packet.
use std::time::Duration;

use aya::{TestRunOptions, programs::TestRun};
use emu_kernel::bpf::Programs;

/// Offsets of fields in `struct __sk_buff` (uapi/linux/bpf.h).
const PRIORITY: usize = 32;
const IFINDEX: usize = 40;
const TSTAMP: usize = 152;
const CONTEXT_BYTES: usize = 192;

/// An Ethernet frame with this ethertype.
pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet of `ip_bytes` in an Ethernet frame.
///
/// # Panics
/// If an address is invalid.
pub fn ipv4(source: &str, destination: &str, ip_bytes: usize) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut packet = vec![0u8; ip_bytes.max(20)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(ip_bytes as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&octets(source));
    packet[16..20].copy_from_slice(&octets(destination));
    ethernet(0x0800, &packet)
}

/// An IPv6 packet of `ip_bytes` in an Ethernet frame, with a fragment header as its first
/// extension header.
///
/// # Panics
/// If an address is invalid.
pub fn ipv6(source: &str, destination: &str, ip_bytes: usize) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut packet = vec![0u8; ip_bytes.max(40)];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(ip_bytes.saturating_sub(40) as u16).to_be_bytes());
    packet[6] = 44;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&octets(source));
    packet[24..40].copy_from_slice(&octets(destination));
    ethernet(0x86dd, &packet)
}

/// Effects of a program on a packet.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Return value of the program: a TC verdict, or whether the class matches.
    pub verdict: i32,
    /// Bytes of the packet after the run.
    pub bytes: Vec<u8>,
    /// Delivery time in `CLOCK_MONOTONIC` nanoseconds; 0 if the program set none.
    pub due_ns: u64,
    /// Priority of the packet after the run.
    pub priority: u32,
    /// Mean time per run.
    pub duration: Duration,
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the programs.
///
/// # Panics
/// Never on Linux.
pub fn monotonic_ns() -> u64 {
    let now: Duration = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .unwrap()
        .into();
    now.as_nanos() as u64
}

/// Runs a program on a frame on `lo`; `None` if the kernel refuses the frame.
///
/// # Panics
/// If the program is missing.
pub fn try_run(programs: &Programs, name: &str, frame: &[u8]) -> Option<Outcome> {
    run_on(programs, name, frame, 0)
}

/// Runs a program on a frame on the interface with an index (0: `lo`); `None` if the kernel
/// refuses the frame.
///
/// # Panics
/// If the program is missing.
pub fn run_on(programs: &Programs, name: &str, frame: &[u8], interface: u32) -> Option<Outcome> {
    let program = programs.program(name).unwrap();
    let mut out = vec![0u8; frame.len() + 64];
    let mut context_in = [0u8; CONTEXT_BYTES];
    context_in[PRIORITY..PRIORITY + 4].copy_from_slice(&7u32.to_ne_bytes());
    context_in[IFINDEX..IFINDEX + 4].copy_from_slice(&interface.to_ne_bytes());
    let mut context_out = [0u8; CONTEXT_BYTES];
    let result = program
        .test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context_in),
            ctx_out: Some(&mut context_out),
            ..TestRunOptions::default()
        })
        .ok()?;
    out.truncate(result.data_size_out as usize);
    let word = |at: usize| u32::from_ne_bytes(context_out[at..at + 4].try_into().unwrap());
    Some(Outcome {
        verdict: result.return_value as i32,
        bytes: out,
        due_ns: u64::from_ne_bytes(context_out[TSTAMP..TSTAMP + 8].try_into().unwrap()),
        priority: word(PRIORITY),
        duration: result.duration,
    })
}

/// Runs a program on a valid frame.
///
/// # Panics
/// If the kernel refuses the frame.
pub fn run(programs: &Programs, name: &str, frame: &[u8]) -> Outcome {
    try_run(programs, name, frame).unwrap_or_else(|| panic!("{name}: the kernel refused the run"))
}

/// Runs a program on the same frame `times` times; returns the mean time per run.
///
/// # Panics
/// If the kernel refuses the frame.
pub fn repeat(programs: &Programs, name: &str, frame: &[u8], times: u32) -> Duration {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat: times,
        ..TestRunOptions::default()
    };
    let result = programs.program(name).unwrap().test_run(options);
    result.unwrap_or_else(|e| panic!("{name}: {e}")).duration
}
