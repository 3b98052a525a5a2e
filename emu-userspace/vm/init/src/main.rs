//! First process of the throwaway VM: mounts, kernel modules, one command, off.
//!
//! The launcher starts it with the folder of the VM in `EMU_VM`. The host's
//! files are the root file system: of User-Mode Linux from the start, in QEMU once
//! `root::enter` is through. It must write nothing outside that folder except
//! through the command.
#![forbid(unsafe_code)]

mod command;
mod root;
mod seeded;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
    unistd::{sethostname, sync},
};
use vm_init::modules;
use vm_protocol::settings;

/// Status of a command that could not be started, as shells have it.
const NOT_STARTED: i32 = 127;

/// File systems of the guest: type and place.
const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    // The host's own state must be out of reach.
    ("tmpfs", "/run"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/dev/shm"),
    ("devpts", "/dev/pts"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

fn main() -> ExitCode {
    let Some(folder) = folder() else {
        return ExitCode::FAILURE;
    };
    let status = run(&folder).unwrap_or_else(|error| {
        // The folder is out of reach as long as the host's files are.
        eprintln!("vm-init: {error:#}");
        let _ = fs::write(folder.join("error"), format!("{error:#}\n"));
        NOT_STARTED
    });
    let _ = fs::write(folder.join("status"), status.to_string());
    sync();
    // Only returns on failure, and then the kernel panics, which ends the VM too.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    ExitCode::FAILURE
}

/// The VM's folder on the host. The folder is the working folder of User-Mode Linux, and the
/// host's `/proc`, which is accessible until this process mounts the guest's, has its path.
fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("EMU_VM").map(PathBuf::from);
    named.or_else(|| fs::read_link("/proc/self/cwd").ok())
}

fn run(folder: &Path) -> anyhow::Result<i32> {
    root::enter()?;
    for (kind, place) in MOUNTS {
        // Folders below a fresh file system; those of the host are there.
        let _ = fs::create_dir_all(place);
        let mounted = mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        );
        match mounted {
            // The kernel mounted /dev by itself.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(errno) => anyhow::bail!("mount {kind} on {place}: {errno}"),
        }
    }
    if std::env::var_os(settings::GUEST_VARIABLE).is_some() {
        fs::create_dir_all(settings::GUEST_FOLDER).context("make the clock's folder")?;
        symlink(folder.join("clock"), settings::GUEST_PAGE).context("link the clock's page")?;
    }
    seeded::provide().context("provide the library for random numbers")?;
    sethostname("emu-vm").context("set the host name")?;
    modules::load(&modules::NETWORK)?;
    if std::env::var("EMU_CLOCK").is_ok_and(|source| source == "tsc")
        && let Err(error) = vm_clock::start()
    {
        // Reading the clock is slower then, and as exact.
        eprintln!("vm-init: programs ask the kernel for the time: {error:#}");
    }
    command::run(folder)
}
