//! Runs `emu` under ptrace and lets one of its system calls fail, lets the kernel refuse one of
//! its netlink requests, or kills it at a system call.
//!
//! The program is the one that users run: it has no code for this, and every call that it will
//! ever make is covered. It knows x86-64 alone.
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    process::{Command, Stdio},
};

use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::command::emu_path;

/// What goes wrong; numbers count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The system call with this number fails.
    Call(u64),
    /// The kernel does not know the request of netlink with this number.
    Request(u64),
    /// SIGKILL at the system call with this number.
    Kill(u64),
}

/// A command that has run.
#[derive(Debug)]
pub struct Traced {
    /// System calls that could have failed, as far as the command came.
    pub calls: u64,
    /// Requests of netlink.
    pub requests: u64,
    /// What went wrong, if it did: the command may have ended before.
    pub hit: Option<String>,
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output and standard error.
    pub text: String,
}

/// System calls that fail one at a time, each with an error that it can have. Memory, signals,
/// threads and futexes are not among them: the standard library itself ends the program when
/// they fail.
const CALLS: [(libc::c_long, &str, Errno); 61] = [
    (libc::SYS_accept4, "accept4", Errno::EMFILE),
    (libc::SYS_bind, "bind", Errno::EADDRINUSE),
    (libc::SYS_bpf, "bpf", Errno::ENOMEM),
    (libc::SYS_chdir, "chdir", Errno::EACCES),
    (libc::SYS_clone3, "clone3", Errno::EAGAIN),
    (libc::SYS_connect, "connect", Errno::EAGAIN),
    (libc::SYS_copy_file_range, "copy_file_range", Errno::EIO),
    (libc::SYS_epoll_create1, "epoll_create1", Errno::EMFILE),
    (libc::SYS_epoll_ctl, "epoll_ctl", Errno::ENOSPC),
    (libc::SYS_eventfd2, "eventfd2", Errno::EMFILE),
    (libc::SYS_fchmod, "fchmod", Errno::EPERM),
    (libc::SYS_fchown, "fchown", Errno::EPERM),
    (libc::SYS_fcntl, "fcntl", Errno::EMFILE),
    (libc::SYS_flock, "flock", Errno::ENOLCK),
    (libc::SYS_fsconfig, "fsconfig", Errno::ENOMEM),
    (libc::SYS_fsmount, "fsmount", Errno::ENOMEM),
    (libc::SYS_fsopen, "fsopen", Errno::EPERM),
    (libc::SYS_fstat, "fstat", Errno::EIO),
    (libc::SYS_fsync, "fsync", Errno::EIO),
    (libc::SYS_ftruncate, "ftruncate", Errno::EIO),
    (libc::SYS_getdents64, "getdents64", Errno::EIO),
    (libc::SYS_getsockopt, "getsockopt", Errno::ENOBUFS),
    (libc::SYS_inotify_init1, "inotify_init1", Errno::EMFILE),
    (libc::SYS_ioctl, "ioctl", Errno::ENOMEM),
    (libc::SYS_kill, "kill", Errno::EPERM),
    (libc::SYS_lseek, "lseek", Errno::EIO),
    (libc::SYS_mkdir, "mkdir", Errno::ENOSPC),
    (libc::SYS_mkdirat, "mkdirat", Errno::ENOSPC),
    (libc::SYS_mount, "mount", Errno::EPERM),
    (libc::SYS_move_mount, "move_mount", Errno::EPERM),
    (libc::SYS_newfstatat, "newfstatat", Errno::EIO),
    (libc::SYS_open, "open", Errno::EMFILE),
    (libc::SYS_open_tree, "open_tree", Errno::EPERM),
    (libc::SYS_openat, "openat", Errno::EMFILE),
    (libc::SYS_openat2, "openat2", Errno::EMFILE),
    (libc::SYS_pipe2, "pipe2", Errno::EMFILE),
    (libc::SYS_pread64, "pread64", Errno::EIO),
    (libc::SYS_prlimit64, "prlimit64", Errno::EPERM),
    (libc::SYS_read, "read", Errno::EIO),
    (libc::SYS_readlink, "readlink", Errno::EIO),
    (libc::SYS_readlinkat, "readlinkat", Errno::EIO),
    (libc::SYS_recvfrom, "recvfrom", Errno::ENOBUFS),
    (libc::SYS_recvmsg, "recvmsg", Errno::ENOBUFS),
    (libc::SYS_rename, "rename", Errno::ENOSPC),
    (libc::SYS_renameat2, "renameat2", Errno::ENOSPC),
    (libc::SYS_rmdir, "rmdir", Errno::EBUSY),
    (libc::SYS_sendmsg, "sendmsg", Errno::ENOBUFS),
    (libc::SYS_sendto, "sendto", Errno::ENOBUFS),
    (libc::SYS_setns, "setns", Errno::EPERM),
    (libc::SYS_setsockopt, "setsockopt", Errno::ENOMEM),
    (libc::SYS_socket, "socket", Errno::EMFILE),
    (libc::SYS_statfs, "statfs", Errno::EIO),
    (libc::SYS_statx, "statx", Errno::EIO),
    (libc::SYS_timerfd_create, "timerfd_create", Errno::EMFILE),
    (libc::SYS_umount2, "umount2", Errno::EBUSY),
    (libc::SYS_unlink, "unlink", Errno::EIO),
    (libc::SYS_unlinkat, "unlinkat", Errno::EIO),
    (libc::SYS_unshare, "unshare", Errno::ENOSPC),
    (libc::SYS_wait4, "wait4", Errno::ECHILD),
    (libc::SYS_waitid, "waitid", Errno::ECHILD),
    (libc::SYS_write, "write", Errno::ENOSPC),
];

