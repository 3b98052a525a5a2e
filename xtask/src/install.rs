//! Installs missing packages of Debian, or names them.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use crate::build::{on_path, succeed, target};
pub use vm_launcher::Need;

/// Installs the packages of the files that are missing.
///
/// On Debian as root with apt; elsewhere it fails with the commands to run.
pub fn debian(what: &str, needs: &[Need]) -> anyhow::Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|need| !Path::new(need.file).exists())
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !on_path("apt-get") || !nix::unistd::geteuid().is_root() {
        bail!("{what} needs {list}; as root: apt-get install {list}");
    }
    eprintln!("xtask: installing {list} for {what} (apt-get)");
    let apt = |args: &[&str]| {
        let mut command = apt_get();
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    say_who_holds_the_lock();
    let install: Vec<&str> = ["install", "--yes", "-qq", "--no-install-recommends"]
        .into_iter()
        .chain(missing.iter().copied())
        .collect();
    // The package lists of a new machine are empty or outdated.
    succeed(&mut apt(&["update", "-qq"]))?;
    succeed(&mut apt(&install))
}

/// Unpacks packages below the build folder without installing them: no service is started,
/// no user created, nothing enabled. Missing dependencies are unpacked, too. Returns the
/// folder that stands for `/`.
pub fn unpacked(name: &str, packages: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = target().join(name);
    let (archives, root) = (folder.join("archives"), folder.join("root"));
    if root.exists() {
        return Ok(root);
    }
    let list = packages.join(" ");
    if !on_path("apt-get") || !on_path("dpkg") {
        bail!("{list} cannot be fetched without apt-get");
    }
    eprintln!(
        "xtask: fetching {list} (apt-get) and unpacking into {}; nothing is installed",
        root.display()
    );
    fs::create_dir_all(archives.join("partial"))
        .with_context(|| format!("make {}", archives.display()))?;
    if let Err(error) = fetch(&archives, packages) {
        if !nix::unistd::geteuid().is_root() {
            return Err(error.context("as root: apt-get update"));
        }
        // The package lists of a new machine are empty or outdated.
        say_who_holds_the_lock();
        succeed(apt_get().args(["update", "-qq"]))?;
        fetch(&archives, packages)?;
    }
    // The folder is complete, or does not exist.
    let partial = folder.join("partial");
    let _ = fs::remove_dir_all(&partial);
    extract(&archives, &partial)?;
    fs::rename(&partial, &root).with_context(|| format!("unpack {list}"))?;
    Ok(root)
}

/// Unpacks the packages in a folder.
pub fn extract(archives: &Path, root: &Path) -> anyhow::Result<()> {
    for archive in fs::read_dir(archives)?.flatten() {
        let path = archive.path();
        if path.extension().is_some_and(|e| e == "deb") {
            let mut unpack = Command::new("dpkg");
            succeed(unpack.arg("--extract").arg(&path).arg(root))?;
        }
    }
    Ok(())
}

/// A program without input, whose standard output is discarded.
pub fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Longest wait for another process that installs packages, in seconds.
const LOCK_TIMEOUT_S: u32 = 600;
/// The locks that an installation takes.
const LOCKS: [&str; 3] = [
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
];

/// `apt-get` without input and standard output, which waits for other installations.
pub fn apt_get() -> Command {
    let mut apt = quiet("apt-get");
    apt.arg("-o")
        .arg(format!("DPkg::Lock::Timeout={LOCK_TIMEOUT_S}"));
    apt
}

/// Reports another process that installs packages, since apt-get waits without a message.
fn say_who_holds_the_lock() {
    let is_held = |path: &&&str| is_locked(Path::new(path));
    if let Some(lock) = LOCKS.iter().find(is_held) {
        eprintln!(
            "xtask: another process installs packages and holds {lock}; waiting up to \
             {LOCK_TIMEOUT_S} s for it"
        );
    }
}

/// Whether a process holds a lock of `fcntl` on a file.
fn is_locked(path: &Path) -> bool {
    use nix::fcntl::{FcntlArg, fcntl};
    let Ok(file) = fs::OpenOptions::new().read(true).write(true).open(path) else {
        return false;
    };
    let mut lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).is_ok()
        && i32::from(lock.l_type) != nix::libc::F_UNLCK
}

/// Fetches the packages and those of their dependencies that are not installed.
fn fetch(archives: &Path, packages: &[&str]) -> anyhow::Result<()> {
    let mut apt = apt_get();
    apt.args(["install", "--download-only", "--yes", "-qq"])
        .arg("--no-install-recommends")
        .arg("-o")
        .arg(format!("Dir::Cache::archives={}", archives.display()))
        // Nothing is installed, so no lock and no root is needed.
        .args(["-o", "Debug::NoLocking=1"])
        .args(packages);
    succeed(&mut apt)
}
