//! A minimal program, and running programs on packets: `BPF_PROG_TEST_RUN`.
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// `enum bpf_cmd` and `enum bpf_prog_type` (uapi/linux/bpf.h).
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_SCHED_CLS: u64 = 3;
/// `r0 = -1; exit`: the packet goes on.
const EMPTY: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
/// Number of 64-bit fields of `union bpf_attr` that the two commands read.
const ATTR_FIELDS: usize = 10;

/// Loads a classifier of two instructions that lets every packet pass, to measure the cost of
/// calling any program.
pub fn empty_classifier() -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attr = [0u64; ATTR_FIELDS];
    // prog_type and insn_cnt, insns, license.
    attr[0] = pair(BPF_PROG_TYPE_SCHED_CLS as u32, EMPTY.len() as u32);
    attr[1] = EMPTY.as_ptr() as u64;
    attr[2] = license.as_ptr() as u64;
    let fd = bpf(BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else
    // knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs a program on a frame `repeat` times, and returns the mean time of a run in
/// nanoseconds, as measured by the kernel.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<u32> {
    let mut attr = [0u64; ATTR_FIELDS];
    // prog_fd and retval, data_size_in and data_size_out, data_in, data_out, repeat and
    // duration.
    attr[0] = pair(program.as_raw_fd().unsigned_abs(), 0);
    attr[1] = pair(frame.len() as u32, 0);
    attr[2] = frame.as_ptr() as u64;
    attr[4] = pair(repeat, 0);
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    let bytes = attr[4].to_ne_bytes();
    let [.., a, b, c, d] = bytes;
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// Two neighbouring 32-bit fields in the machine's order.
fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

fn bpf(command: libc::c_long, attr: &mut [u64; ATTR_FIELDS]) -> io::Result<i32> {
    let size = size_of_val(attr);
    // SAFETY: `attr` is as long as `size` says and zero beyond what the command reads;
    // the pointers in it are to slices that outlive this call in both callers, with
    // their true lengths; the kernel writes only into `attr`, as data_out is null.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}
