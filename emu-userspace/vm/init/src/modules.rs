//! Loading kernel modules without modprobe: the host may not have it.
use std::{
    collections::BTreeMap,
    env,
    ffi::CString,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context;
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
};

/// What emu needs, and what it is compared with.
pub const NETWORK: [&str; 20] = [
    "sch_fq",
    "sch_ingress",
    "cls_bpf",
    "cls_matchall",
    "cls_u32",
    "cls_flower",
    "act_mirred",
    "act_gact",
    "ifb",
    "veth",
    "dummy",
    "bridge",
    "sch_netem",
    "sch_htb",
    "sch_fq_codel",
    "sch_codel",
    "sch_red",
    "sch_tbf",
    "sch_prio",
    "tcp_bbr",
];
/// What brings the host's files and the command's streams into a QEMU guest.
pub const VIRTIO: [&str; 4] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p"];
/// `MODULE_INIT_COMPRESSED_FILE` (Linux 5.17): the kernel unpacks it.
const COMPRESSED: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);

/// Where the modules of the running kernel are.
fn folder() -> anyhow::Result<PathBuf> {
    let release = nix::sys::utsname::uname().context("read the kernel's release")?;
    let release = release.release().to_owned();
    let given = env::var_os("EMU_MODULES").map(PathBuf::from);
    let usual = ["/usr/lib/uml/modules", "/lib/modules", "/usr/lib/modules"]
        .map(|base| Path::new(base).join(&release));
    given
        .into_iter()
        .chain(usual)
        .find(|folder| folder.join("modules.dep").exists())
        .with_context(|| format!("no modules of kernel {} found", release.display()))
}

/// Name of a module from its path, with `_` for `-` as the kernel has it.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.replace('-', "_")
}

/// Paths below a folder of the wanted modules and of what they depend on, in the
/// order of loading. Those that the kernel has built in or not at all are passed
/// over.
///
/// # Errors
/// If the folder has no `modules.dep`.
pub fn files(folder: &Path, wanted: &[&str]) -> anyhow::Result<Vec<String>> {
    let list = folder.join("modules.dep");
    let list = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let mut known: BTreeMap<String, (&str, Vec<&str>)> = BTreeMap::new();
    for line in list.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            known.insert(name(path), (path, needs.split_whitespace().collect()));
        }
    }
    let mut files: Vec<String> = Vec::new();
    for wanted in wanted {
        let Some((path, needs)) = known.get(*wanted) else {
            continue;
        };
        // modules.dep names the direct need first and its needs after it.
        for path in needs.iter().rev().chain([path]) {
            if !files.iter().any(|file| file == path) {
                files.push((*path).to_owned());
            }
        }
    }
    Ok(files)
}

/// Loads the wanted modules with what they depend on.
///
/// # Errors
/// If the kernel refuses one.
pub fn load(wanted: &[&str]) -> anyhow::Result<()> {
    let folder = folder()?;
    for file in files(&folder, wanted)? {
        insert(&folder.join(file))?;
    }
    Ok(())
}

fn insert(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    // ifb makes two devices of its own unless told not to.
    let options = if name(&path.to_string_lossy()) == "ifb" {
        "numifbs=0"
    } else {
        ""
    };
    let flags = if path.extension().is_some_and(|e| e == "ko") {
        ModuleInitFlags::empty()
    } else {
        COMPRESSED
    };
    let options = CString::new(options).unwrap_or_default();
    match finit_module(&file, &options, flags) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => anyhow::bail!("load {}: {errno}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::{files, name};

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let list = "a/nine.ko.xz: a/net.ko.xz b/fs-cache.ko.xz\na/net.ko.xz:\nb/fs-cache.ko.xz:\n";
        std::fs::write(folder.path().join("modules.dep"), list).unwrap();
        let found = files(folder.path(), &["nine", "built_in", "net"]).unwrap();
        assert_eq!(found, ["b/fs-cache.ko.xz", "a/net.ko.xz", "a/nine.ko.xz"]);
        assert_eq!(name("kernel/b/fs-cache.ko.xz"), "fs_cache");
    }
}
