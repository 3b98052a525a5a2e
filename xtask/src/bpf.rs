//! Compiling the eBPF programs, and the digest that ties the committed object to
//! its sources.
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::{
    build::{on_path, root, succeed, target},
    install::{Need, debian},
};

const OBJECT: &str = "emu-userspace/kernel/bpf/emu.bpf.o";
const DIGEST: &str = "emu-userspace/kernel/bpf/emu.bpf.sha256";
const LINKER: &str = "0.13.0";
/// The nightly toolchain that compiles the programs; another one makes another object.
const NIGHTLY: &str = "nightly-2026-05-20";
/// Date of the compiler's last commit, by which a toolchain called `nightly` is recognised.
const NIGHTLY_COMMIT: &str = "commit-date: 2026-05-19";
/// Debian's compilers: those that build the BPF target and have its sources.
const DEBIAN_RUST: [Need; 3] = [
    Need {
        file: "/usr/bin/rustc",
        package: "rustc-web",
    },
    Need {
        file: "/usr/bin/cargo",
        package: "cargo-web",
    },
    Need {
        file: "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
        package: "rust-web-src",
    },
];
const DEBIAN_LLVM: [Need; 4] = [
    Need {
        file: "/usr/lib/llvm-22/bin/llvm-config",
        package: "llvm-22-dev",
    },
    Need {
        file: "/usr/include/zlib.h",
        package: "zlib1g-dev",
    },
    Need {
        file: "/usr/include/zstd.h",
        package: "libzstd-dev",
    },
    Need {
        file: "/usr/include/libxml2/libxml/xmlversion.h",
        package: "libxml2-dev",
    },
];

/// Arguments of `build-ebpf`.
#[derive(Args)]
pub struct BuildEbpf {
    /// Only check that the committed object belongs to the sources.
    #[arg(long)]
    check: bool,
    /// Write the object there instead of renewing the committed one.
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

impl BuildEbpf {
    pub fn run(self) -> anyhow::Result<u8> {
        if self.check {
            return Ok(match check() {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("xtask: {error:#}");
                    1
                }
            });
        }
        if let Some(out) = self.out {
            build(&out)?;
            return Ok(0);
        }
        let object = root().join(OBJECT);
        build(&object)?;
        let text = format!(
            "sources {}\nobject {}\n",
            sources_digest()?,
            file_digest(&object)?
        );
        fs::write(root().join(DIGEST), text).context("write the digest")?;
        eprintln!("xtask: renewed {OBJECT} and {DIGEST}");
        Ok(0)
    }
}

/// Where the committed object is.
pub fn committed() -> PathBuf {
    root().join(OBJECT)
}

/// Fails when the committed object is not that of the sources.
pub fn check() -> anyhow::Result<()> {
    let text = fs::read_to_string(root().join(DIGEST)).context("read the digest")?;
    let line = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or("");
    if line("sources ") != sources_digest()? {
        bail!("{OBJECT} is older than the eBPF sources; run cargo xtask build-ebpf and commit it");
    }
    if line("object ") != file_digest(&root().join(OBJECT))? {
        bail!("{OBJECT} is not the one of {DIGEST}; run cargo xtask build-ebpf and commit both");
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn file_digest(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(hex(&Sha256::digest(bytes)))
}

/// Digest over the names and contents of all that is compiled into the object.
fn sources_digest() -> anyhow::Result<String> {
    let mut files = Vec::new();
    for folder in ["emu-ebpf", "emu-common"] {
        collect(&root().join(folder), &mut files)?;
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let name = file.strip_prefix(root()).unwrap_or(&file);
        let bytes = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        digest.update(name.as_os_str().as_encoded_bytes());
        digest.update([0]);
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    }
    Ok(hex(&digest.finalize()))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs" || e == "toml") {
            files.push(path);
        }
    }
    Ok(())
}

