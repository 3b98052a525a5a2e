//! What other programs send: engines of containers, and the kernel's process of a VM.
use emu_cli::cni;
use vm_protocol::{clock_page::ClockPage, segment};

/// The configuration that an engine of containers writes, and its `CNI_ARGS` in the last line.
pub fn cni(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (config, arguments) = text.rsplit_once('\n').unwrap_or((&text, ""));
    assert!(!cni::version(config).is_empty());
    if let Err(failure) = cni::configuration(config, arguments) {
        assert!(failure.code > 0 && !failure.text.is_empty());
    }
}

/// Messages of the segment between VMs, and the clock's page.
pub fn vm(data: &[u8]) {
    if let Some((kind, time_ns, rest)) = segment::parse(data) {
        assert_eq!([&segment::header(kind, time_ns)[..], rest].concat(), data);
    }
    if let Some(page) = ClockPage::parse(data) {
        let _ = (page.emulated_ns(), page.wall_ns(), page.spins());
    }
}
