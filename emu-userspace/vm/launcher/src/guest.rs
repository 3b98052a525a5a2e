//! Running a VM to completion, with User-Mode Linux or QEMU: its streams, its limits of time,
//! its exit status.
use std::{
    fs,
    io::{self, IsTerminal},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use signal_hook::{consts::TERM_SIGNALS, flag};

use crate::{
    Request,
    channel::{Lines, Output, Pulse},
    folder::Folder,
    processor::Processor,
    provider::Provider,
    terminal::Raw,
    virtual_time,
};

/// Exit status if the VM itself failed.
const VM_FAILED: u8 = 125;
/// Held while a VM starts.
static STARTING: Mutex<()> = Mutex::new(());
/// Exit status of a VM that was stopped at a limit of time, as of timeout(1).
pub const TIMED_OUT: u8 = 124;

/// The streams of a VM, as numbers of files that it inherits.
pub struct Streams {
    /// The kernel's messages.
    pub log: i32,
    /// The command's standard output.
    pub out: i32,
    /// The command's standard error.
    pub error: i32,
}

/// Runs a VM and returns the exit status of its command. `command` makes the program to start
/// from the VM's folder and streams. With a processor the VM runs on this processor alone.
pub fn run(
    provider: &dyn Provider,
    request: &Request,
    processor: Option<&Processor>,
    command: impl FnOnce(&Folder, &Streams) -> anyhow::Result<Command>,
) -> anyhow::Result<u8> {
    let folder = Folder::new(request)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in TERM_SIGNALS {
        flag::register(*signal, Arc::clone(&stop))?;
    }
    let terminal = Raw::enter(request.interactive);
    let pulse = Pulse::new();
    let mut log = Output::to(fs::File::create(folder.console())?, &Pulse::new())?;
    let name = request.name.as_deref();
    let mut out = Output::to(Lines::new(io::stdout(), name), &pulse)?;
    let mut error = Output::to(Lines::new(io::stderr(), name), &pulse)?;
    let streams = Streams {
        log: log.number(),
        out: out.number(),
        error: error.number(),
    };
    let bound = processor.and_then(Processor::bind);
    let command = command(&folder, &streams)?;
    let mut child = {
        // Another VM that starts at the same time must not inherit the streams of this one.
        let _alone = STARTING.lock();
        for stream in [&log, &out, &error] {
            stream.inherit()?;
        }
        let plug = request.plug.as_ref();
        plug.map_or(Ok(()), |plug| plug.inherit(true))?;
        let child = start(command, request.interactive)?;
        plug.map_or(Ok(()), |plug| plug.inherit(false))?;
        for stream in [&mut log, &mut out, &mut error] {
            stream.started();
        }
        child
    };
    drop(bound);
    terminal.give_to(group(&child)?);
    let end = wait(&mut child, request, &pulse, &stop);
    drop(terminal);
    for stream in [log, out, error] {
        stream.finish();
    }
    if request.clock.is_some()
        && let Some(line) = virtual_time::report(folder.path())
    {
        let host = name.map_or(String::new(), |name| format!("{name}: "));
        provider.notice(&format!("{host}{line}"));
    }
    verdict(provider, end?, request, folder)
}

fn start(mut command: Command, interactive: bool) -> anyhow::Result<Child> {
    if !interactive {
        command.stdin(Stdio::null());
    }
    // A process group, so that one signal ends all its processes.
    command.process_group(0);
    command
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))
}

fn group(child: &Child) -> anyhow::Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}

/// How a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the status of the VM's own process.
    ByItself(ExitStatus),
    Stopped,
    TimedOut,
    Silent,
}

fn wait(
    child: &mut Child,
    request: &Request,
    pulse: &Pulse,
    stop: &AtomicBool,
) -> anyhow::Result<End> {
    let start = Instant::now();
    let end = loop {
        if let Some(status) = child.try_wait()? {
            break End::ByItself(status);
        }
        if stop.load(Ordering::Relaxed) {
            break End::Stopped;
        }
        if request.timeout.is_some_and(|t| start.elapsed() >= t) {
            break End::TimedOut;
        }
        if request.silence.is_some_and(|s| pulse.silence() >= s) {
            break End::Silent;
        }
        thread::sleep(Duration::from_millis(10));
    };
    // The guest's processes are processes of this machine, too, and must end with the VM.
    let _ = killpg(group(child)?, Signal::SIGKILL);
    let _ = child.wait();
    Ok(end)
}

fn verdict(
    provider: &dyn Provider,
    end: End,
    request: &Request,
    folder: Folder,
) -> anyhow::Result<u8> {
    if let Some(error) = folder.read("error") {
        bail!("in the VM: {}", error.trim());
    }
    let status = folder
        .read("status")
        .and_then(|s| s.trim().parse::<i32>().ok());
    let (code, words) = match (end, status) {
        (_, Some(code)) => return Ok(u8::try_from(code).unwrap_or(u8::MAX)),
        (End::Stopped, None) => return Ok(130),
        (End::TimedOut, None) => {
            let seconds = request.timeout.unwrap_or_default().as_secs();
            (TIMED_OUT, format!("was stopped after {seconds} s"))
        }
        (End::Silent, None) => {
            let seconds = request.silence.unwrap_or_default().as_secs();
            let words = format!("was stopped because its command printed nothing for {seconds} s");
            (TIMED_OUT, words)
        }
        (End::ByItself(status), None) => (VM_FAILED, format!("ended by itself ({status})")),
    };
    let (tail, path) = folder.keep_console();
    eprintln!("{tail}");
    provider.notice(&format!("the VM {words}; its log is {}", path.display()));
    if matches!(end, End::ByItself(_))
        && io::stderr().is_terminal()
        && let Some(command) = provider.trial_command()
    {
        provider.notice(&format!("`{command}` tries it with nothing to run"));
    }
    Ok(code)
}
