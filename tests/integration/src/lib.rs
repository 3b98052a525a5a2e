//! What the tests share: scratch network namespaces, commands, stamped UDP.
//!
//! Tests panic; they do not return errors.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

pub mod agent;
pub mod bench;
pub mod clock;
pub mod command;
pub mod experiment;
pub mod languages;
pub mod netns;
pub mod openmetrics;
pub mod packet;
pub mod probe;
pub mod udp;

/// A topology, checked and planned for this host.
///
/// # Panics
/// If it is not good.
pub fn plan(text: &str) -> emu_model::plan::Plan {
    let topology = emu_model::topology::parse(text, "test").unwrap_or_else(|e| panic!("{e}"));
    emu_model::plan::Plan::new(&topology, None).unwrap_or_else(|e| panic!("{e}"))
}

/// The middle of some values; of two middle ones the upper.
///
/// # Panics
/// If there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    *sorted.get(sorted.len() / 2).unwrap()
}

/// Whether the processor is QEMU's software: what it takes for an instruction says
/// nothing of real ones.
pub fn processor_is_emulated() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU TCG"))
}

/// Version of the running kernel: (6, 12) for 6.12.94.
///
/// # Panics
/// If its release is no version.
pub fn kernel() -> (u32, u32) {
    let release = nix::sys::utsname::uname().unwrap().release().to_owned();
    let release = release.to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse().ok());
    next()
        .zip(next())
        .unwrap_or_else(|| panic!("release {release:?}"))
}

/// Waits up to a minute for something to be there.
///
/// # Panics
/// If it never is.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(std::time::Instant::now() < end, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
