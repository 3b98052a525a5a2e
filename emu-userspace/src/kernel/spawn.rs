//! Starting a program straight in a cgroup, as a user, with nothing of ours between.
//!
//! `clone3` puts the child into its cgroup as it is made (Linux 5.7). Moving it there
//! later would wait for all forks of the machine, each time.
//!
//! Some kernels (6.1.176 among them) kill what is so made if its cgroup was ever
//! emptied by `cgroup.kill` and ours was not, or the other way about: they compare the
//! number of kills of the wrong cgroup. So each program gets a fresh cgroup, and one
//! that is killed before its first step is made again and moved.
use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use nix::{
    fcntl::{OFlag, openat},
    sys::{
        resource::{Resource, getrlimit, rlim_t, setrlimit},
        stat::Mode,
    },
    unistd::pipe2,
};

use tokio::io::{Interest, unix::AsyncFd};

use super::user::Credentials;

/// Flags of `clone3` (uapi/linux/sched.h).
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A program to start.
#[derive(Debug)]
pub struct Spec<'a> {
    /// Path of the program.
    pub program: &'a Path,
    /// Arguments, the name of the program included.
    pub argv: &'a [String],
    /// The whole environment, as `NAME=value`.
    pub env: &'a [Vec<u8>],
    /// Working folder.
    pub folder: &'a Path,
    /// Standard input, output and error.
    pub streams: [BorrowedFd<'a>; 3],
    /// Folder of the cgroup, open.
    pub cgroup: BorrowedFd<'a>,
    /// Who to be; none: as we are.
    pub user: Option<&'a Credentials>,
    /// Soft limit of open files.
    pub open_files: Option<rlim_t>,
    /// Priority, as nice(1) has it.
    pub nice: Option<i32>,
}

/// A process that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its number.
    pub pid: i32,
    /// Its file descriptor, readable once it has ended.
    pub fd: OwnedFd,
}

/// What kept a program from starting.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct SpawnError {
    /// What was tried.
    pub step: &'static str,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Steps of the child, by their numbers in its report.
const STEPS: [&str; 7] = [
    "enter its cgroup",
    "make a session",
    "set up its streams",
    "enter its working folder",
    "set its limits",
    "become the user",
    "start it",
];

fn step(step: &'static str) -> impl FnOnce(io::Error) -> SpawnError {
    move |source| SpawnError { step, source }
}

/// What the child needs, laid out before it is made: it may not allocate.
struct Prepared {
    program: CString,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    folder: CString,
    streams: [RawFd; 3],
    groups: Vec<libc::gid_t>,
    user: Option<(libc::uid_t, libc::gid_t)>,
    open_files: Option<libc::rlimit>,
    nice: Option<i32>,
    /// The file to join the cgroup by, if it is not made there.
    join: Option<RawFd>,
    report: RawFd,
}

/// Starts a program; returns when it runs, or could not.
///
/// # Errors
/// [`SpawnError`].
pub fn spawn(spec: &Spec<'_>) -> Result<Spawned, SpawnError> {
    let text = |bytes: &[u8]| {
        CString::new(bytes).map_err(|_| SpawnError {
            step: "read its command line",
            source: io::Error::new(io::ErrorKind::InvalidInput, "a NUL inside"),
        })
    };
    let words: Vec<CString> = spec
        .argv
        .iter()
        .map(|word| text(word.as_bytes()))
        .collect::<Result<_, _>>()?;
    let env: Vec<CString> = spec.env.iter().map(|e| text(e)).collect::<Result<_, _>>()?;
    let pointers = |list: &[CString]| {
        let each = list.iter().map(|word| word.as_ptr());
        each.chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let mut prepared = Prepared {
        program: text(spec.program.as_os_str().as_bytes())?,
        argv: pointers(&words),
        env: pointers(&env),
        folder: text(spec.folder.as_os_str().as_bytes())?,
        streams: spec.streams.map(|fd| fd.as_raw_fd()),
        groups: spec.user.map(|u| u.groups.clone()).unwrap_or_default(),
        user: spec.user.map(|u| (u.uid, u.gid)),
        open_files: open_files(spec.open_files),
        nice: spec.nice,
        join: None,
        report: -1,
    };
    if let Some(spawned) = start(&mut prepared, Some(spec.cgroup))? {
        return Ok(spawned);
    }
    let procs = openat(
        spec.cgroup,
        "cgroup.procs",
        OFlag::O_WRONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| step(STEPS[0])(e.into()))?;
    prepared.join = Some(procs.as_raw_fd());
    start(&mut prepared, None)?.ok_or(SpawnError {
        step: "start it",
        source: io::Error::other("it was killed before its first step"),
    })
}

/// Makes the child and hears what becomes of it; none: it was killed at once.
fn start(
    prepared: &mut Prepared,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Option<Spawned>, SpawnError> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|e| step("make a pipe")(e.into()))?;
    prepared.report = writer.as_raw_fd();
    let spawned = clone(cgroup, prepared)?;
    drop(writer);
    // One byte at its first step, and the end when the program takes its place.
    let mut report = Vec::new();
    let _ = io::Read::read_to_end(&mut std::fs::File::from(reader), &mut report);
    match report[..] {
        [_] => Ok(Some(spawned)),
        [_, number, a, b, c, d] => {
            // It has ended; collect it.
            let _ = wait(spawned.pid, true);
            let name = STEPS.get(usize::from(number));
            Err(SpawnError {
                step: name.copied().unwrap_or("start it"),
                source: io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d])),
            })
        }
        _ => {
            let _ = wait(spawned.pid, true);
            Ok(None)
        }
    }
}

