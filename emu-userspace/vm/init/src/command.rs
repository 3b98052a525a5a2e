//! Running the one command with the host's environment, folder and streams.
use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStringExt,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::Path,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

use crate::seeded;
use anyhow::Context;
use nix::{
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, kill},
        termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr},
    },
    unistd::{Pid, setsid},
};

/// Open files of the command: thousands of vnodes in one process.
const OPEN_FILES: u64 = 262_144;

/// Reads a file of which each part ends with a NUL byte.
fn parts(path: &Path) -> anyhow::Result<Vec<OsString>> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(split(&bytes))
}

/// The parts of NUL-terminated text. Empty parts count, as empty arguments of a command do.
fn split(bytes: &[u8]) -> Vec<OsString> {
    let parts = bytes.split_inclusive(|b| *b == 0);
    parts
        .map(|part| part.strip_suffix(&[0]).unwrap_or(part))
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect()
}

/// A console of the VM, without any translation of what passes: the one that a
/// variable names, or one of User-Mode Linux.
fn console(variable: &str, default: &str, raw: bool) -> anyhow::Result<File> {
    let name = env::var(variable).unwrap_or_else(|_| default.to_owned());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&name)
        .with_context(|| format!("open {name}"))?;
    if raw {
        let mut modes = tcgetattr(&file).with_context(|| format!("read modes of {name}"))?;
        cfmakeraw(&mut modes);
        tcsetattr(&file, SetArg::TCSANOW, &modes)
            .with_context(|| format!("set modes of {name}"))?;
    }
    Ok(file)
}

/// Runs the command of a VM folder and returns its exit status, 128 and the
/// signal for one that was killed.
pub fn run(folder: &Path) -> anyhow::Result<i32> {
    let [arguments, environment, cwd] =
        ["argv", "environ", "cwd"].map(|name| parts(&folder.join(name)));
    let (arguments, environment, cwd) = (arguments?, environment?, cwd?);
    let interactive = folder.join("interactive").exists();
    let _ = setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES);
    // Without it programs that bind to a port find loopback unreachable.
    set_lo_up()?;

    let (program, rest) = arguments.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(rest).env_clear();
    for pair in environment {
        let bytes = pair.into_vec();
        if let Some(at) = bytes.iter().position(|b| *b == b'=') {
            command.env(
                OsString::from_vec(bytes[..at].to_vec()),
                OsString::from_vec(bytes[at + 1..].to_vec()),
            );
        }
    }
    if let Some(cwd) = cwd.first() {
        command.current_dir(cwd);
    }
    if env::var_os("EMU_ROOT").is_some() {
        // Programs such as iperf3 delete a temporary file and go on using it; 9p
        // has no such files.
        command.env("TMPDIR", "/dev/shm");
    }
    for (name, value) in seeded::environment() {
        command.env(name, value);
    }
    if interactive {
        // The leader of a session gets the console that it opens next as its
        // terminal, and with it job control and the interrupt key.
        let _ = setsid();
    }
    let out = console("EMU_OUT", "/dev/tty1", !interactive)?;
    let error = if interactive {
        out.try_clone().context("clone the console")?
    } else {
        console("EMU_ERR", "/dev/tty2", true)?
    };
    let input = match (interactive, folder.join("stdin").exists()) {
        (true, _) => Stdio::from(out.try_clone().context("clone the console")?),
        (false, true) => Stdio::from(File::open(folder.join("stdin"))?),
        (false, false) => Stdio::null(),
    };
    if !interactive {
        command.process_group(0);
    }
    // A console looks like a terminal; where the host's stream is none, the
    // command must see a pipe.
    let plain = |name: &str| folder.join(name).exists();
    command.stdin(input);
    command.stdout(stream(plain("plain-stdout"), &out)?);
    command.stderr(stream(plain("plain-stderr"), &error)?);
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let copies = [
        child.stdout.take().map(|from| copy(from, &out)),
        child.stderr.take().map(|from| copy(from, &error)),
    ];
    let status = child.wait().context("wait for the command")?;
    // What it left behind would hold its streams open, and the VM with them. To
    // the first process, -1 is everybody else.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    for copy in copies.into_iter().flatten() {
        let _ = copy?.join();
    }
    for stream in [&out, &error] {
        let _ = tcdrain(stream.as_fd());
    }
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// A pipe, or the console itself.
fn stream(plain: bool, console: &File) -> anyhow::Result<Stdio> {
    if plain {
        return Ok(Stdio::piped());
    }
    Ok(Stdio::from(
        console.try_clone().context("clone the console")?,
    ))
}

/// Passes a pipe's bytes on to a console until its last writer is gone.
fn copy(
    mut from: impl io::Read + Send + 'static,
    console: &File,
) -> anyhow::Result<JoinHandle<()>> {
    let mut console = console.try_clone().context("clone the console")?;
    Ok(thread::spawn(move || {
        let _ = io::copy(&mut from, &mut console);
    }))
}

/// Sets the loopback interface up, through a file rather than a tool.
fn set_lo_up() -> anyhow::Result<()> {
    const IFF_UP: i32 = 1;
    // sysfs takes the flags of an interface as a number.
    fs::write("/sys/class/net/lo/flags", format!("{IFF_UP:#x}")).context("set lo up")
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn empty_arguments_are_arguments() {
        assert_eq!(split(b"sh\0-c\0\0last\0"), ["sh", "-c", "", "last"]);
        assert!(split(b"").is_empty());
    }
}
