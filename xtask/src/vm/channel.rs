//! The streams between a VM and us: pipes that the VM inherits by number.
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// When something last came out of a VM.
#[derive(Clone)]
pub struct Pulse {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: Arc::new(AtomicU64::new(0)),
        }
    }

    fn beat(&self) {
        let now_ms = self.start.elapsed().as_millis() as u64;
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// For how long nothing has come.
    pub fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }
}

/// An output stream of the VM.
pub struct Output {
    /// The VM's end; close it once the VM runs, or the end is never seen.
    theirs: Option<OwnedFd>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    /// A stream whose bytes go to `sink` unchanged, as they come.
    pub fn to(mut sink: impl Write + Send + 'static, pulse: &Pulse) -> anyhow::Result<Self> {
        let (ours, theirs) = nix::unistd::pipe()?;
        // Ours must not leak into the VM, theirs must.
        fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let pulse = pulse.clone();
        let reader = thread::spawn(move || {
            let (mut source, mut buffer) = (File::from(ours), [0; 64 * 1024]);
            while let Ok(n @ 1..) = source.read(&mut buffer) {
                pulse.beat();
                if sink
                    .write_all(&buffer[..n])
                    .and_then(|()| sink.flush())
                    .is_err()
                {
                    // Our reader went away; the VM must not block on a full pipe.
                    continue;
                }
            }
        });
        Ok(Self {
            theirs: Some(theirs),
            reader: Some(reader),
        })
    }

    /// Number of the VM's end.
    pub fn number(&self) -> RawFd {
        self.theirs.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Lets go of the VM's end.
    pub fn started(&mut self) {
        self.theirs = None;
    }

    /// Waits until everything has passed.
    pub fn finish(mut self) {
        self.theirs = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
