//! File descriptors of this process: its limit, and some that are kept for later.
use std::{fs, io};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files (`RLIMIT_NOFILE`) to the hard limit, and returns it.
///
/// # Errors
/// The kernel's error; the limit is then as before.
pub fn raise_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Number of open descriptors of this process.
///
/// # Errors
/// The kernel's error, for example without `/proc`.
pub fn open_now() -> io::Result<u64> {
    // The list contains the descriptor of the list itself.
    let all = fs::read_dir("/proc/self/fd")?.count() as u64;
    Ok(all.saturating_sub(1))
}

/// Descriptors that nothing else in this process can use until they are released.
#[derive(Debug)]
pub struct Reserve {
    size: usize,
    held: Vec<fs::File>,
}

impl Reserve {
    /// Opens `size` descriptors.
    ///
    /// # Errors
    /// The kernel's error if the limit leaves no room for them.
    pub fn new(size: usize) -> io::Result<Self> {
        let mut reserve = Self {
            size,
            held: Vec::new(),
        };
        reserve.restore()?;
        Ok(reserve)
    }

    /// Closes the descriptors, so that the next calls of this process can use them.
    pub fn release(&mut self) {
        self.held.clear();
    }

    /// Opens those that are not open.
    ///
    /// # Errors
    /// The kernel's error; those that could be opened are kept.
    pub fn restore(&mut self) -> io::Result<()> {
        while self.held.len() < self.size {
            self.held.push(fs::File::open("/dev/null")?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_open_until_it_is_released() {
        let before = open_now().unwrap();
        let mut reserve = Reserve::new(100).unwrap();
        // Other tests of this process open and close files at the same time.
        assert!(open_now().unwrap() >= before + 50);
        reserve.release();
        assert!(reserve.held.is_empty());
        reserve.restore().unwrap();
        assert_eq!(reserve.held.len(), 100);
    }

    #[test]
    fn the_limit_becomes_the_hard_one() {
        let limit = raise_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }
}