fn open_files(soft: Option<rlim_t>) -> Option<libc::rlimit> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    soft.map(|soft| libc::rlimit {
        rlim_cur: soft.min(hard),
        rlim_max: hard,
    })
}

fn clone(cgroup: Option<BorrowedFd<'_>>, child: &Prepared) -> Result<Spawned, SpawnError> {
    let mut fd: RawFd = -1;
    let into = cgroup.map_or(0, |_| CLONE_INTO_CGROUP);
    // `struct clone_args` of uapi/linux/sched.h: flags, pidfd, child_tid, parent_tid,
    // exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup.
    let arguments: [u64; 11] = [
        CLONE_PIDFD | CLONE_CLEAR_SIGHAND | into,
        &raw mut fd as u64,
        0,
        0,
        libc::SIGCHLD as u64,
        0,
        0,
        0,
        0,
        0,
        cgroup.map_or(0, |c| u64::from(c.as_raw_fd().cast_unsigned())),
    ];
    // SAFETY: the arguments are eleven 64-bit words, as the size says, and `fd` lives
    // until after the call. Without CLONE_VM the child has a copy of all memory, on
    // the same stack; `run_child` makes system calls alone and never returns, so
    // that locks which other threads held in the copy do not matter.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            arguments.as_ptr(),
            size_of_val(&arguments),
        )
    };
    match pid {
        0 => run_child(child),
        pid if pid > 0 => Ok(Spawned {
            pid: i32::try_from(pid).unwrap_or(i32::MAX),
            // SAFETY: the kernel just made this file descriptor for us alone.
            fd: unsafe { OwnedFd::from_raw_fd(fd) },
        }),
        _ => Err(step("make a process in its cgroup")(
            io::Error::last_os_error(),
        )),
    }
}

/// The child's way to the program: system calls only, nothing that allocates, and
/// no wrappers of the C library that speak to other threads (its `setuid` does).
fn run_child(child: &Prepared) -> ! {
    let say = |bytes: &[u8]| {
        // SAFETY: the bytes live and there are so many.
        unsafe { libc::write(child.report, bytes.as_ptr().cast(), bytes.len()) }
    };
    say(&[0]);
    let failed = (0u8..).zip(STEPS).find_map(|(number, _)| {
        // SAFETY: pointers are into `child`, which lives as long as the process; each
        // list of words ends in a null pointer, each word in a NUL.
        let result = unsafe { child_step(child, number) };
        (result < 0).then_some(number)
    });
    // SAFETY: reads the error of the last call in this thread.
    let [a, b, c, d] = unsafe { *libc::__errno_location() }.to_ne_bytes();
    say(&[failed.unwrap_or(u8::MAX), a, b, c, d]);
    // SAFETY: runs nothing of ours.
    unsafe { libc::_exit(127) }
}

