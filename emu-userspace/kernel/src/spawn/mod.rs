//! Starts a program directly in a cgroup, as a user.
//!
//! `clone3` creates the child in its cgroup (Linux 5.7). Moving it there later would wait for
//! all forks of the machine, each time.
//!
//! Some kernels (6.1.176 among them) kill such a child if its cgroup was ever emptied by
//! `cgroup.kill` and the parent's was not, or the reverse: they compare the kill counters of
//! the wrong cgroup. So each program gets a new cgroup, and a child that is killed before its
//! first step is created again and moved.
mod child;
mod clone;

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
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

use self::child::{Prepared, STEPS};
use super::{machines::Surroundings, user::Credentials};

/// A program to start.
#[derive(Debug)]
pub struct Spec<'a> {
    pub program: &'a Path,
    /// Arguments, the name of the program included.
    pub argv: &'a [String],
    /// The whole environment, as `NAME=value`.
    pub env: &'a [Vec<u8>],
    /// Working folder, open, since its path may lead elsewhere when it is entered.
    pub folder: BorrowedFd<'a>,
    pub streams: [BorrowedFd<'a>; 3],
    /// Folder of the cgroup, open.
    pub cgroup: BorrowedFd<'a>,
    /// The namespaces of a machine; `None`: those of this process.
    pub machine: Option<&'a Surroundings>,
    /// User; `None`: the current one.
    pub user: Option<&'a Credentials>,
    /// Soft limit of open files.
    pub open_files: Option<rlim_t>,
    /// Priority, as in nice(1).
    pub nice: Option<i32>,
}

