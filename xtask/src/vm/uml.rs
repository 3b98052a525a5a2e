//! User-Mode Linux: a kernel that runs as an ordinary process of any user.
use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, IsTerminal},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::{
        signal::{Signal, killpg},
        termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
    },
    unistd::Pid,
};
use signal_hook::{consts::TERM_SIGNALS, flag};

use super::{Request, channel::Output};
use crate::{
    build,
    install::{Need, debian},
};

/// Exit status when the VM itself failed.
const VM_FAILED: u8 = 125;
/// Exit status when the time was up, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
const KERNEL: &str = "/usr/bin/linux.uml";
const NEEDS: [Need; 1] = [Need {
    file: KERNEL,
    package: "user-mode-linux",
}];

/// Puts a terminal's modes back when it goes.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter(wanted: bool) -> Self {
        let before = wanted.then(|| tcgetattr(io::stdin()).ok()).flatten();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &raw);
        }
        Self(before)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// A VM's folder: what init needs, and what it answers.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(request: &Request) -> anyhow::Result<Self> {
        let folder = Self(tempfile::Builder::new().prefix("emu-vm-").tempdir()?);
        let joined = |parts: Vec<OsString>| {
            let mut bytes = Vec::new();
            for part in parts {
                bytes.extend_from_slice(part.as_bytes());
                bytes.push(0);
            }
            bytes
        };
        folder.write(
            "argv",
            joined(request.argv.iter().map(OsString::from).collect()),
        )?;
        let environment = env::vars_os().map(|(name, value)| {
            let mut pair = name;
            pair.push("=");
            pair.push(value);
            pair
        });
        folder.write("environ", joined(environment.collect()))?;
        folder.write("cwd", joined(vec![env::current_dir()?.into_os_string()]))?;
        let terminals = [
            ("plain-stdout", io::stdout().is_terminal()),
            ("plain-stderr", io::stderr().is_terminal()),
        ];
        for (name, _) in terminals.iter().filter(|(_, terminal)| !terminal) {
            folder.write(name, Vec::new())?;
        }
        if request.interactive {
            folder.write("interactive", Vec::new())?;
        } else if let Ok(input) = fs::read_link("/proc/self/fd/0")
            && input.is_file()
        {
            std::os::unix::fs::symlink(input, folder.0.path().join("stdin"))?;
        }
        Ok(folder)
    }

    fn write(&self, name: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        fs::write(self.0.path().join(name), bytes).with_context(|| format!("write {name}"))
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.path().join(name)).ok()
    }
}

/// Runs a command in a fresh VM and returns its exit status.
pub fn run(request: &Request) -> anyhow::Result<u8> {
    let kernel = match &request.kernel {
        Some(kernel) => kernel.clone(),
        None => {
            debian("the VM", &NEEDS)?;
            PathBuf::from(KERNEL)
        }
    };
    let binaries = build::packages(&["vm-init", "uml-xstate"])?;
    let folder = Folder::new(request)?;
    let log_path = folder.0.path().join("console.log");
    let stop = Arc::new(AtomicBool::new(false));
    for signal in TERM_SIGNALS {
        flag::register(*signal, Arc::clone(&stop))?;
    }
    let _terminal = RawTerminal::enter(request.interactive);
    let mut log = Output::to(fs::File::create(&log_path)?)?;
    let mut out = Output::to(io::stdout())?;
    let mut error = Output::to(io::stderr())?;
    let mut child = start(request, &kernel, &binaries, &folder, [&log, &out, &error])?;
    for stream in [&mut log, &mut out, &mut error] {
        stream.started();
    }
    let end = wait(&mut child, request.timeout, &stop);
    for stream in [log, out, error] {
        stream.finish();
    }
    verdict(end?, request, folder)
}

fn start(
    request: &Request,
    kernel: &Path,
    binaries: &Path,
    folder: &Folder,
    [log, out, error]: [&Output; 3],
) -> anyhow::Result<Child> {
    let path = folder.0.path().display();
    let input = if request.interactive { "fd:0" } else { "null" };
    let mut command = Command::new(kernel);
    command
        .args([
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "rw",
            "quiet",
        ])
        .arg(format!("mem={}", request.memory))
        .arg(format!("init={}", binaries.join("vm-init").display()))
        .arg(format!("EMU_VM={path}"))
        .arg(format!("uml_dir={path}/"))
        // The kernel's own words go to a log, the command's streams to ours.
        .args([
            "con=null".to_owned(),
            format!("con0=null,fd:{}", log.number()),
        ])
        .arg(format!("con1={input},fd:{}", out.number()))
        .arg(format!("con2=null,fd:{}", error.number()))
        .env("LD_PRELOAD", binaries.join("libuml_xstate.so"))
        .env("TMPDIR", "/dev/shm")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !request.interactive {
        command.stdin(Stdio::null());
    }
    // A group of its own: all its processes end by one signal.
    command.process_group(0);
    command
        .spawn()
        .with_context(|| format!("start {}", kernel.display()))
}

/// How a VM ended.
#[derive(PartialEq, Eq)]
enum End {
    ByItself,
    Stopped,
    TimedOut,
}

fn wait(child: &mut Child, timeout: Option<Duration>, stop: &AtomicBool) -> anyhow::Result<End> {
    let start = Instant::now();
    let end = loop {
        if child.try_wait()?.is_some() {
            break End::ByItself;
        }
        if stop.load(Ordering::Relaxed) {
            break End::Stopped;
        }
        if timeout.is_some_and(|t| start.elapsed() >= t) {
            break End::TimedOut;
        }
        thread::sleep(Duration::from_millis(10));
    };
    // The guest's processes are processes of ours too; none may stay behind.
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait();
    Ok(end)
}

fn verdict(end: End, request: &Request, folder: Folder) -> anyhow::Result<u8> {
    if let Some(error) = folder.read("error") {
        bail!("in the VM: {}", error.trim());
    }
    let status = folder
        .read("status")
        .and_then(|s| s.trim().parse::<i32>().ok());
    match (end, status) {
        (_, Some(code)) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        (End::Stopped, None) => Ok(130),
        (End::TimedOut, None) => {
            let seconds = request.timeout.unwrap_or_default().as_secs();
            eprintln!("xtask: the VM was stopped after {seconds} s");
            Ok(TIMED_OUT)
        }
        (End::ByItself, None) => {
            let log = folder.read("console.log").unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            let path = folder.0.keep().join("console.log");
            eprintln!(
                "{tail}\nxtask: the VM ended by itself; its log is {}",
                path.display()
            );
            if io::stderr().is_terminal() {
                eprintln!("xtask: `cargo xtask vm -- true` tries it with nothing to run");
            }
            Ok(VM_FAILED)
        }
    }
}