/// Compiles the programs to `out`.
pub fn build(out: &Path) -> anyhow::Result<()> {
    let mut cargo = toolchain()?;
    linker()?;
    let folder = target().join("bpf");
    // Paths of this machine must not end up in the object.
    let flags = [
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        format!("--remap-path-prefix={}=.", root().display()),
        format!("--remap-path-prefix={}=/cargo", cargo_home().display()),
    ];
    cargo
        .args(["build", "--quiet", "--release", "--package", "emu-ebpf"])
        .args(["-Z", "build-std=core", "--target", "bpfel-unknown-none"])
        .arg("--target-dir")
        .arg(&folder)
        .current_dir(root())
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTFLAGS");
    let path = env::join_paths(
        [cargo_home().join("bin")]
            .into_iter()
            .chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )?;
    cargo.env("PATH", path);
    succeed(&mut cargo)?;
    let built = folder.join("bpfel-unknown-none/release/emu-ebpf");
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent)?;
    }
    strip(&built, out)
}

/// Copies the object without its DWARF sections, which only the linker needed:
/// the kernel reads BTF.
fn strip(built: &Path, out: &Path) -> anyhow::Result<()> {
    let tools = ["/usr/lib/llvm-22/bin/llvm-strip", "/usr/bin/llvm-strip"];
    let Some(tool) = tools.iter().find(|t| Path::new(t).exists()) else {
        fs::copy(built, out).context("copy the object")?;
        return Ok(());
    };
    succeed(
        Command::new(tool)
            .arg("--strip-debug")
            .arg("-o")
            .arg(out)
            .arg(built),
    )
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    )
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists()
}

/// Name of the pinned nightly toolchain, installed where it is missing.
pub fn nightly() -> anyhow::Result<&'static str> {
    if let Some(name) = pinned_nightly() {
        return Ok(name);
    }
    install_nightly()?;
    pinned_nightly().context("rustup has not installed the nightly toolchain")
}

fn install_nightly() -> anyhow::Result<()> {
    if !on_path("rustup") {
        bail!("this needs rustup: rustup toolchain install {NIGHTLY} --component rust-src");
    }
    eprintln!("xtask: installing the toolchain {NIGHTLY} with rust-src (rustup)");
    let mut install = Command::new("rustup");
    install.args(["toolchain", "install", NIGHTLY]);
    succeed(install.args(["--profile", "minimal", "--component", "rust-src"]))
}

/// A cargo that can build the core library for the BPF target.
fn toolchain() -> anyhow::Result<Command> {
    if let Some(name) = pinned_nightly() {
        let mut command = Command::new("cargo");
        command.arg(format!("+{name}"));
        for name in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTC_BOOTSTRAP"] {
            command.env_remove(name);
        }
        return Ok(command);
    }
    if !is_debian() {
        install_nightly()?;
        return toolchain();
    }
    debian("building the eBPF programs", &DEBIAN_RUST)?;
    let mut command = Command::new("/usr/bin/cargo");
    for (name, _) in env::vars_os() {
        // A cargo sets these for the programs that it runs.
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG") || text.starts_with("CARGO_MANIFEST") {
            command.env_remove(&name);
        }
    }
    command
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

/// Name of an installed toolchain that is the pinned one and has the sources of the library.
fn pinned_nightly() -> Option<&'static str> {
    let ask = |name: &str, args: &[&str]| {
        // rustup would install a toolchain that is missing.
        let mut rustup = Command::new("rustup");
        rustup.args(["run", name, "rustc"]).args(args);
        let output = rustup.env_remove("RUSTUP_TOOLCHAIN").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    };
    [NIGHTLY, "nightly"].into_iter().find(|name| {
        let sysroot = ask(name, &["--print", "sysroot"]).unwrap_or_default();
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
        core.is_dir() && ask(name, &["-vV"]).is_some_and(|text| text.contains(NIGHTLY_COMMIT))
    })
}

fn linker() -> anyhow::Result<()> {
    if on_path("bpf-linker") || cargo_home().join("bin/bpf-linker").exists() {
        return Ok(());
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "install",
        "--quiet",
        "bpf-linker",
        "--version",
        LINKER,
        "--locked",
    ]);
    if is_debian() {
        debian("building bpf-linker", &DEBIAN_LLVM)?;
        cargo
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", "/usr/lib/llvm-22");
    }
    eprintln!("xtask: building bpf-linker {LINKER} (cargo install, about a minute)");
    succeed(&mut cargo)
}
