//! The three functions in machine code, and the parameters that they read.
//!
//! They replace the vDSO's functions, so they follow its calling convention: the C ABI,
//! with 0 or a negative error number as the result. For everything that they cannot answer
//! they make the system call.
use std::{arch::global_asm, mem::offset_of, slice};

use crate::line::{LinearTime, SHIFT};

/// The parameters that the functions read: a line and the offset of real time.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Sequence number; while it is odd, the other fields are invalid and the functions
    /// make system calls.
    pub sequence: u64,
    /// [`LinearTime::mult`] of the line.
    pub mult: u64,
    /// [`LinearTime::tsc`] of the line.
    pub tsc: u64,
    /// `CLOCK_REALTIME` in nanoseconds at the beginning of the line.
    pub real_ns: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds at the beginning of the line.
    pub monotonic_ns: u64,
}

impl Parameters {
    /// The parameters of a line; real time is `real_offset_ns` later than monotonic time.
    pub const fn new(sequence: u64, line: LinearTime, real_offset_ns: i64) -> Self {
        Self {
            sequence,
            mult: line.mult,
            tsc: line.tsc,
            real_ns: line.ns.wrapping_add_signed(real_offset_ns),
            monotonic_ns: line.ns,
        }
    }

    /// The parameters in their memory layout.
    pub fn bytes(self) -> Vec<u8> {
        let Self {
            sequence,
            mult,
            tsc,
            real_ns,
            monotonic_ns,
        } = self;
        [sequence, mult, tsc, real_ns, monotonic_ns]
            .map(u64::to_ne_bytes)
            .concat()
    }
}

// The parameters are the first bytes of the code.
global_asm!(
    ".pushsection .text.vm_clock, \"ax\", @progbits",
    ".globl vm_clock_start, vm_clock_clock_gettime, vm_clock_gettimeofday",
    ".globl vm_clock_time, vm_clock_end",
    ".balign 64",
    "vm_clock_start:",
    ".quad 1, 0, 0, 0, 0",
    // int clock_gettime(clockid_t edi, struct timespec *rsi)
    "vm_clock_clock_gettime:",
    "    cmp edi, 1",
    "    ja 2f",
    "    mov r10d, edi",
    "    call 5f",
    "    jc 2f",
    "    mov [rsi], rax",
    "    mov [rsi + 8], rdx",
    "    xor eax, eax",
    "    ret",
    "2:  mov eax, {sys_clock_gettime}",
    "    syscall",
    "    ret",
    // int gettimeofday(struct timeval *rdi, struct timezone *rsi)
    "vm_clock_gettimeofday:",
    "    test rsi, rsi",
    "    jnz 3f",
    "    test rdi, rdi",
    "    jz 3f",
    "    xor r10d, r10d",
    "    call 5f",
    "    jc 3f",
    "    mov [rdi], rax",
    "    mov rax, rdx",
    "    xor edx, edx",
    "    mov ecx, 1000",
    "    div rcx",
    "    mov [rdi + 8], rax",
    "    xor eax, eax",
    "    ret",
    "3:  mov eax, {sys_gettimeofday}",
    "    syscall",
    "    ret",
    // time_t time(time_t *rdi)
    "vm_clock_time:",
    "    xor r10d, r10d",
    "    call 5f",
    "    jc 4f",
    "    test rdi, rdi",
    "    jz 6f",
    "    mov [rdi], rax",
    "6:  ret",
    "4:  mov eax, {sys_time}",
    "    syscall",
    "    ret",
    // Computes seconds (rax) and nanoseconds (rdx) of clock r10 (0 real, 1 monotonic); sets
    // the carry flag if the caller must make the system call. Also changes rcx, r8, r9 and
    // r11.
    "5:  lea r8, [rip + vm_clock_start]",
    "7:  mov r9, [r8]",
    "    test r9, 1",
    "    jnz 8f",
    "    lfence",
    "    rdtsc",
    "    shl rdx, 32",
    "    or rax, rdx",
    "    xor r11d, r11d",
    "    sub rax, [r8 + {tsc}]",
    "    cmovb rax, r11",
    "    mul qword ptr [r8 + {mult}]",
    "    shrd rax, rdx, {shift}",
    "    add rax, [r8 + {real_ns} + 8 * r10]",
    "    cmp r9, [r8]",
    "    jne 7b",
    "    xor edx, edx",
    "    mov ecx, 1000000000",
    "    div rcx",
    "    clc",
    "    ret",
    "8:  stc",
    "    ret",
    "vm_clock_end:",
    ".popsection",
    sys_clock_gettime = const libc::SYS_clock_gettime,
    sys_gettimeofday = const libc::SYS_gettimeofday,
    sys_time = const libc::SYS_time,
    tsc = const offset_of!(Parameters, tsc),
    mult = const offset_of!(Parameters, mult),
    real_ns = const offset_of!(Parameters, real_ns),
    shift = const SHIFT,
);

unsafe extern "C" {
    static vm_clock_start: u8;
    static vm_clock_clock_gettime: u8;
    static vm_clock_gettimeofday: u8;
    static vm_clock_time: u8;
    static vm_clock_end: u8;
}

/// The machine code and its entry points.
#[derive(Debug)]
pub struct Code {
    /// Position-independent code, which begins with [`Parameters`].
    pub bytes: &'static [u8],
    /// Offset of each function, by the number of the system call that it replaces.
    pub entries: [(i64, usize); 3],
}

/// The code that is linked into this program.
pub fn code() -> Code {
    let start = &raw const vm_clock_start;
    let offset = |symbol: *const u8| symbol.addr() - start.addr();
    let length = offset(&raw const vm_clock_end);
    // SAFETY: the two symbols are the first byte of the block above and the byte after its
    // last one; the block is in this program's memory, initialised and never written.
    let bytes = unsafe { slice::from_raw_parts(start, length) };
    Code {
        bytes,
        entries: [
            (
                libc::SYS_clock_gettime,
                offset(&raw const vm_clock_clock_gettime),
            ),
            (
                libc::SYS_gettimeofday,
                offset(&raw const vm_clock_gettimeofday),
            ),
            (libc::SYS_time, offset(&raw const vm_clock_time)),
        ],
    }
}
