//! User-Mode Linux of Debian's next release, whose system calls take half the time.
//!
//! Since Linux 6.16 User-Mode Linux catches a program's system calls with seccomp and a
//! signal instead of ptrace. Debian 12 has 6.1. The package of Debian testing is fetched
//! from the machine's own mirror and unpacked below the build folder; neither it nor its
//! release is made known to the machine's apt.
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use crate::{
    build::{self, on_path, succeed},
    install::{extract, quiet},
};

const PACKAGE: &str = "user-mode-linux";

/// A kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The program.
    pub kernel: PathBuf,
    /// The folder of its release's modules.
    pub modules: PathBuf,
}

/// The kernel, if it was fetched before.
pub fn at_hand() -> Option<Unpacked> {
    find(&folder()).ok()
}

/// The kernel, fetched where it is not at hand.
pub fn fetched() -> anyhow::Result<Unpacked> {
    let folder = folder();
    if let Ok(unpacked) = find(&folder) {
        return Ok(unpacked);
    }
    let mirror = mirror()?;
    eprintln!(
        "xtask: fetching {PACKAGE} of Debian testing (apt-get, 50 MB) and unpacking into {}; \
         nothing is installed",
        folder.display()
    );
    // Complete, or not there at all.
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    let (archives, root) = (partial.join("archives"), partial.join("root"));
    download(&mirror, &archives).context("fetch the package")?;
    extract(&archives, &root)?;
    fs::remove_dir_all(&archives)?;
    let kernel = root.join("usr/bin/linux.uml");
    let bytes = fs::read(&kernel).with_context(|| format!("read {}", kernel.display()))?;
    fs::write(&kernel, for_older_library(bytes))?;
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o755))?;
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&partial, &folder).context("keep the package")?;
    find(&folder)
}

/// Whether it works here, by `trial` (its exit status is 0) where that is not known yet. A
/// failure is not tried again for a day.
pub fn works(trial: impl FnOnce() -> anyhow::Result<u8>) -> anyhow::Result<()> {
    const AGAIN: Duration = Duration::from_secs(24 * 3600);
    let good = folder().join("works");
    if good.exists() {
        return Ok(());
    }
    let failed = folder().with_extension("failed");
    let age = fs::metadata(&failed).and_then(|m| m.modified());
    if age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < AGAIN)) {
        bail!("{}", fs::read_to_string(&failed).unwrap_or_default().trim());
    }
    let result = fetched().and_then(|_| match trial()? {
        0 => Ok(()),
        status => bail!("that of Debian testing does not work here (exit status {status})"),
    });
    match &result {
        Ok(()) => fs::write(&good, "")?,
        Err(error) => drop(fs::write(&failed, format!("{error:#}"))),
    }
    result
}

fn folder() -> PathBuf {
    build::target().join("uml-testing")
}

fn find(folder: &Path) -> anyhow::Result<Unpacked> {
    let kernel = folder.join("root/usr/bin/linux.uml");
    ensure!(kernel.exists(), "no {}", kernel.display());
    // The package has those of one release.
    let modules = fs::read_dir(folder.join("root/usr/lib/uml/modules"))?
        .find_map(|entry| Some(entry.ok()?.path()))
        .context("no modules")?;
    Ok(Unpacked { kernel, modules })
}

/// Where this machine's apt gets Debian from.
fn mirror() -> anyhow::Result<String> {
    if !on_path("apt-get") || !on_path("dpkg") {
        bail!("User-Mode Linux of Debian testing cannot be fetched without apt-get and dpkg");
    }
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(URI)"])
        .args(["Created-By: Packages", "Origin: Debian"])
        .stderr(Stdio::null())
        .output()
        .context("start apt-get")?;
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    first_mirror(&list)
        .map(str::to_owned)
        .context("apt knows no Debian mirror; as root: apt-get update")
}

/// The place before `dists` of the first index that is none of security's.
fn first_mirror(list: &str) -> Option<&str> {
    list.lines()
        .filter(|uri| !uri.contains("security"))
        .find_map(|uri| uri.split_once("/dists/"))
        .map(|(mirror, _)| mirror)
}

/// With lists and settings of its own: the machine's apt knows nothing of it.
fn download(mirror: &str, folder: &Path) -> anyhow::Result<()> {
    let (lists, cache) = (folder.join("lists"), folder.join("cache"));
    for folder in [lists.join("partial"), cache.join("archives/partial")] {
        fs::create_dir_all(folder)?;
    }
    let sources = folder.join("testing.list");
    fs::write(&sources, format!("deb {mirror} testing main\n"))?;
    let apt = |verb: &str| {
        let mut apt = quiet("apt-get");
        apt.args(["-qq", verb])
            .args(["-o", &format!("Dir::Etc::SourceList={}", sources.display())])
            .args(["-o", "Dir::Etc::SourceParts=/dev/null"])
            .args(["-o", &format!("Dir::State::Lists={}", lists.display())])
            .args(["-o", &format!("Dir::Cache={}", cache.display())])
            .args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="])
            .current_dir(folder);
        apt
    };
    succeed(&mut apt("update"))?;
    succeed(apt("download").arg(PACKAGE))
}

/// Lets the program run with a C library before 2.38.
///
/// All that it needs of a newer one are two names for `strtol` and `strtoul`, which the
/// library that is preloaded has; but it also asks for the version by name. The request is
/// marked weak (`VER_FLG_WEAK`, System V ABI on symbol versioning, LSB 10.7), so that the
/// dynamic linker only mentions what is missing.
fn for_older_library(mut program: Vec<u8>) -> Vec<u8> {
    const WEAK: u8 = 2;
    let hash = elf_hash("GLIBC_2.38").to_ne_bytes();
    let request = [&hash[..], &[0, 0]].concat();
    let found = program.windows(request.len()).position(|w| w == request);
    if let Some(at) = found {
        program[at + hash.len()] = WEAK;
    }
    program
}

/// The hash of names in an ELF file (System V ABI, 5.11).
fn elf_hash(name: &str) -> u32 {
    name.bytes().fold(0, |hash, byte| {
        let hash = (hash << 4) + u32::from(byte);
        let high = hash & 0xf000_0000;
        (hash ^ (high >> 24)) & !high
    })
}

#[cfg(test)]
mod tests {
    use super::{elf_hash, first_mirror, for_older_library};

    #[test]
    fn the_mirror_is_the_machines_own() {
        let list = "http://a.example/debian-security/dists/x-security/main/P\n\
                    http://b.example/debian/dists/x/main/binary-amd64/Packages\n";
        assert_eq!(first_mirror(list), Some("http://b.example/debian"));
        assert_eq!(first_mirror(""), None);
    }

    #[test]
    fn only_the_request_for_the_version_is_marked() {
        // As `objdump -p` shows it of a program that needs GLIBC_2.2.5.
        assert_eq!(elf_hash("GLIBC_2.2.5"), 0x0969_1a75);
        let request = elf_hash("GLIBC_2.38").to_ne_bytes();
        let program = [&[1, 2, 3], &request[..], &[0, 0, 7, 0]].concat();
        let mut expected = program.clone();
        expected[7] = 2;
        assert_eq!(for_older_library(program), expected);
        assert_eq!(for_older_library(vec![1; 64]), vec![1; 64]);
        assert_eq!(for_older_library(Vec::new()), Vec::<u8>::new());
    }
}
