//! The library under a process that does what User-Mode Linux does: makes its timer, waits
//! when it is idle, waits for guest processes, asks for random bytes.
//!
//! Each test starts this program again, with the library preloaded and the name of a part
//! to play; the part prints what it saw.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
use std::{
    env,
    ffi::{c_int, c_long, c_void},
    fs::{self, File},
    io::{Read, Write},
    mem,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    process::{Command, Stdio},
    ptr,
    sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use vm_protocol::{
    clock_page::{ClockPage, Word},
    settings,
};

/// Variable with the part that this process plays.
const PART: &str = "FAKE_KERNEL_PART";
const SECOND_NS: u64 = 1_000_000_000;
/// Emulated time of the first entry (`FIRST_ENTRY_NS` of the library).
const FIRST_ENTRY_NS: u64 = 2 * SECOND_NS;

/// Plays a part in a process of its own and gives what it printed. The settings are the
/// environment of the library.
fn play(part: &str, settings: &[(&str, &str)]) -> String {
    let me = env::current_exe().unwrap();
    let library = me.parent().unwrap().join("libvm_time.so");
    assert!(library.exists(), "{} is not built", library.display());
    let output = Command::new(me)
        .args(["--exact", "the_part", "--nocapture"])
        .env(PART, part)
        .env("LD_PRELOAD", library)
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{part}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let said = text.lines().filter_map(|line| line.split_once("SAW "));
    said.map(|(_, said)| said).collect::<Vec<_>>().join("\n")
}

fn saw(what: impl std::fmt::Display) {
    // A line of its own: the test runner has begun one.
    let _ = writeln!(std::io::stdout(), "\nSAW {what}");
}

#[test]
fn the_part() {
    let Ok(part) = env::var(PART) else {
        return;
    };
    match part.as_str() {
        "idle-poll" => idle(true),
        "idle-sigsuspend" => idle(false),
        "poll-the-clock" => poll_the_clock(),
        "entries" => entries(),
        "compute" => compute(),
        "random" => random(),
        "full-pipe" => full_pipe(),
        "writable-pipe" => writable_pipe(),
        "dead-child" => dead_child(),
        "interrupted-child" => interrupted_child(),
        "cancelled-helper" => cancelled_helper(),
        "file-times" => file_times(),
        "one-shot" => one_shot(),
        other => panic!("no part {other}"),
    }
}

// ---- what User-Mode Linux does ----

fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: one timespec, which lives across the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * SECOND_NS + time.tv_nsec.cast_unsigned()
}

/// Makes the kernel's timer, and a handler that counts its signals.
fn timer() -> libc::timer_t {
    let mut timer: libc::timer_t = ptr::null_mut();
    // SAFETY: all zeroes are a valid sigevent and sigaction; what is pointed to lives across
    // the calls; the handler stores to an atomic and nothing else.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_alarm as *const () as usize;
        libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut());
        let mut event: libc::sigevent = mem::zeroed();
        libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer);
    }
    timer
}

static ALARMS: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_alarm(_: c_int) {
    ALARMS.fetch_add(1, SeqCst);
}

fn arm(timer: libc::timer_t, after_ns: u64) {
    // SAFETY: all zeroes are a valid itimerspec, which lives across the call.
    unsafe {
        let mut times: libc::itimerspec = mem::zeroed();
        times.it_value.tv_sec = (after_ns / SECOND_NS).cast_signed();
        times.it_value.tv_nsec = (after_ns % SECOND_NS).cast_signed();
        libc::timer_settime(timer, 0, &raw const times, ptr::null_mut());
    }
}

fn alarm_mask() -> libc::sigset_t {
    // SAFETY: all zeroes are a valid signal set, which lives across the calls.
    unsafe {
        let mut mask: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGALRM);
        mask
    }
}

