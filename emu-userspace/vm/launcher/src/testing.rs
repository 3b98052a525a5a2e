//! User-Mode Linux of Debian's next release, whose system calls take half the time.
//!
//! Since Linux 6.16 User-Mode Linux catches a program's system calls with seccomp and a
//! signal instead of ptrace. Debian 12 has 6.1, so the package of Debian testing is unpacked
//! into the provider's folder for caches.
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use crate::provider::Provider;

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
pub fn at_hand(provider: &dyn Provider) -> Option<Unpacked> {
    find(&folder(provider)).ok()
}

/// The kernel, which is fetched if it is not there.
pub fn fetched(provider: &dyn Provider) -> anyhow::Result<Unpacked> {
    let folder = folder(provider);
    if let Ok(unpacked) = find(&folder) {
        return Ok(unpacked);
    }
    // The folder is complete, or does not exist.
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    let root = partial.join("root");
    provider.unpack_testing(PACKAGE, &root)?;
    let kernel = root.join("usr/bin/linux.uml");
    let bytes = fs::read(&kernel).with_context(|| format!("read {}", kernel.display()))?;
    fs::write(&kernel, for_older_library(bytes))?;
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o755))?;
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&partial, &folder).context("keep the package")?;
    find(&folder)
}

/// Whether the kernel works here: by `trial`, whose exit status is 0, unless an earlier trial
/// succeeded. After a failure, there is no other trial for a day.
pub fn works(
    provider: &dyn Provider,
    trial: impl FnOnce() -> anyhow::Result<u8>,
) -> anyhow::Result<()> {
    const AGAIN: Duration = Duration::from_secs(24 * 3600);
    let good = folder(provider).join("works");
    if good.exists() {
        return Ok(());
    }
    let failed = folder(provider).with_extension("failed");
    let age = fs::metadata(&failed).and_then(|m| m.modified());
    if age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < AGAIN)) {
        bail!("{}", fs::read_to_string(&failed).unwrap_or_default().trim());
    }
    let result = fetched(provider).and_then(|_| match trial()? {
        0 => Ok(()),
        status => bail!("that of Debian testing does not work here (exit status {status})"),
    });
    match &result {
        Ok(()) => fs::write(&good, "")?,
        Err(error) => drop(fs::write(&failed, format!("{error:#}"))),
    }
    result
}

fn folder(provider: &dyn Provider) -> PathBuf {
    provider.cache().join("uml-testing")
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
    use super::{elf_hash, for_older_library};

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
