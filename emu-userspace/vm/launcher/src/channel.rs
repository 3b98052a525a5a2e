//! The output streams of a VM: pipes that the VM inherits by number.
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

/// The time of a VM's last output.
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

    /// Time since the last output.
    pub fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }
}

/// A stream that begins each line with a name, if there is a name.
pub struct Lines<W> {
    sink: W,
    name: Option<String>,
    /// The beginning of a line that is not complete yet.
    begun: Vec<u8>,
}

impl<W: Write> Lines<W> {
    /// Without a name the stream stays as it is.
    pub fn new(sink: W, name: Option<&str>) -> Self {
        Self {
            sink,
            name: name.map(str::to_owned),
            begun: Vec::new(),
        }
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(name) = &self.name else {
            return self.sink.write(bytes);
        };
        self.begun.extend_from_slice(bytes);
        while let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            // In one call, so that the lines of several VMs do not mix.
            self.sink
                .write_all(&[name.as_bytes(), b": ", &line].concat())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// An output stream of the VM.
pub struct Output {
    /// The VM's end, which is closed once the VM runs: the reader sees no end of file before.
    theirs: Option<OwnedFd>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    /// A stream whose bytes go to `sink` unchanged, as soon as they arrive.
    pub fn to(mut sink: impl Write + Send + 'static, pulse: &Pulse) -> anyhow::Result<Self> {
        let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
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
                    // The reader of `sink` has gone; the VM must not block on a full pipe.
                    continue;
                }
            }
        });
        Ok(Self {
            theirs: Some(theirs),
            reader: Some(reader),
        })
    }

    /// Lets programs that are started from now on inherit the VM's end.
    pub fn inherit(&self) -> anyhow::Result<()> {
        let theirs = self.theirs.as_ref();
        theirs.map_or(Ok(()), |theirs| inherit(theirs, true))
    }

    /// Number of the VM's end.
    pub fn number(&self) -> RawFd {
        self.theirs.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Closes the VM's end.
    pub fn started(&mut self) {
        self.theirs = None;
    }

    /// Waits until all output has passed.
    pub fn finish(mut self) {
        self.theirs = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Whether programs that are started from now on inherit a file.
pub fn inherit(file: impl AsFd, wanted: bool) -> anyhow::Result<()> {
    let flag = if wanted {
        FdFlag::empty()
    } else {
        FdFlag::FD_CLOEXEC
    };
    fcntl(file, FcntlArg::F_SETFD(flag)).context("hand a file on")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::Lines;

    #[test]
    fn lines_stay_whole_and_begin_with_a_name() {
        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out, Some("h1"));
        for part in ["one\ntw", "o", "\n\nthree"] {
            lines.write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(out, b"h1: one\nh1: two\nh1: \n");
        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out, None);
        lines.write_all(b"a\nb").unwrap();
        assert_eq!(out, b"a\nb");
    }
}
