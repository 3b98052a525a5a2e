//! `environment.json`: what a reader needs to repeat a run.
use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use emu_kernel::bpf;
use emu_model::{experiment::Schedule, input};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Input;

/// Everything except the packages of the programs. `programs` are their files, in the order
/// of the experiment.
pub(super) fn of(run: &Input, schedule: &Schedule, programs: &[PathBuf]) -> Value {
    let uname = nix::sys::utsname::uname().ok();
    let text = |get: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        uname
            .as_ref()
            .map(|u| get(u).to_string_lossy().into_owned())
    };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib: Option<u64> = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .and_then(|l| l.split_whitespace().next()?.parse().ok());
    let of_experiment = run.experiment.programs.iter().zip(programs).enumerate();
    let programs: Vec<_> = of_experiment
        .map(|(index, (program, file))| {
            json!({
                "name": program.name,
                "file": file,
                "sha256": digest(file),
                "arguments": arguments(schedule, index),
            })
        })
        .collect();
    json!({
        "emu": env!("CARGO_PKG_VERSION"),
        "object": format!("{:016x}", bpf::object_mark()),
        "kernel": text(|u| u.release()),
        "kernel_version": text(|u| u.version()),
        "machine": text(|u| u.machine()),
        "host": text(|u| u.nodename()),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_bytes": memory_kib.map(|kib| kib * 1024),
        "seed": run.seed,
        "topology": run.topology_file,
        "programs": programs,
    })
}

/// Files among the arguments of a program, such as scripts for a shell.
fn arguments(schedule: &Schedule, program: usize) -> Vec<Value> {
    let mut processes = schedule.processes.iter();
    let first = processes.find(|p| p.program_index == program);
    let arguments = first.iter().flat_map(|p| p.command.iter().skip(1));
    arguments
        .map(Path::new)
        .filter(|path| path.is_absolute() && path.is_file())
        .map(|path| json!({"file": path, "sha256": digest(path)}))
        .collect()
}

/// Adds package and version of each program. The query takes up to a second, so the caller
/// makes it after the run.
pub(super) fn add_packages(environment: &mut Value) {
    let Some(programs) = environment["programs"].as_array_mut() else {
        return;
    };
    let file = |program: &Value| PathBuf::from(program["file"].as_str().unwrap_or_default());
    let owners = owners(&programs.iter().map(file).collect::<Vec<_>>());
    for program in programs {
        let package = names_of(&file(program))
            .iter()
            .find_map(|name| owners.get(name).cloned());
        program["package"] = json!(package);
    }
}

/// Names under which a package manager may know a file: links resolved, and without `/usr`,
/// the place before the directories were merged.
fn names_of(file: &Path) -> Vec<PathBuf> {
    let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let mut names = vec![file.to_owned(), real];
    let short = names.iter().filter_map(|n| n.strip_prefix("/usr").ok());
    names.extend(short.map(|n| Path::new("/").join(n)).collect::<Vec<_>>());
    names
}

/// Debian packages that own the files, with their versions; empty on other systems.
fn owners(files: &[PathBuf]) -> BTreeMap<PathBuf, String> {
    let mut asked = Command::new("dpkg-query");
    asked
        .arg("--search")
        .args(files.iter().flat_map(|f| names_of(f)));
    // `NAME: FILE`, or `NAME, NAME: FILE`; there is no line for a file without a package.
    let found: Vec<(String, PathBuf)> = lines(&mut asked)
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(names, file)| {
            let name = names.split(", ").next().unwrap_or(names);
            (name.to_owned(), PathBuf::from(file))
        })
        .collect();
    if found.is_empty() {
        return BTreeMap::new();
    }
    let mut asked = Command::new("dpkg-query");
    asked
        .args(["--show", "--showformat=${binary:Package} ${Version}\\n"])
        .args(found.iter().map(|(name, _)| name));
    // The name may have a suffix with the architecture: `libc6:amd64`.
    let name = |line: &str| line.split([' ', ':']).next().map(str::to_owned);
    let versions: BTreeMap<String, String> = lines(&mut asked)
        .into_iter()
        .filter_map(|line| Some((name(&line)?, line)))
        .collect();
    let owner = |(package, file): (String, PathBuf)| {
        let version = versions.get(&name(&package)?)?;
        Some((file, version.clone()))
    };
    found.into_iter().filter_map(owner).collect()
}

/// Lines of a command's output, whatever its exit status.
fn lines(command: &mut Command) -> Vec<String> {
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let text = output.map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().map(str::to_owned).collect()
}

/// SHA-256 of a file; `None` if it cannot be read.
fn digest(file: &Path) -> Option<String> {
    let mut file = input::open(file).ok()?;
    let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut part).ok()? {
            0 => break,
            count => hash.update(&part[..count]),
        }
    }
    Some(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::print_stdout, reason = "what a test leaves out")]
    fn a_shell_has_a_package_and_an_unknown_file_has_none() {
        let mut environment = json!({"programs": [
            {"file": "/bin/sh"}, {"file": "/no/such/program"},
        ]});
        add_packages(&mut environment);
        let package = |at: usize| environment["programs"][at]["package"].clone();
        assert_eq!(package(1), Value::Null);
        if lines(Command::new("dpkg-query").arg("--version")).is_empty() {
            println!("SKIPPED the package of /bin/sh: no dpkg-query");
            return;
        }
        let found = package(0).as_str().unwrap().to_owned();
        let (name, version) = found.split_once(' ').unwrap();
        assert!(
            name.chars().all(|c| c.is_ascii_lowercase() || c == ':'),
            "{found}"
        );
        assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{found}");
    }
}
