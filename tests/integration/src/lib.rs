//! Helpers that the tests share: scratch network namespaces, commands, timestamped UDP.
//!
//! The helpers panic; they do not return errors.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

pub mod agent;
pub mod bench;
pub mod clock;
pub mod command;
pub mod experiment;
pub mod faults;
pub mod languages;
pub mod netns;
pub mod openmetrics;
pub mod packet;
pub mod packet_fuzz;
pub mod probe;
pub mod snapshot;
pub mod soak;
pub mod udp;

/// A topology, validated and planned for this host.
///
/// # Panics
/// If the topology is invalid.
pub fn plan(text: &str) -> emu_model::plan::Plan {
    let topology = emu_model::topology::parse(text, "test").unwrap_or_else(|e| panic!("{e}"));
    emu_model::plan::Plan::new(&topology, None).unwrap_or_else(|e| panic!("{e}"))
}

/// Median of the values; the upper one of two middle values.
///
/// # Panics
/// If there are no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    *sorted.get(sorted.len() / 2).unwrap()
}

/// Whether the CPU is emulated in software by QEMU: the time of an instruction then says
/// nothing about real CPUs.
pub fn processor_is_emulated() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU TCG"))
}

/// Version of the running kernel: (6, 12) for 6.12.94.
///
/// # Panics
/// If the release string has no version.
pub fn kernel() -> (u32, u32) {
    let release = nix::sys::utsname::uname().unwrap().release().to_owned();
    let release = release.to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse().ok());
    next()
        .zip(next())
        .unwrap_or_else(|| panic!("release {release:?}"))
}

/// Polls up to a minute until `ready` returns a value.
///
/// # Panics
/// If the minute passes without a value; the message names `what`.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(
            std::time::Instant::now() < end,
            "timed out waiting for {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
