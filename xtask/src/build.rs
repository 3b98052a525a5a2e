//! Runs cargo, and finds the workspace and its build folder.
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, bail};

/// The root of the workspace, found when the program runs, so that a moved or copied checkout
/// builds in its own folders: above the manifest that cargo names, else above this program,
/// else above the current folder.
pub fn root() -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let places = [manifest, env::current_exe().ok(), env::current_dir().ok()];
        let found = places.iter().flatten().find_map(|place| workspace(place));
        found.map(Path::to_owned).unwrap_or_default()
    };
    ROOT.get_or_init(find).clone()
}

/// The innermost folder that is or contains a path and holds this workspace.
fn workspace(path: &Path) -> Option<&Path> {
    path.ancestors().find(|folder| {
        let has = |file: &str| folder.join(file).is_file();
        has("Cargo.lock") && has("xtask/Cargo.toml") && has("emu-ebpf/Cargo.toml")
    })
}

/// The folder that cargo builds into.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |d| root().join(d))
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to completion; it inherits the output.
pub fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// The packages that builds and tests select: all except the one for the BPF target. Cargo
/// chooses the features of a dependency for the selected packages together, so only with one
/// selection is each dependency compiled once.
pub const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "emu-ebpf"];

/// The command that builds binaries of the workspace.
pub fn of_binaries(names: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["build", "--quiet"]).args(WORKSPACE);
    for name in names {
        command.args(["--bin", name]);
    }
    command
}

/// Builds binaries of the workspace and returns their folder. Nothing is written to standard
/// output, which belongs to the command that follows.
pub fn binaries(names: &[&str]) -> anyhow::Result<PathBuf> {
    succeed(of_binaries(names).stdout(Stdio::null()))?;
    Ok(target().join("debug"))
}

/// Builds packages with few dependencies, among them libraries that are loaded, and returns
/// the folder of the results.
pub fn packages(packages: &[&str]) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--quiet"]).stdout(Stdio::null());
    for package in packages {
        command.args(["--package", package]);
    }
    succeed(&mut command)?;
    Ok(target().join("debug"))
}

/// Optimisation of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Debug,
    /// Quick to run.
    Release,
}

/// Builds a package that runs without this machine's libraries, and returns its
/// binary.
pub fn static_package(package: &str, profile: Profile) -> anyhow::Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let (name, option): (_, &[&str]) = match profile {
        Profile::Debug => ("debug", &[]),
        Profile::Release => ("release", &["--release"]),
    };
    let folder = target().join("static");
    let mut command = cargo();
    command
        .args(["build", "--quiet", "--package", package, "--target", TARGET])
        .args(option)
        .arg("--target-dir")
        .arg(&folder)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static",
        )
        .env_remove("RUSTFLAGS")
        .stdout(Stdio::null());
    succeed(&mut command)?;
    Ok(folder.join(TARGET).join(name).join(package))
}

/// Whether a program is on the search path.
pub fn on_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_moved_checkout_is_its_own_workspace() {
        let folder = tempfile::tempdir().unwrap();
        let moved = folder.path().join("moved");
        for file in ["Cargo.lock", "xtask/Cargo.toml", "emu-ebpf/Cargo.toml"] {
            let path = moved.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        for inside in ["xtask", "target/debug/xtask", ""] {
            assert_eq!(workspace(&moved.join(inside)), Some(&*moved), "{inside}");
        }
        assert_eq!(workspace(folder.path()), None);
        // A crate of its own inside the checkout, with its own lock, is not the workspace.
        fs::create_dir_all(moved.join("experiments/peers")).unwrap();
        fs::write(moved.join("experiments/peers/Cargo.lock"), "").unwrap();
        assert_eq!(workspace(&moved.join("experiments/peers")), Some(&*moved));
    }

    #[test]
    fn the_tests_run_in_this_workspace() {
        assert!(root().join("xtask/src/build.rs").is_file());
    }
}