/// What the tracer knows of a thread.
#[derive(Debug, Clone, Copy, Default)]
struct Thread {
    /// Whether its calls count: the runtime of emu has started, and it is no other program.
    counts: bool,
    /// The error that the call ends with.
    error: Option<Errno>,
}

/// The tracer.
struct Tracer {
    fault: Fault,
    threads: BTreeMap<i32, Thread>,
    calls: u64,
    requests: u64,
    hit: Option<String>,
}

/// Runs `emu` with a fault, in the calling thread's network namespace. Children of this thread
/// that end meanwhile are not waited for.
///
/// # Panics
/// If the command cannot be traced.
#[expect(
    clippy::zombie_processes,
    reason = "the tracer waits for the process and its threads at once"
)]
pub fn run(arguments: &str, fault: Fault) -> Traced {
    let output = tempfile::NamedTempFile::new().unwrap();
    // The shell waits until it is traced, and then becomes emu.
    let mut child = Command::new("sh")
        .args(["-c", "read go; exec \"$@\"", "sh"])
        .arg(emu_path())
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(output.reopen().unwrap())
        .stderr(OpenOptions::new().append(true).open(output.path()).unwrap())
        .spawn()
        .unwrap();
    let main = Pid::from_raw(child.id() as i32);
    let mut tracer = Tracer {
        fault,
        threads: BTreeMap::new(),
        calls: 0,
        requests: 0,
        hit: None,
    };
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(main, options).unwrap();
    ptrace::interrupt(main).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let status = tracer.follow(main);
    let Tracer {
        calls,
        requests,
        hit,
        ..
    } = tracer;
    Traced {
        calls,
        requests,
        hit,
        code: status.code(),
        signal: status.signal(),
        text: String::from_utf8_lossy(&fs::read(output.path()).unwrap()).into_owned(),
    }
}

impl Tracer {
    /// Follows all threads until the first process has ended.
    fn follow(&mut self, main: Pid) -> std::process::ExitStatus {
        loop {
            // Only this thread's own children, so that no other test is disturbed.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let event = waitpid(Pid::from_raw(-1), Some(flags)).unwrap();
            match event {
                WaitStatus::Exited(pid, code) if pid == main => {
                    return std::process::ExitStatus::from_raw(code << 8);
                }
                WaitStatus::Signaled(pid, signal, _) if pid == main => {
                    return std::process::ExitStatus::from_raw(signal as i32);
                }
                WaitStatus::PtraceSyscall(pid) => self.at_call(pid),
                WaitStatus::PtraceEvent(pid, _, event) => self.at_event(pid, event),
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
                _ => {}
            }
        }
    }

