//! The one clock of the kernel's process, and how it goes on.
use core::{
    cell::Cell,
    ffi::c_int,
    ptr,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed},
};
use std::sync::OnceLock;

use vm_protocol::{clock_page, clock_page::Word, segment::NEVER};

use crate::{
    clock::{Clock, FIRST_ENTRY_NS, START_NS, Words},
    controller::Controller,
    host,
    random::Random,
    settings::Settings,
    spin,
    trace::{Step, Trace},
};

/// The kernel polls the clock: reads without anything else before each costs time.
const FREE_READS: u64 = 1_000;
/// What such a read costs.
const READ_NS: u64 = 1_000;

/// What drives the emulated time of this process.
pub struct State {
    /// What was asked for.
    pub settings: Settings,
    /// The clock.
    pub clock: Clock,
    /// Random bytes, if they follow from a seed.
    pub random: Option<Random>,
    /// Several VMs in one time.
    pub controller: Option<Controller>,
    /// Programs' processor time, where it is charged.
    pub cpu: crate::cpu::Charged,
    trace: Option<Trace>,
    host_start_ns: u64,
    /// Changes with each sign that the VM makes progress.
    progress: AtomicU64,
    reads_since: AtomicU64,
    reads_progress: AtomicU64,
}

static STATE: OnceLock<State> = OnceLock::new();
/// Whether the kernel runs: it has made its timer.
static RUNNING: AtomicBool = AtomicBool::new(false);
/// The guest process that runs now, on the host; 0: the kernel does.
static IN_CHILD: AtomicI32 = AtomicI32::new(0);

thread_local! {
    static IS_KERNEL: Cell<bool> = const { Cell::new(false) };
}

/// The state, made at the first call.
pub fn state() -> &'static State {
    STATE.get_or_init(State::new)
}

/// The state, for those who know that the kernel runs; none before that, and in helpers.
pub fn running() -> Option<&'static State> {
    (RUNNING.load(Relaxed) && IS_KERNEL.get()).then(state)
}

/// The calling thread is the kernel's.
pub fn begin() -> &'static State {
    IS_KERNEL.set(true);
    RUNNING.store(true, Relaxed);
    state()
}

/// A guest process runs from now on until [`State::entered`]. -1 if it is not known which.
pub fn enter_child(pid: c_int) {
    IN_CHILD.store(if pid == 0 { -1 } else { pid }, Relaxed);
}

/// The kernel runs again.
pub fn leave_child() {
    IN_CHILD.store(0, Relaxed);
}

/// The guest process that runs now: 0 none, -1 one that is not known.
pub fn child() -> c_int {
    IN_CHILD.load(Relaxed)
}

impl State {
    fn new() -> Self {
        let settings = Settings::from_environment();
        let clock = Clock::new(map_page(&settings));
        for (word, value) in [
            (Word::Magic, clock_page::MAGIC),
            (Word::CallNs, settings.call_ns),
            (Word::CpuPermille, settings.cpu_permille),
            (Word::Seeded, u64::from(settings.seed.is_some())),
        ] {
            clock.set(word, value);
        }
        Self {
            random: settings.seed.map(Random::new),
            controller: settings.control_fd.map(Controller::new),
            trace: settings.trace.as_deref().and_then(Trace::create),
            cpu: crate::cpu::Charged::new(settings.cpu_permille),
            host_start_ns: host::clock_ns(libc::CLOCK_MONOTONIC),
            settings,
            clock,
            progress: AtomicU64::new(0),
            reads_since: AtomicU64::new(0),
            reads_progress: AtomicU64::new(0),
        }
    }

    /// Time of day, in nanoseconds since 1970.
    pub fn time_of_day_ns(&self) -> u64 {
        self.settings.start_ns + (self.clock.now_ns() - START_NS)
    }

    /// Notes a sign that the VM makes progress.
    pub fn progressed(&self) {
        self.progress
            .store(self.progress.load(Relaxed) + 1, Relaxed);
    }

    /// What changes with each sign of progress.
    pub fn progress(&self) -> u64 {
        self.progress.load(Relaxed)
    }

    /// Lets the page tell the host's time.
    pub fn tell_wall(&self) {
        let wall = host::clock_ns(libc::CLOCK_MONOTONIC) - self.host_start_ns;
        self.clock.set(Word::WallNs, wall);
    }

    fn trace(&self, step: Step, detail: u64) {
        if let Some(trace) = &self.trace {
            trace.write(
                step,
                self.clock.now_ns(),
                self.clock.get(Word::Entries),
                detail,
            );
        }
    }

    /// The kernel reads the clock.
    pub fn read(&self) {
        // What helper threads read says nothing about the kernel.
        if running().is_none() {
            return;
        }
        self.clock.count(Word::Reads);
        self.charge_cpu();
        // A loop in the kernel that waits for the clock to move sees it move.
        let progress = self.progress();
        if self.reads_progress.swap(progress, Relaxed) != progress {
            self.reads_since.store(0, Relaxed);
        }
        let reads = self.reads_since.load(Relaxed) + 1;
        self.reads_since.store(reads, Relaxed);
        self.trace(Step::Read, reads);
        if reads > FREE_READS {
            self.charge(READ_NS);
        }
    }

