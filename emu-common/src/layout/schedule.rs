//! Schedules: rates and latencies of a pipe that are known beforehand.
use core::mem::{offset_of, size_of};

/// Bits of [`Schedule::flags`].
pub mod schedule_flag {
    /// Its rows have rates.
    pub const RATES: u32 = 1 << 0;
    /// Its rows have latencies.
    pub const LATENCIES: u32 = 1 << 1;
}

/// Most rows of a schedule: what [`crate::model::schedule::STEPS`] halvings search.
pub const MAX_SCHEDULE_ROWS: u32 = 1 << 20;
/// [`Schedule::limit_work`] of a queue without a limit in bytes.
pub const NO_LIMIT_WORK: u64 = u64::MAX;

/// Settings of a pipe from a time onwards. Written by user space, before a schedule that has
/// it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Row {
    /// Time since the start of the schedule, or of its repetition, in nanoseconds.
    pub start_ns: u64,
    /// What the pipe can transmit in all rows before this one, in
    /// 1/65,536 bytes ([`crate::model::schedule::WORK_BITS`]).
    pub work: u64,
    /// Nanoseconds for a byte, times 2^20; 0: the pipe transmits nothing.
    pub ns_per_byte_q20: u64,
    /// Propagation delay in nanoseconds.
    pub latency_ns: u64,
    /// Number of shorter latencies up to this row: added to the generation of the pipe.
    pub generation: u32,
    /// Makes the size a multiple of 8.
    pub reserved: u32,
}

/// The rows that a pipe follows. Written by user space only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Schedule {
    /// Its start, `CLOCK_MONOTONIC` nanoseconds; 0: it has not started. It may lie before the
    /// clock's zero: differences of times are taken modulo 2^64.
    pub start_ns: u64,
    /// Time after which it repeats, in nanoseconds; 0: the last row stays in effect.
    pub period_ns: u64,
    /// What the pipe can transmit in a period, as [`Row::work`].
    pub period_work: u64,
    /// Most that may wait in the queue, as [`Row::work`]; [`NO_LIMIT_WORK`] for none.
    pub limit_work: u64,
    /// The burst, as [`Row::work`].
    pub burst_work: u64,
    /// First row in the array of rows.
    pub first_row: u32,
    /// Number of rows, at most [`MAX_SCHEDULE_ROWS`].
    pub rows: u32,
    /// [`schedule_flag`] bits.
    pub flags: u32,
    /// Number of shorter latencies in a period.
    pub period_generations: u32,
    /// Keeps schedules in cache lines of their own.
    pub reserved: u64,
}

const _: () = {
    assert!(size_of::<Row>() == 40 && offset_of!(Row, generation) == 32);
    assert!(size_of::<Schedule>() == 64 && offset_of!(Schedule, first_row) == 40);
    assert!(offset_of!(Schedule, flags) == 48 && offset_of!(Schedule, reserved) == 56);
};

#[cfg(feature = "user")]
mod pod {
    use super::{Row, Schedule};

    // SAFETY: repr(C), four u64 and two u32, 40 bytes as asserted: no padding, every bit
    // pattern valid.
    unsafe impl aya::Pod for Row {}
    // SAFETY: repr(C), six u64 and four u32, 64 bytes as asserted: no padding, every bit
    // pattern valid.
    unsafe impl aya::Pod for Schedule {}
}