    fn at_event(&mut self, pid: Pid, event: i32) {
        match event {
            libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                let counts = self.thread(pid).counts;
                if let Ok(new) = ptrace::getevent(pid) {
                    self.threads.entry(new as i32).or_default().counts = counts;
                }
            }
            // Its start counts no calls: the dynamic linker's are not emu's.
            libc::PTRACE_EVENT_EXEC => *self.thread(pid) = Thread::default(),
            _ => {}
        }
        go_on(pid, None);
    }

    fn thread(&mut self, pid: Pid) -> &mut Thread {
        self.threads.entry(pid.as_raw()).or_default()
    }

    fn at_call(&mut self, pid: Pid) {
        /// `PTRACE_EVENTMSG_SYSCALL_ENTRY` (linux/ptrace.h).
        const ENTRY: libc::c_long = 1;
        if ptrace::getevent(pid) == Ok(ENTRY) {
            self.at_entry(pid);
        } else if let Some(error) = self.thread(pid).error.take()
            && let Ok(mut registers) = ptrace::getregs(pid)
        {
            registers.rax = i64::from(-(error as i32)).cast_unsigned();
            let _ = ptrace::setregs(pid, registers);
        }
        go_on(pid, None);
    }

    fn at_entry(&mut self, pid: Pid) {
        let Ok(mut registers) = ptrace::getregs(pid) else {
            return;
        };
        let number = registers.orig_rax.cast_signed();
        if number == libc::SYS_sigaltstack && !self.thread(pid).counts && is_emu(pid) {
            // The last call of the standard library before `main`.
            self.thread(pid).counts = true;
            return;
        }
        if !self.thread(pid).counts {
            return;
        }
        if number == libc::SYS_sendto {
            self.requests(pid, registers.rsi, registers.rdx);
        }
        let call = CALLS.iter().find(|(known, ..)| *known == number);
        // Maps of BPF that are shared with the kernel.
        let shared = number == libc::SYS_mmap && registers.r10 & libc::MAP_SHARED as u64 != 0;
        let map = (number, "mmap", Errno::ENOMEM);
        let Some(&(_, name, error)) = call.or(shared.then_some(&map)) else {
            return;
        };
        // Ends of the standard streams are not worth a failure of a command.
        if number == libc::SYS_write && registers.rdi <= 2 {
            return;
        }
        self.calls += 1;
        match self.fault {
            Fault::Call(number) if number == self.calls => {
                self.hit = Some(format!("{name} number {number}: {error}"));
                self.thread(pid).error = Some(error);
                registers.orig_rax = u64::MAX;
                ptrace::setregs(pid, registers).unwrap();
            }
            Fault::Kill(number) if number == self.calls => {
                self.hit = Some(format!("SIGKILL before {name}, call {number}"));
                let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
            }
            _ => {}
        }
    }

    /// Counts the requests in a message to route-netlink, and spoils one.
    fn requests(&mut self, pid: Pid, address: u64, length: u64) {
        /// Length of a header, and its field of the type.
        const HEADER: usize = 16;
        const TYPE: u64 = 4;
        /// The types of route-netlink (linux/rtnetlink.h), and one that is not used.
        const KINDS: std::ops::Range<u16> = 16..200;
        const UNKNOWN: u16 = 0xfff0;
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"));
        let Ok(memory) = memory else { return };
        let Some(bytes) = read(&memory, address, length) else {
            return;
        };
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + HEADER) {
            let size = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            // Data of other sockets.
            if size < HEADER || at + size > bytes.len() || !KINDS.contains(&kind) {
                return;
            }
            self.requests += 1;
            if self.fault == Fault::Request(self.requests) {
                self.hit = Some(format!("request {} (type {kind})", self.requests));
                let place = address + at as u64 + TYPE;
                memory.write_all_at(&UNKNOWN.to_ne_bytes(), place).unwrap();
            }
            at += size.next_multiple_of(4);
        }
    }
}

/// Lets a thread run to its next call; it may have been killed.
fn go_on(pid: Pid, signal: Option<Signal>) {
    let _ = ptrace::syscall(pid, signal);
}

fn is_emu(pid: Pid) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == emu_path())
}

fn read(memory: &File, address: u64, length: u64) -> Option<Vec<u8>> {
    const MOST: u64 = 1 << 20;
    let mut bytes = vec![0; length.min(MOST) as usize];
    memory.read_exact_at(&mut bytes, address).ok()?;
    Some(bytes)
}