    /// Arms the kernel's timer.
    pub fn arm(&self, after_ns: u64, interval_ns: u64) {
        self.progressed();
        self.clock.arm(after_ns, interval_ns);
        self.trace(Step::Arm, after_ns);
    }

    /// A program entered the kernel.
    pub fn entered(&self) {
        if self.clock.get(Word::Entries) == 0 {
            self.first_entry();
        }
        self.clock.count(Word::Entries);
        self.progressed();
        crate::children::deliver();
        self.charge_cpu();
        self.trace(Step::Entry, 0);
        self.charge(self.settings.call_ns);
    }

    fn first_entry(&self) {
        self.tell_wall();
        spin::watch_programs(self.settings.spin_ms, self.settings.cpu_permille);
        self.clock.set(Word::BootSpins, self.clock.get(Word::Spins));
        self.clock
            .set(Word::BootWallNs, self.clock.get(Word::WallNs));
        self.clock.reach(FIRST_ENTRY_NS);
        self.clock.set(Word::BootNs, self.clock.now_ns());
        if let Some(controller) = &self.controller {
            controller.begin(self.clock.now_ns());
        }
    }

    /// Emulated time goes on by this.
    fn charge(&self, ns: u64) {
        self.reach(self.clock.now_ns() + ns);
        self.interrupt_if_due();
    }

    /// Charges what the VM's processes computed, where that is asked for.
    pub fn charge_cpu(&self) {
        let Some(cpu) = self.cpu.take(child()) else {
            return;
        };
        self.clock
            .set(Word::CpuNs, self.clock.get(Word::CpuNs) + cpu.used_ns);
        self.charge(cpu.charged_ns);
    }

    fn reach(&self, time_ns: u64) {
        match &self.controller {
            Some(controller) => controller.reach(&self.clock, time_ns),
            None => self.clock.reach(time_ns),
        }
    }

    fn interrupt_if_due(&self) -> bool {
        let due = self.clock.take_interrupt();
        if due {
            self.trace(Step::Interrupt, 0);
            host::signal_self(libc::SIGALRM);
        }
        due
    }

    /// The VM is idle: time jumps to what happens next. False if nothing does by itself.
    pub fn skip_idle(&self) -> bool {
        self.clock.count(Word::Idles);
        self.progressed();
        crate::children::deliver();
        self.tell_wall();
        self.charge_cpu();
        let deadline = self.clock.deadline_ns();
        self.trace(Step::Idle, deadline.unwrap_or(0));
        if let Some(controller) = &self.controller {
            controller.skip(&self.clock, deadline.unwrap_or(NEVER));
        } else if let Some(deadline) = deadline {
            self.clock.reach(deadline);
        } else {
            return false;
        }
        self.interrupt_if_due();
        self.cpu.forget_idle();
        true
    }

    /// A program, or the kernel, computes and nothing makes progress: time jumps to the next
    /// timer, which interrupts it.
    pub fn spin(&self) {
        const STEP_NS: u64 = 1_000_000;
        self.clock.count(Word::Spins);
        let now = self.clock.now_ns();
        self.reach(self.clock.deadline_ns().unwrap_or(now + STEP_NS));
        self.trace(Step::Spin, 0);
        self.interrupt_if_due();
    }
}

/// Maps the clock page, or memory of our own where there is none.
fn map_page(settings: &Settings) -> &'static Words {
    let open = |path: &std::ffi::CStr| {
        let flags = i64::from(libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC);
        // SAFETY: the path ends with NUL and lives across the call.
        let fd = unsafe {
            host::raw(
                libc::SYS_open,
                [path.as_ptr() as i64, flags, 0o644, 0, 0, 0],
            )
        };
        // SAFETY: the call takes numbers only.
        let sized = unsafe {
            host::raw(
                libc::SYS_ftruncate,
                [fd, clock_page::BYTES as i64, 0, 0, 0, 0],
            )
        };
        (fd >= 0 && sized == 0).then_some(fd)
    };
    let fd = settings.page.as_deref().and_then(open);
    let (flags, fd) = fd.map_or((libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1), |fd| {
        (libc::MAP_SHARED, fd)
    });
    let access = i64::from(libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let memory = unsafe {
        host::raw(
            libc::SYS_mmap,
            [0, clock_page::BYTES as i64, access, i64::from(flags), fd, 0],
        )
    };
    if memory < 0 {
        std::process::abort();
    }
    let words: *const Words = ptr::with_exposed_provenance(memory as usize);
    // SAFETY: the mapping has at least this size, is page-aligned, holds 64-bit words that may
    // have any value, and is never unmapped; all access is atomic.
    unsafe { &*words }
}
