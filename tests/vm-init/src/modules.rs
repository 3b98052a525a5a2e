//! Loading kernel modules without modprobe: the host may not have it.
use std::{
    collections::BTreeMap,
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
const WANTED: [&str; 20] = [
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

/// Where distributions keep modules of the running kernel.
fn folder() -> anyhow::Result<PathBuf> {
    let release = nix::sys::utsname::uname().context("read the kernel's release")?;
    let release = release.release().to_owned();
    for base in ["/usr/lib/uml/modules", "/lib/modules", "/usr/lib/modules"] {
        let folder = Path::new(base).join(&release);
        if folder.join("modules.dep").exists() {
            return Ok(folder);
        }
    }
    anyhow::bail!("no modules of kernel {} found", release.display())
}

/// Name of a module from its path, with `_` for `-` as the kernel has it.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(".ko").next().unwrap_or(file);
    stem.replace('-', "_")
}

/// Loads the wanted modules with what they depend on; those that the kernel has
/// built in or not at all are passed over.
pub fn load() -> anyhow::Result<()> {
    let folder = folder()?;
    let list = fs::read_to_string(folder.join("modules.dep")).context("read modules.dep")?;
    let mut known: BTreeMap<String, (&str, Vec<&str>)> = BTreeMap::new();
    for line in list.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            known.insert(name(path), (path, needs.split_whitespace().collect()));
        }
    }
    for wanted in WANTED {
        let Some((path, needs)) = known.get(wanted) else {
            continue;
        };
        // modules.dep names the direct need first and its needs after it.
        for path in needs.iter().rev().chain([path]) {
            insert(&folder.join(path))?;
        }
    }
    Ok(())
}

fn insert(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    // ifb makes two devices of its own unless told not to.
    let options = if path.ends_with("ifb.ko") {
        "numifbs=0"
    } else {
        ""
    };
    let options = CString::new(options).unwrap_or_default();
    match finit_module(&file, &options, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => anyhow::bail!("load {}: {errno}", path.display()),
    }
}