/// One of [`STEPS`]; negative when it failed.
///
/// # Safety
/// All pointers in `child` must be valid, its lists ended by null pointers. To be
/// called in a process of one thread.
unsafe fn child_step(child: &Prepared, number: u8) -> libc::c_long {
    // SAFETY: see above; the remaining calls take numbers or live structures.
    unsafe {
        match number {
            0 => child.join.map_or(0, |file| {
                libc::write(file, c"0".as_ptr().cast(), 1) as libc::c_long
            }),
            1 => libc::c_long::from(libc::setsid()),
            2 => (0i32..)
                .zip(child.streams)
                .map(|(to, from)| libc::c_long::from(libc::dup2(from, to)))
                .min()
                .unwrap_or(0),
            3 => libc::c_long::from(libc::chdir(child.folder.as_ptr())),
            4 => child.open_files.map_or(0, |limit| {
                libc::c_long::from(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))
            }),
            5 => {
                let Some((uid, gid)) = child.user else {
                    return 0;
                };
                let groups = child.groups.as_ptr();
                libc::syscall(libc::SYS_setgroups, child.groups.len(), groups)
                    .min(libc::syscall(libc::SYS_setresgid, gid, gid, gid))
                    .min(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
            }
            _ => {
                if let Some(nice) = child.nice {
                    libc::setpriority(libc::PRIO_PROCESS, 0, nice);
                }
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
                // The one signal that Rust's runtime ignores, which exec would keep.
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                libc::c_long::from(libc::execve(
                    child.program.as_ptr(),
                    child.argv.as_ptr(),
                    child.env.as_ptr(),
                ))
            }
        }
    }
}

/// Waits for the end of a process, inside a runtime of tokio.
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Watches the process of [`Spawned::fd`].
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an owned file descriptor stays open and the same until it is
        // dropped, which the watch alone can do.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map(Self)
            .map_err(Into::into)
    }

    /// Returns once the process has ended.
    pub async fn ended(&self) {
        let _ = self.0.readable().await;
    }
}

/// How a process ended, and what it used.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Processor time of it and of the children that it waited for.
    pub cpu: Duration,
    /// Most memory that one of them had at a time.
    pub max_memory_bytes: u64,
}

/// Collects a child that has ended; none if it still runs and is not to be waited
/// for.
///
/// # Errors
/// The kernel's answer.
pub fn wait(pid: i32, block: bool) -> io::Result<Option<Ended>> {
    let mut status = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: plain numbers, for which all zeroes are a value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both structures live until after the call.
        let found = unsafe { libc::wait4(pid, &raw mut status, flags, &raw mut usage) };
        if found == 0 {
            return Ok(None);
        }
        if found < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        let time = |t: libc::timeval| {
            Duration::from_secs(t.tv_sec.max(0).cast_unsigned())
                + Duration::from_micros(t.tv_usec.max(0).cast_unsigned())
        };
        return Ok(Some(Ended {
            status: std::os::unix::process::ExitStatusExt::from_raw(status),
            cpu: time(usage.ru_utime) + time(usage.ru_stime),
            max_memory_bytes: usage.ru_maxrss.max(0).cast_unsigned() * 1024,
        }));
    }
}

/// Makes this process deaf to some signals.
pub fn ignore_signals(signals: &[i32]) {
    for number in signals {
        // SAFETY: sets no handler of ours, only the kernel's own.
        unsafe { libc::signal(*number, libc::SIG_IGN) };
    }
}

/// Lets this process open as many files as it may; returns the limit before, for
/// those that it starts.
pub fn raise_open_files() -> Option<rlim_t> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some(soft)
}

/// Puts this process before those that it starts, so that it keeps to its schedule
/// when they take all processors; returns the priority before, for them.
pub fn raise_priority() -> i32 {
    const AHEAD: i32 = -10;
    // SAFETY: takes numbers; 0 is this process. -1 may be an error or a priority; as
    // the latter it does no harm.
    let before = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: takes numbers. Without the right to do it all stays as it is.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, AHEAD.min(before)) };
    before
}

/// The file of a program: as it is if it names a folder, else on a search path.
pub fn find_program(name: &str, folder: &Path, search: &OsStr) -> Option<PathBuf> {
    let usable = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        return Some(folder.join(name)).filter(usable);
    }
    std::env::split_paths(search)
        .map(|place| place.join(name))
        .find(usable)
}