/// Waits for a 32-bit word to change, as a kernel with seccomp waits for a guest process: one
/// entry of a program.
fn wait_for(word: &AtomicI32, value: i32) -> c_long {
    let none: *const c_void = ptr::null();
    // SAFETY: the 32-bit word lives across the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            value,
            none,
            none,
            0,
        )
    }
}

/// An entry that is over at once: the 32-bit word has changed already.
fn enter() {
    assert_eq!(wait_for(&AtomicI32::new(1), 0), -1);
}

// ---- parts ----

fn idle(by_poll: bool) {
    let timer = timer();
    let (mask, start) = (alarm_mask(), now_ns());
    // SAFETY: the sets and the pollfd live across the calls.
    unsafe {
        let mut old: libc::sigset_t = mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const mask, &raw mut old);
        if by_poll {
            let fd = libc::signalfd(-1, &raw const mask, libc::SFD_NONBLOCK);
            arm(timer, 1_000 * SECOND_NS);
            let mut polled = libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            assert_eq!(libc::poll(&raw mut polled, 1, -1), 1);
        } else {
            arm(timer, 1_000 * SECOND_NS);
            assert_eq!(libc::sigsuspend(&raw const old), -1);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, ptr::null_mut());
    }
    saw(format!("{} {}", ALARMS.load(SeqCst), now_ns() - start));
}

fn one_shot() {
    let timer = timer();
    arm(timer, 10 * SECOND_NS);
    // SAFETY: all zeroes are a valid itimerspec, which lives across the call.
    let left = unsafe {
        let mut left: libc::itimerspec = mem::zeroed();
        libc::timer_gettime(timer, &raw mut left);
        left.it_value
    };
    let left_ns = left.tv_sec.cast_unsigned() * SECOND_NS + left.tv_nsec.cast_unsigned();
    saw(left_ns.abs_diff(10 * SECOND_NS) < 256);
}

fn poll_the_clock() {
    timer();
    let start = now_ns();
    let mut reads = 0_u32;
    while now_ns() - start < 5_000_000 {
        reads += 1;
    }
    saw(reads);
}

fn entries() {
    let timer = timer();
    enter();
    let first = now_ns();
    arm(timer, 500_000);
    for _ in 0..499 {
        enter();
    }
    let before = ALARMS.load(SeqCst);
    enter();
    enter();
    saw(format!(
        "{} {} {before} {}",
        first,
        now_ns() - first,
        ALARMS.load(SeqCst)
    ));
}

/// Computes without a call until the timer's signal comes.
fn compute() {
    let timer = timer();
    enter();
    arm(timer, 7 * SECOND_NS);
    let start = now_ns();
    let mut sum = 0_u64;
    while ALARMS.load(SeqCst) == 0 {
        sum = std::hint::black_box(sum + 1);
    }
    saw((now_ns() - start) / 1_000_000);
}

fn random() {
    let mut bytes = [0_u8; 16];
    // SAFETY: the call writes as many bytes as the buffer has; the path ends with NUL.
    unsafe {
        libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0);
        let device = libc::open64(c"/dev/random".as_ptr(), libc::O_RDONLY);
        saw(format!("{bytes:02x?} {}", device >= 0));
    }
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: the call writes two numbers, of which nobody else has the files.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

fn full_pipe() {
    timer();
    let (mut reader, writer) = pipe();
    let slow = thread::spawn(move || {
        let (mut total, mut buffer) = (0, [0; 65_536]);
        loop {
            thread::sleep(Duration::from_millis(20));
            match reader.read(&mut buffer) {
                Ok(0) => return total,
                Ok(n) => total += n,
                Err(_) => {}
            }
        }
    });
    let bytes = vec![7_u8; 300_000];
    let mut sent = 0;
    while sent < bytes.len() {
        // SAFETY: the rest of the buffer, which lives across the call.
        let n = unsafe {
            libc::write(
                writer.as_raw_fd(),
                bytes[sent..].as_ptr().cast(),
                bytes.len() - sent,
            )
        };
        assert!(n > 0, "never EAGAIN");
        sent += n.cast_unsigned();
    }
    drop(writer);
    saw(slow.join().unwrap());
}

