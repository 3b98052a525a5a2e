//! What the VM's processes compute, as emulated time.
use core::{
    ffi::c_int,
    sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed},
};

use crate::host;

/// Processor time that was charged, and how it is.
pub struct Charged {
    /// Emulated time for processor time, in thousandths; 0: it is free.
    permille: u64,
    kernel_ns: AtomicU64,
    child: AtomicI32,
    child_ns: AtomicU64,
}

/// Processor time since the last charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// As the host counts it.
    pub used_ns: u64,
    /// As emulated time.
    pub charged_ns: u64,
}

impl Charged {
    /// Nothing was charged yet.
    pub const fn new(permille: u64) -> Self {
        Self {
            permille,
            kernel_ns: AtomicU64::new(0),
            child: AtomicI32::new(0),
            child_ns: AtomicU64::new(0),
        }
    }

    /// A guest process is about to run: what it used before is not charged again.
    pub fn child_runs(&self, pid: c_int) {
        if self.permille > 0 && pid > 0 {
            self.child.store(pid, Relaxed);
            self.child_ns
                .store(host::clock_ns(host::cpu_clock(pid)), Relaxed);
        }
    }

    /// What kernel and guest process used since the last time.
    pub fn take(&self, child: c_int) -> Option<Charge> {
        if self.permille == 0 {
            return None;
        }
        let kernel = host::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        let mut used_ns = since(&self.kernel_ns, kernel);
        let pid = self.child.load(Relaxed);
        if pid > 0 {
            used_ns += since(&self.child_ns, host::clock_ns(host::cpu_clock(pid)));
            if child == 0 {
                self.child.store(0, Relaxed);
            }
        }
        Some(Charge {
            used_ns,
            charged_ns: used_ns * self.permille / 1_000,
        })
    }

    /// What it took to skip idle time is not the VM's.
    pub fn forget_idle(&self) {
        if self.permille > 0 {
            let kernel = host::clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
            self.kernel_ns.store(kernel, Relaxed);
        }
    }
}

/// Time since a mark, which moves; none at the first time.
fn since(mark: &AtomicU64, now: u64) -> u64 {
    let before = mark.swap(now, Relaxed);
    if before == 0 {
        0
    } else {
        now.saturating_sub(before)
    }
}

#[cfg(test)]
mod tests {
    use super::Charged;

    #[test]
    fn computing_is_charged_by_its_factor_and_idling_is_not() {
        assert_eq!(Charged::new(0).take(0), None, "it is free");
        let charged = Charged::new(4_000);
        charged.take(0);
        let mut sum = 0_u64;
        while let Some(charge) = charged.take(0)
            && charge.used_ns == 0
        {
            sum = std::hint::black_box(sum + 1);
        }
        for number in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum ^ number);
        }
        let charge = charged.take(0).unwrap();
        assert!(charge.used_ns > 100_000, "{charge:?}");
        assert_eq!(charge.charged_ns, charge.used_ns * 4);
        std::thread::sleep(std::time::Duration::from_millis(30));
        let idle = charged.take(0).unwrap();
        assert!(
            idle.used_ns < 10_000_000,
            "sleeping costs nothing: {idle:?}"
        );
    }
}
