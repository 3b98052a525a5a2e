//! The real programs of experiments and measurements.
use std::{env, fs, path::PathBuf};

use anyhow::Context;

use crate::{
    build::{self, Profile, on_path},
    install::{self, Need, debian},
};

/// Programs of Debian that the ready experiments use, by the package's name.
const PROGRAMS: [Need; 6] = [
    Need {
        file: "/usr/bin/aria2c",
        package: "aria2",
    },
    Need {
        file: "/usr/share/doc/python3-libtorrent/copyright",
        package: "python3-libtorrent",
    },
    Need {
        file: "/usr/bin/transmission-cli",
        package: "transmission-cli",
    },
    Need {
        file: "/usr/bin/mktorrent",
        package: "mktorrent",
    },
    Need {
        file: "/usr/bin/busybox",
        package: "busybox",
    },
    Need {
        file: "/usr/bin/iperf3",
        package: "iperf3",
    },
];
/// Unpacked instead of installed, since its installation starts a public tracker.
const TRACKER: &str = "opentracker";
/// Unpacked instead of installed, since its installation changes the machine's network.
const ENGINE: &str = "podman";
const ENGINE_PACKAGES: [&str; 10] = [
    "podman",
    "conmon",
    "crun",
    "golang-github-containers-common",
    "golang-github-containers-image",
    "libgpgme11",
    "libassuan0",
    "libdevmapper1.02.1",
    "libsubid4",
    "libyajl2",
];
/// Servers for the tests of their default settings, unpacked since their installation starts
/// them.
const SERVERS: &str = "servers";
const SERVER_PACKAGES: [&str; 3] = ["nginx-light", "redis-server", "tor"];
/// The peers of this repository.
const PEERS: &str = "peers";

/// Folders of libraries in an unpacked package.
const LIBRARY_FOLDERS: [&str; 3] = ["usr/lib", "lib", "usr/lib/x86_64-linux-gnu"];

/// Installs and builds the programs that `emu ARGS` starts; returns arguments to put before a
/// command so that it finds them: none, or `env VARIABLE=…`.
pub fn ready(args: &[String]) -> anyhow::Result<Vec<String>> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["run", ..] => {
            let files = args.iter().filter(|arg| arg.ends_with(".yaml"));
            let texts: String = files.filter_map(|f| fs::read_to_string(f).ok()).collect();
            ready_for(&texts)
        }
        ["bench", "folding", ..] => ready_for("python3-libtorrent aria2 opentracker"),
        ["bench", "scale", ..] if asks_for_bittorrent(&words) => {
            ready_for("python3-libtorrent opentracker")
        }
        ["bench", "scale", ..] => {
            // Thousands of them start, so each page that a start does not touch counts.
            let program = build::static_package(PEERS, Profile::Release)?;
            let folder = program
                .parent()
                .context("a program in no folder")?
                .to_owned();
            Ok(vec!["env".to_owned(), with_first("PATH", vec![folder])?])
        }
        _ => Ok(Vec::new()),
    }
}

/// Whether `--peer bittorrent` is among the arguments, in either form.
fn asks_for_bittorrent(words: &[&str]) -> bool {
    words.contains(&"--peer=bittorrent")
        || words
            .windows(2)
            .any(|pair| pair == ["--peer", "bittorrent"])
}

/// All programs that are fetched.
const FETCHED: &str =
    "python3-libtorrent aria2 transmission-cli mktorrent busybox iperf3 opentracker podman servers";

/// The same for all programs.
pub fn all() -> anyhow::Result<Vec<String>> {
    ready_for(&format!("{FETCHED} {PEERS}"))
}

/// Fetches all programs, and builds none.
pub fn fetch() -> anyhow::Result<()> {
    ready_for(FETCHED).map(drop)
}

/// The same for the programs that a text names.
fn ready_for(text: &str) -> anyhow::Result<Vec<String>> {
    let named = |name: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .any(|word| word == name)
    };
    for need in PROGRAMS.into_iter().filter(|need| named(need.package)) {
        debian("the programs of the experiment", &[need])?;
    }
    let (mut programs, mut libraries) = (Vec::new(), Vec::new());
    if named(TRACKER) && !on_path(TRACKER) {
        let root = install::unpacked(TRACKER, &[TRACKER])?;
        programs.push(root.join("usr/bin"));
        libraries.extend(LIBRARY_FOLDERS.map(|below| root.join(below)));
    }
    if named(SERVERS) {
        // The tests that use them are skipped without them.
        match install::unpacked(SERVERS, &SERVER_PACKAGES) {
            Ok(root) => {
                programs.extend(["usr/sbin", "usr/bin"].map(|below| root.join(below)));
                libraries.extend(LIBRARY_FOLDERS.map(|below| root.join(below)));
            }
            Err(error) => eprintln!("xtask: without {}: {error:#}", SERVER_PACKAGES.join(", ")),
        }
    }
    if named(ENGINE) && !on_path(ENGINE) {
        let root = install::unpacked(ENGINE, &ENGINE_PACKAGES)?;
        programs.push(root.join("usr/bin"));
        let multiarch = format!("usr/lib/{}-linux-gnu", env::consts::ARCH);
        libraries.extend([multiarch.as_str(), "usr/lib"].map(|below| root.join(below)));
    }
    if named(PEERS) {
        programs.push(build::binaries(&[PEERS])?);
    }
    let paths = [("PATH", programs), ("LD_LIBRARY_PATH", libraries)];
    let set: Vec<String> = paths
        .into_iter()
        .filter(|(_, folders)| !folders.is_empty())
        .map(|(variable, folders)| with_first(variable, folders))
        .collect::<anyhow::Result<_>>()?;
    let env = (!set.is_empty()).then(|| "env".to_owned());
    Ok(env.into_iter().chain(set).collect())
}

/// `VARIABLE=…` with these folders before the existing ones.
fn with_first(variable: &str, folders: Vec<PathBuf>) -> anyhow::Result<String> {
    let old = env::var_os(variable).unwrap_or_default();
    let old: Vec<PathBuf> = match old.is_empty() {
        true => Vec::new(),
        false => env::split_paths(&old).collect(),
    };
    let paths = env::join_paths(folders.into_iter().chain(old)).context("join a search path")?;
    Ok(format!("{variable}={}", paths.display()))
}