fn writable_pipe() {
    timer();
    let (_reader, writer) = pipe();
    // SAFETY: the events live across the calls.
    unsafe {
        let epoll = libc::epoll_create1(0);
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLOUT) as u32,
            u64: 1,
        };
        libc::epoll_ctl(
            epoll,
            libc::EPOLL_CTL_ADD,
            writer.as_raw_fd(),
            &raw mut event,
        );
        saw(libc::epoll_wait(epoll, &raw mut event, 1, 0));
    }
}

static CHILDREN: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_child(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    CHILDREN.fetch_add(1, SeqCst);
}

/// A process that sleeps until it is killed.
fn sleeper() -> c_int {
    // SAFETY: the child calls pause and nothing else.
    match unsafe { libc::fork() } {
        0 => loop {
            // SAFETY: no arguments.
            unsafe { libc::pause() };
        },
        pid => pid,
    }
}

fn dead_child() {
    timer();
    // SAFETY: all zeroes are a valid sigaction; the handler stores to an atomic.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_child as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGCHLD, &raw const action, ptr::null_mut());
    }
    enter();
    let child = sleeper();
    // SAFETY: a process of our own.
    unsafe { libc::kill(child, libc::SIGKILL) };
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
    let is_dead = stat.contains(") Z ");
    thread::sleep(Duration::from_millis(20));
    let held = CHILDREN.load(SeqCst);
    enter();
    saw(format!("{is_dead} {held} {}", CHILDREN.load(SeqCst)));
}

/// The kernel interrupts a guest process for its timer only while it runs.
fn interrupted_child() {
    timer();
    let child = sleeper();
    // SAFETY: a process of our own; its end is waited for.
    unsafe {
        assert_eq!(libc::kill(child, libc::SIGALRM), 0);
        thread::sleep(Duration::from_millis(20));
        let alive = libc::kill(child, 0) == 0
            && !fs::read_to_string(format!("/proc/{child}/stat"))
                .unwrap()
                .contains(") Z ");
        libc::kill(child, libc::SIGKILL);
        saw(alive);
    }
}

static CANCELLED: AtomicBool = AtomicBool::new(false);

extern "C" fn helper(_: *mut c_void) -> *mut c_void {
    // SAFETY: nothing is polled.
    unsafe { libc::poll(ptr::null_mut(), 0, -1) };
    CANCELLED.store(false, SeqCst);
    ptr::null_mut()
}

unsafe extern "C" {
    fn pthread_cancel(thread: libc::pthread_t) -> c_int;
}

fn cancelled_helper() {
    timer();
    CANCELLED.store(true, SeqCst);
    // SAFETY: the thread's function has the type that is asked for; it is joined.
    unsafe {
        let mut thread: libc::pthread_t = mem::zeroed();
        libc::pthread_create(&raw mut thread, ptr::null(), helper, ptr::null_mut());
        thread::sleep(Duration::from_millis(50));
        pthread_cancel(thread);
        libc::pthread_join(thread, ptr::null_mut());
    }
    saw(CANCELLED.load(SeqCst));
}

fn file_times() {
    timer();
    let path = env::temp_dir().join(format!("fake-kernel-{}\0", std::process::id()));
    // SAFETY: the path ends with NUL; the bytes live across the call.
    let file = unsafe {
        let flags = libc::O_RDWR | libc::O_CREAT;
        let fd = libc::open64(
            path.as_os_str().as_encoded_bytes().as_ptr().cast(),
            flags,
            0o600,
        );
        libc::pwrite64(fd, c"x".as_ptr().cast(), 1, 0);
        File::from_raw_fd(fd)
    };
    let name = path.to_str().unwrap().trim_end_matches('\0').to_owned();
    fs::remove_file(name).unwrap();
    saw(file.metadata().unwrap().mtime());
}

// ---- what they must see ----

