//! The machine code in memory of its own, compared with the line and with the kernel.
use std::{ffi::c_void, num::NonZeroUsize, ptr};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use crate::{
    Follower, Parameters, Sample,
    code::{Code, code},
    counter,
    line::LinearTime,
    read,
};

type ClockGettime = extern "C" fn(libc::clockid_t, *mut libc::timespec) -> i64;
type Gettimeofday = extern "C" fn(*mut libc::timeval, *mut c_void) -> i64;
type Time = extern "C" fn(*mut libc::time_t) -> libc::time_t;

/// A writable and executable copy of the code.
struct Copy {
    base: *mut u8,
    code: Code,
}

impl Copy {
    fn new() -> Self {
        let code = code();
        let length = NonZeroUsize::new(4096).unwrap();
        let all = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
        // SAFETY: a new mapping that nothing else refers to, longer than the code.
        let base = unsafe {
            let base = mmap_anonymous(None, length, all, MapFlags::MAP_PRIVATE)
                .unwrap()
                .as_ptr()
                .cast::<u8>();
            ptr::copy_nonoverlapping(code.bytes.as_ptr(), base, code.bytes.len());
            base
        };
        Self { base, code }
    }

    fn set(&self, parameters: Parameters) {
        // SAFETY: the mapping begins with the parameters and is aligned to a page.
        unsafe { self.base.cast::<Parameters>().write(parameters) };
    }

    fn entry(&self, call: i64) -> *mut u8 {
        let entry = self
            .code
            .entries
            .iter()
            .find(|(c, _)| *c == call)
            .unwrap()
            .1;
        // SAFETY: entry offsets are within the code.
        unsafe { self.base.add(entry) }
    }

    fn clock_gettime(&self, clock: libc::clockid_t) -> u64 {
        // SAFETY: this entry has that signature.
        let function: ClockGettime =
            unsafe { std::mem::transmute(self.entry(libc::SYS_clock_gettime)) };
        let mut time = libc::timespec {
            tv_sec: -1,
            tv_nsec: -1,
        };
        assert_eq!(function(clock, &raw mut time), 0);
        assert!((0..1_000_000_000).contains(&time.tv_nsec));
        (time.tv_sec * 1_000_000_000 + time.tv_nsec).cast_unsigned()
    }

    fn gettimeofday(&self, zone: *mut c_void) -> u64 {
        // SAFETY: this entry has that signature.
        let function: Gettimeofday =
            unsafe { std::mem::transmute(self.entry(libc::SYS_gettimeofday)) };
        let mut time = libc::timeval {
            tv_sec: -1,
            tv_usec: -1,
        };
        assert_eq!(function(&raw mut time, zone), 0);
        assert!((0..1_000_000).contains(&time.tv_usec));
        (time.tv_sec * 1_000_000 + time.tv_usec).cast_unsigned()
    }

    fn time(&self) -> i64 {
        // SAFETY: this entry has that signature.
        let function: Time = unsafe { std::mem::transmute(self.entry(libc::SYS_time)) };
        let mut time = -1;
        assert_eq!(function(&raw mut time), time);
        assert_eq!(function(ptr::null_mut()).abs_diff(time) / 2, 0);
        time
    }
}

const HOUR_NS: u64 = 3_600_000_000_000;

#[test]
fn the_code_computes_what_the_line_says() {
    let copy = Copy::new();
    let now = counter();
    // Lines that began years ago and a second ago, with their rates, and one that begins in
    // the future.
    for (tsc, mult) in [
        (now - 1, 1 << 32),
        (now / 2, 1_717_986_918),
        (now + (1 << 50), 1 << 31),
    ] {
        let line = LinearTime {
            tsc,
            ns: 123 * HOUR_NS + 999_999_999,
            mult,
        };
        let offset = 456_789 * HOUR_NS.cast_signed() + 7;
        copy.set(Parameters::new(2, line, offset));
        let before = line.at(counter());
        let (monotonic, real) = (copy.clock_gettime(1), copy.clock_gettime(0));
        let (micros, seconds) = (copy.gettimeofday(ptr::null_mut()), copy.time());
        let after = line.at(counter());
        let range = |d: u64| before / d..=after / d;
        assert!(
            range(1).contains(&monotonic),
            "{monotonic} {before} {after}"
        );
        let back = |real: u64| real.wrapping_add_signed(-offset);
        assert!(range(1).contains(&back(real)), "{real}");
        let real_range =
            |d: u64| before.wrapping_add_signed(offset) / d..=after.wrapping_add_signed(offset) / d;
        assert!(real_range(1_000).contains(&micros), "{micros}");
        assert!(
            real_range(1_000_000_000).contains(&seconds.cast_unsigned()),
            "{seconds}"
        );
    }
}

#[test]
fn other_clocks_are_read_by_system_call() {
    let copy = Copy::new();
    let wrong = LinearTime {
        tsc: 0,
        ns: 0,
        mult: 0,
    };
    let near = |ours: u64, unit: u64, clock| {
        let kernels = read(clock) / unit;
        assert!(
            ours <= kernels && kernels - ours < 60_000_000_000 / unit,
            "{ours} {kernels}"
        );
    };
    // The initial state without parameters, and the state while they are written.
    for sequence in [None, Some(3)] {
        if let Some(sequence) = sequence {
            copy.set(Parameters::new(sequence, wrong, 0));
        }
        near(copy.clock_gettime(1), 1, libc::CLOCK_MONOTONIC);
        near(copy.clock_gettime(0), 1, libc::CLOCK_REALTIME);
        near(
            copy.gettimeofday(ptr::null_mut()),
            1_000,
            libc::CLOCK_REALTIME,
        );
        near(
            copy.time().cast_unsigned(),
            1_000_000_000,
            libc::CLOCK_REALTIME,
        );
    }
    copy.set(Parameters::new(2, wrong, 0));
    assert_eq!(copy.clock_gettime(1), 0);
    for clock in [
        libc::CLOCK_PROCESS_CPUTIME_ID,
        libc::CLOCK_BOOTTIME,
        libc::CLOCK_REALTIME_COARSE,
    ] {
        near(copy.clock_gettime(clock), 1, clock);
    }
    let mut zone = [0_i32; 2];
    near(
        copy.gettimeofday(zone.as_mut_ptr().cast()),
        1_000,
        libc::CLOCK_REALTIME,
    );
}

#[test]
fn this_machines_counter_follows_its_clock() {
    let source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = std::fs::read_to_string(source).unwrap_or_default();
    if source.trim() != "tsc" {
        eprintln!("SKIPPED: this machine's clock source is not tsc but {source:?}");
        return;
    }
    let first = Sample::best(libc::CLOCK_MONOTONIC);
    std::thread::sleep(crate::FIRST_INTERVAL);
    let mut follower = Follower::new(first, Sample::best(libc::CLOCK_MONOTONIC)).unwrap();
    for _ in 0..20 {
        std::thread::sleep(crate::FIRST_INTERVAL);
        let sample = Sample::best(libc::CLOCK_MONOTONIC);
        let line = follower.follow(sample, 8_000_000).unwrap();
        assert!(line.at(sample.tsc).abs_diff(sample.ns) < 100_000);
    }
}
