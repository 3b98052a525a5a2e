//! QEMU in software emulation, for distribution kernels: slow, but SMP, with a
//! JIT, and the very kernels that users run. virtme-ng (PyPI) boots them with this
//! machine's files as root.
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use super::Request;
use crate::{
    build::{succeed, target},
    install::{Need, debian},
    run::status,
};

const VIRTME_NG: &str = "virtme-ng==1.42";
const NEEDS: [Need; 4] = [
    Need {
        file: "/usr/bin/qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Need {
        file: "/bin/busybox",
        package: "busybox-static",
    },
    Need {
        file: "/sbin/modprobe",
        package: "kmod",
    },
    Need {
        file: "/usr/lib/python3/dist-packages/pip/__init__.py",
        package: "python3-pip",
    },
];

/// Puts the guest in the state that the User-Mode Linux guest has.
const PRELUDE: &str = "modprobe -aq sch_fq sch_ingress cls_bpf cls_matchall act_mirred act_gact \
    ifb veth dummy sch_netem sch_htb sch_tbf; ip link set lo up; ulimit -n 262144; exec \"$@\"";

/// Debian's package for a kernel series.
fn package(series: &str) -> anyhow::Result<&'static str> {
    Ok(match series {
        "6.1" => "linux-image-amd64",
        "6.12" => "linux-image-6.12-amd64",
        _ => bail!("no kernel {series:?}: uml, 6.1, 6.12, or the path of a User-Mode Linux binary"),
    })
}

/// The newest installed kernel of a series.
fn installed(series: &str) -> Option<PathBuf> {
    let prefix = format!("vmlinuz-{series}.");
    let mut found: Vec<PathBuf> = fs::read_dir("/boot")
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        })
        .collect();
    found.sort();
    found.pop()
}

/// A folder with virtme-ng's programs, made once.
fn virtme_ng() -> anyhow::Result<PathBuf> {
    let folder = target().join("virtme-ng");
    let programs = folder.join("bin");
    if !programs.join("vng").exists() {
        eprintln!(
            "xtask: installing {VIRTME_NG} into {} (pip)",
            folder.display()
        );
        succeed(
            Command::new("/usr/bin/python3")
                .args(["-m", "pip", "install", "--quiet", "--prefix"])
                .arg(&folder)
                .args(["--no-warn-script-location", "--ignore-installed", VIRTME_NG])
                .stdout(Stdio::null()),
        )?;
        // Debian's pip puts a prefix's programs below local/.
        let local = folder.join("local/bin");
        if local.is_dir() && !programs.exists() {
            std::os::unix::fs::symlink("local/bin", &programs)?;
        }
    }
    Ok(programs)
}

/// Where Python finds the packages of that folder.
fn python_path(folder: &Path) -> anyhow::Result<std::ffi::OsString> {
    let mut paths = Vec::new();
    for base in ["lib", "local/lib"] {
        let Ok(versions) = fs::read_dir(folder.join(base)) else {
            continue;
        };
        for version in versions.filter_map(Result::ok) {
            for name in ["site-packages", "dist-packages"] {
                paths.push(version.path().join(name));
            }
        }
    }
    Ok(env::join_paths(paths)?)
}

/// Runs a command on a kernel series and returns its exit status.
pub fn run(request: &Request, series: &str) -> anyhow::Result<u8> {
    let package = package(series)?;
    debian("the QEMU VM", &NEEDS)?;
    if installed(series).is_none() {
        // The file's name has a version that only the package knows.
        debian(
            "the QEMU VM",
            &[Need {
                file: "/nonexistent",
                package,
            }],
        )?;
    }
    let kernel =
        installed(series).with_context(|| format!("{package} has no kernel {series} in /boot"))?;
    let programs = virtme_ng()?;
    let path = env::join_paths(
        [programs.clone()]
            .into_iter()
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )?;
    let mut command = Command::new("timeout");
    let seconds = request.timeout.map_or(0, |t| t.as_secs());
    command
        .arg(seconds.to_string())
        .arg(programs.join("vng"))
        .args([
            "--disable-kvm",
            "--force-9p",
            "--rw",
            "--cpus",
            "2",
            "--memory",
        ])
        .arg(&request.memory)
        .arg("--run")
        .arg(kernel)
        .args(["--", "sh", "-c"])
        .arg(PRELUDE)
        .arg("sh")
        .args(&request.argv)
        .env("PATH", path)
        .env("PYTHONPATH", python_path(&target().join("virtme-ng"))?);
    if !request.interactive {
        command.stdin(Stdio::null());
    }
    status(&mut command)
}