#[test]
fn an_idle_kernel_is_at_its_next_timer_at_once() {
    for part in ["idle-poll", "idle-sigsuspend"] {
        let start = Instant::now();
        let said = play(part, &[]);
        let (alarms, passed) = said.split_once(' ').unwrap();
        assert_eq!(alarms, "1", "{part}");
        let late = passed.parse::<u64>().unwrap() - 1_000 * SECOND_NS;
        assert!(late < 256, "{part}: {late} ns late");
        assert!(start.elapsed() < Duration::from_secs(100), "{part}");
    }
    assert_eq!(play("one-shot", &[]), "true");
}

#[test]
fn a_kernel_that_waits_for_the_clock_sees_it_move() {
    let reads: u32 = play("poll-the-clock", &[]).parse().unwrap();
    // 1,000 reads are free, then each costs a microsecond.
    assert!((5_900..=6_100).contains(&reads), "{reads} reads");
}

#[test]
fn each_entry_costs_the_same_and_the_timer_comes_between_two() {
    let said = play("entries", &[]);
    let first = FIRST_ENTRY_NS + 1_000;
    assert_eq!(said, format!("{first} 501000 0 1"));
    let said = play("entries", &[(settings::CALL_NS, "250")]);
    assert!(said.ends_with(" 125250 0 0"), "a quarter: {said}");
}

#[test]
fn one_that_computes_without_a_call_is_interrupted() {
    assert_eq!(play("compute", &[]), "7000");
    // Where computing takes time, seven seconds are some: seven times 1,000 of it.
    let passed: u64 = play("compute", &[(settings::CPU_PERMILLE, "100000")])
        .parse()
        .unwrap();
    assert!((7_000..8_000).contains(&passed), "{passed} ms");
}

#[test]
fn random_bytes_follow_from_a_seed() {
    let seeded = |seed| play("random", &[(settings::SEED, seed)]);
    assert_eq!(seeded("1"), seeded("1"));
    assert_ne!(seeded("1"), seeded("2"));
    assert!(
        seeded("1").ends_with("false"),
        "the host's entropy is hidden"
    );
    let [one, two] = [play("random", &[]), play("random", &[])];
    assert!(one != two && one.ends_with("true"), "{one} {two}");
}

#[test]
fn time_does_not_fly_while_a_reader_is_slow() {
    assert_eq!(play("full-pipe", &[]), "300000");
    assert_eq!(play("writable-pipe", &[]), "0");
}

#[test]
fn dead_processes_are_told_of_at_the_next_entry() {
    assert_eq!(play("dead-child", &[]), "true 0 1");
    assert_eq!(play("interrupted-child", &[]), "true");
}

#[test]
fn helper_threads_can_be_cancelled() {
    assert_eq!(play("cancelled-helper", &[]), "true");
}

#[test]
fn files_have_the_emulated_time() {
    let start = 1_767_225_600_u64;
    let start_ns = (start * SECOND_NS).to_string();
    let seen = play("file-times", &[(settings::START_NS, &start_ns)]);
    assert_eq!(seen, start.to_string());
}

#[test]
fn the_page_tells_what_happened() {
    let folder = env::temp_dir().join(format!("vm-time-{}", std::process::id()));
    let page = |part: &str| {
        let path: PathBuf = folder.with_extension(part);
        play(part, &[(settings::PAGE, path.to_str().unwrap())]);
        let page = ClockPage::parse(&fs::read(&path).unwrap()).unwrap();
        fs::remove_file(path).unwrap();
        page
    };
    let entries = page("entries");
    assert_eq!(entries.get(Word::Entries), 502);
    assert_eq!(entries.get(Word::Interrupts), 1);
    assert_eq!((entries.get(Word::CallNs), entries.spins()), (1_000, 0));
    assert_eq!(entries.emulated_ns(), 502_000);
    assert_eq!(page("compute").spins(), 1);
    assert_eq!(page("idle-poll").get(Word::Idles), 1);
}