#[derive(Debug)]
pub struct Spawned {
    pub pid: i32,
    /// Its pidfd, readable once it has ended.
    pub fd: OwnedFd,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct SpawnError {
    /// The step that failed.
    pub step: &'static str,
    #[source]
    pub source: io::Error,
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> SpawnError {
    move |source| SpawnError { step, source }
}

/// Starts a program; returns once it runs, or with the error.
pub fn spawn(spec: &Spec<'_>) -> Result<Spawned, SpawnError> {
    let text = |bytes: &[u8]| {
        CString::new(bytes).map_err(|_| SpawnError {
            step: "read its command line",
            source: io::Error::new(io::ErrorKind::InvalidInput, "a NUL inside"),
        })
    };
    let argv: Vec<CString> = spec
        .argv
        .iter()
        .map(|arg| text(arg.as_bytes()))
        .collect::<Result<_, _>>()?;
    let env: Vec<CString> = spec.env.iter().map(|e| text(e)).collect::<Result<_, _>>()?;
    let pointers = |list: &[CString]| {
        let each = list.iter().map(|arg| arg.as_ptr());
        each.chain([std::ptr::null()]).collect::<Vec<_>>()
    };
    let mut prepared = Prepared {
        program: text(spec.program.as_os_str().as_bytes())?,
        argv: pointers(&argv),
        env: pointers(&env),
        folder: spec.folder.as_raw_fd(),
        streams: spec.streams.map(|fd| fd.as_raw_fd()),
        groups: spec.user.map(|u| u.groups.clone()).unwrap_or_default(),
        user: spec.user.map(|u| (u.uid, u.gid)),
        open_files: open_files(spec.open_files),
        nice: spec.nice,
        machine: spec.machine,
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

/// Creates the child and reads its report; `None` if it was killed at once.
fn start(
    prepared: &mut Prepared<'_>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Option<Spawned>, SpawnError> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|e| step("make a pipe")(e.into()))?;
    prepared.report = writer.as_raw_fd();
    let spawned = clone::clone(cgroup, prepared).map_err(step("create a process in its cgroup"))?;
    drop(writer);
    // The pipe delivers one byte at the first step, and ends when the program replaces the
    // child.
    let mut report = Vec::new();
    let _ = io::Read::read_to_end(&mut std::fs::File::from(reader), &mut report);
    match report[..] {
        [_] => Ok(Some(spawned)),
        [_, number, a, b, c, d] => {
            // The child has ended; reap it.
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

/// Waits for the end of a process, inside a runtime of tokio.
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Watches the process of [`Spawned::fd`].
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an owned file descriptor stays open and unchanged until it is dropped,
        // which only the watch can do.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map(Self)
            .map_err(Into::into)
    }

    /// Returns once the process has ended.
    pub async fn ended(&self) {
        let _ = self.0.readable().await;
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// CPU time of the process and of the children that it waited for.
    pub cpu: Duration,
    /// Largest memory of one of them.
    pub max_memory_bytes: u64,
}

/// Reaps a child that has ended; `None` if it is still running and `block` is false.
pub fn wait(pid: i32, block: bool) -> io::Result<Option<Ended>> {
    let mut status = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: plain numbers, for which all zeroes are a valid value.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both structures outlive the call.
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

/// Makes this process ignore signals.
pub fn ignore_signals(signals: &[i32]) {
    for number in signals {
        // SAFETY: sets no handler of this program, only the kernel's own.
        unsafe { libc::signal(*number, libc::SIG_IGN) };
    }
}

/// Raises this process's limit of open files to the maximum; returns the previous limit, for
/// its children.
pub fn raise_open_files() -> Option<rlim_t> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some(soft)
}

/// Gives this process a higher priority than its children, so that it keeps its schedule when
/// they take all processors; returns the previous priority, for them.
pub fn raise_priority() -> i32 {
    const AHEAD: i32 = -10;
    // SAFETY: takes numbers; 0 is this process. -1 may be an error or a priority; as a
    // priority it does no harm.
    let before = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: takes numbers. Without the right to change the priority, it stays as it is.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, AHEAD.min(before)) };
    before
}

/// The file of a program: relative to `folder` if its name has a slash, otherwise on a search
/// path.
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

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _, os::fd::AsFd};

    use super::*;

    /// Without an accessible cgroup the call returns an error, and the caller is unharmed.
    #[test]
    fn what_cannot_start_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let null = File::open("/dev/null").unwrap();
        let cgroup = File::open(folder.path()).unwrap();
        let spawned = spawn(&Spec {
            program: Path::new("/bin/true"),
            argv: &["true".to_owned()],
            env: &[],
            folder: cgroup.as_fd(),
            streams: [null.as_fd(); 3],
            cgroup: cgroup.as_fd(),
            machine: None,
            user: None,
            open_files: None,
            nice: None,
        });
        let error = spawned.unwrap_err().to_string();
        assert!(
            error.starts_with("create a process in its cgroup"),
            "{error}"
        );
    }

    /// The child runs its steps in this process's memory, and the caller is unharmed.
    #[test]
    fn a_child_becomes_its_program_or_tells_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let null = File::open("/dev/null").unwrap();
        let place = File::open(folder.path()).unwrap();
        let make = |program: &str, file: &File| {
            let args = [c"sh", c"-c", c"echo $VALUE; pwd; exit 3"];
            let env = c"VALUE=well";
            let mut argv: Vec<_> = args.iter().map(|w| w.as_ptr()).collect();
            argv.push(std::ptr::null());
            let mut prepared = Prepared {
                program: CString::new(program).unwrap(),
                argv,
                env: vec![env.as_ptr(), std::ptr::null()],
                folder: place.as_raw_fd(),
                streams: [null.as_raw_fd(), file.as_raw_fd(), file.as_raw_fd()],
                groups: Vec::new(),
                user: None,
                open_files: None,
                nice: None,
                machine: None,
                join: None,
                report: -1,
            };
            start(&mut prepared, None)
        };
        for round in 0..50 {
            let path = folder.path().join(format!("out-{round}"));
            let file = File::create(&path).unwrap();
            let spawned = make("/bin/sh", &file).unwrap().unwrap();
            let ended = wait(spawned.pid, true).unwrap().unwrap();
            assert_eq!(ended.status.code(), Some(3));
            let mut text = String::new();
            File::open(&path)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            let here = folder.path().canonicalize().unwrap();
            assert_eq!(text, format!("well\n{}\n", here.display()));
        }
        let error = make("/no/such/program", &null).unwrap_err().to_string();
        assert!(error.starts_with("start it: No such file"), "{error}");
    }

    #[test]
    fn programs_are_found_as_a_shell_does() {
        let folder = tempfile::tempdir().unwrap();
        let find = |name: &str| find_program(name, folder.path(), OsStr::new("/nowhere:/bin"));
        assert_eq!(find("sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("no-such-program"), None);
        assert_eq!(find("/bin/sh"), Some(PathBuf::from("/bin/sh")));
        std::fs::write(folder.path().join("peer"), "").unwrap();
        assert_eq!(find("./peer"), None, "not executable");
    }
}
