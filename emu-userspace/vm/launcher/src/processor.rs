//! A processor of its own for a VM that has one processor.
//!
//! The kernel of User-Mode Linux and each program in it are processes of this machine
//! that wait for each other at every system call; on one processor they need no wake-up
//! across processors, and a call costs a quarter less. See docs/kernels.md.
use std::{
    env,
    fs::{self, File},
    path::Path,
    thread,
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Time over which idleness is measured.
const IDLE_INTERVAL: Duration = Duration::from_millis(100);

/// While this value exists, programs that this thread starts are bound to one processor.
#[derive(Debug)]
pub struct Bound {
    before: CpuSet,
}

/// A processor that no other VM uses until this value is dropped.
#[derive(Debug)]
pub struct Processor {
    number: usize,
    _lock: File,
}

impl Processor {
    /// The most idle processor that this process may use and no other VM has; `None` if there
    /// is only one, or if the idle times are unknown.
    pub fn take() -> Option<Self> {
        Self::take_by(&env::temp_dir())
    }

    /// As `take`, with the locks in a folder.
    fn take_by(locks: &Path) -> Option<Self> {
        let allowed = sched_getaffinity(this_thread()).ok()?;
        let usable = |n: &usize| allowed.is_set(*n).unwrap_or(false);
        let mut numbers: Vec<usize> = (0..CpuSet::count()).filter(usable).collect();
        if numbers.len() < 2 {
            return None;
        }
        let before = idle(&fs::read_to_string("/proc/stat").ok()?);
        thread::sleep(IDLE_INTERVAL);
        let after = idle(&fs::read_to_string("/proc/stat").ok()?);
        let time = |n: usize| Some(after.get(n)?.as_ref()? - before.get(n)?.as_ref()?);
        numbers.sort_by_key(|n| std::cmp::Reverse(time(*n)));
        numbers.into_iter().find_map(|number| {
            let _lock = lock(locks, number)?;
            Some(Self { number, _lock })
        })
    }

    /// Binds this thread, and the programs that it starts, until the result is dropped.
    pub fn bind(&self) -> Option<Bound> {
        let before = sched_getaffinity(this_thread()).ok()?;
        let mut one = CpuSet::new();
        one.set(self.number).ok()?;
        sched_setaffinity(this_thread(), &one).ok()?;
        Some(Bound { before })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = sched_setaffinity(this_thread(), &self.before);
    }
}

const fn this_thread() -> Pid {
    Pid::from_raw(0)
}

/// The lock of a processor among VMs, if no other VM has it. The lock ends with its holder.
fn lock(folder: &Path, number: usize) -> Option<File> {
    let path = folder.join(format!("emu-vm-processor-{number}.lock"));
    // Another user's file can be read, which is enough.
    let file = File::open(&path).or_else(|_| File::create(&path)).ok()?;
    file.try_lock().ok().map(|()| file)
}

/// Ticks that each processor was idle, by number, from `/proc/stat`.
fn idle(stat: &str) -> Vec<Option<u64>> {
    let mut ticks = Vec::new();
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        let number = words.next().and_then(|name| name.strip_prefix("cpu"));
        let Some(number) = number.and_then(|n| n.parse::<usize>().ok()) else {
            continue;
        };
        if number < CpuSet::count() {
            ticks.resize(ticks.len().max(number + 1), None);
            ticks[number] = words.nth(3).and_then(|n| n.parse().ok());
        }
    }
    ticks
}

#[cfg(test)]
mod tests {
    use nix::sched::{CpuSet, sched_getaffinity};

    use super::{Processor, idle, this_thread};

    #[test]
    fn idle_ticks_are_those_of_each_processor() {
        let stat = "cpu  9 9 9 99 9\ncpu0 1 2 3 40 5\ncpu2 1 2 3 60 5\nintr 5 cpu1\n";
        assert_eq!(idle(stat), [Some(40), None, Some(60)]);
        assert_eq!(idle("cpu7\ncpuX 1 2 3 4"), vec![None; 8]);
    }

    #[test]
    fn two_vms_never_share_and_a_binding_ends() {
        let numbers = |set: &CpuSet| {
            let is_set = |n: &usize| set.is_set(*n).unwrap();
            (0..CpuSet::count()).filter(is_set).collect::<Vec<_>>()
        };
        let all = sched_getaffinity(this_thread()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let take = || Processor::take_by(folder.path());
        let taken: Vec<Processor> = std::iter::from_fn(take).collect();
        let mut seen: Vec<usize> = taken.iter().map(|p| p.number).collect();
        seen.sort_unstable();
        // With one processor there is no choice, and nothing to bind to.
        let expected = numbers(&all);
        let choice = expected.len() > 1;
        assert_eq!(seen, if choice { expected } else { Vec::new() });
        for processor in &taken {
            let bound = processor.bind().unwrap();
            let now = sched_getaffinity(this_thread()).unwrap();
            assert_eq!(numbers(&now), [processor.number]);
            drop(bound);
            assert_eq!(sched_getaffinity(this_thread()).unwrap(), all);
        }
        drop(taken);
        assert_eq!(take().is_some(), choice);
    }
}
