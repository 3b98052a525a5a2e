//! Scratch network namespaces, which the kernel removes when their last descriptor is
//! closed.
use std::{
    fs::File,
    io::{Seek, Write},
    os::fd::AsFd,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::memfd::{MFdFlags, memfd_create},
    unistd::gettid,
};

use super::BenchError;

/// An unnamed network namespace.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Creates a namespace with `lo` up.
    ///
    /// # Errors
    /// [`BenchError::System`] if the user may not create one.
    pub fn new() -> Result<Self, BenchError> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|e| {
                BenchError::system("make a network namespace, which needs root")(e.into())
            })?;
            Self::current()
        });
        let namespace = made.join().map_err(|_| BenchError::Thread)??;
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    /// The namespace of the calling thread, that is, the machine's own; creates nothing.
    ///
    /// # Errors
    /// [`BenchError::System`] if it cannot be opened.
    pub fn current() -> Result<Self, BenchError> {
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(BenchError::system("open a network namespace"))?;
        Ok(Self { file })
    }

    /// Runs a closure on a thread in the namespace.
    ///
    /// # Errors
    /// The error of the closure, or [`BenchError::System`] if the namespace cannot be
    /// entered.
    pub fn enter<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, BenchError> + Send,
    ) -> Result<T, BenchError> {
        let inside = || {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|e| BenchError::system("enter a network namespace")(e.into()))?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| BenchError::Thread)?
    }

    /// Runs a command line in the namespace and returns its standard output.
    ///
    /// # Errors
    /// [`BenchError::Program`] if it exits with an error.
    pub fn run(&self, line: &str) -> Result<String, BenchError> {
        self.enter(|| command(line))
    }

    /// Runs a command line in the namespace with this standard input.
    ///
    /// # Errors
    /// [`BenchError::Program`] if it exits with an error.
    pub fn feed(&self, line: &str, input: &str) -> Result<(), BenchError> {
        self.enter(|| {
            let mut file = tempfile_of(input)?;
            file.rewind().map_err(BenchError::system("read a file"))?;
            output(line, file.into()).map(drop)
        })
    }

    /// Runs a closure while a thread stays in this namespace. The closure gets the thread's
    /// number, because `ip link … netns NUMBER` needs a task.
    ///
    /// # Errors
    /// The error of the closure.
    pub fn with_task<T>(
        &self,
        work: impl FnOnce(i32) -> Result<T, BenchError>,
    ) -> Result<T, BenchError> {
        let (tell, told) = mpsc::channel();
        let (done, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).is_ok() {
                    let _ = tell.send(gettid().as_raw());
                    let _ = wait.recv();
                }
            });
            let task = told.recv().map_err(|_| BenchError::Thread)?;
            let outcome = work(task);
            drop(done);
            outcome
        })
    }
}

/// An unnamed temporary file with this text.
fn tempfile_of(text: &str) -> Result<File, BenchError> {
    let error = || BenchError::system("write a file");
    let fd = memfd_create(c"emu-bench", MFdFlags::MFD_CLOEXEC).map_err(|e| error()(e.into()))?;
    let mut file = File::from(fd);
    file.write_all(text.as_bytes()).map_err(error())?;
    Ok(file)
}

fn command(line: &str) -> Result<String, BenchError> {
    output(line, Stdio::null())
}

/// Splits the command line at blanks: no argument contains one.
fn output(line: &str, input: Stdio) -> Result<String, BenchError> {
    let error = |message: String| BenchError::Program {
        line: line.to_owned(),
        message,
    };
    let mut arguments = line.split_whitespace();
    let program = arguments.next().unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .stdin(input)
        .output()
        .map_err(|e| error(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(error(said.trim().replace('\n', " ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
