//! Running a VM to its end, whatever makes it: its streams, its time, its verdict.
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

use super::{
    Request,
    channel::{Lines, Output, Pulse},
    folder::Folder,
    processor::Processor,
    terminal::Raw,
    virtual_time,
};

/// Exit status when the VM itself failed.
const VM_FAILED: u8 = 125;
/// Held while a VM starts.
static STARTING: Mutex<()> = Mutex::new(());
/// Exit status when the time was up, as timeout(1) has it.
pub const TIMED_OUT: u8 = 124;

/// Where a VM's streams go, as numbers of files that it inherits.
pub struct Streams {
    /// The kernel's own words.
    pub log: i32,
    /// The command's standard output.
    pub out: i32,
    /// The command's standard error.
    pub error: i32,
}

/// Runs a VM and returns the exit status of its command. `command` makes the
/// program to start from the VM's folder and streams; on that processor alone, if any.
pub fn run(
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
        // What one VM inherits must not go to another that starts at the same time.
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
        let host = name.map_or(String::new(), |name| format!(" {name}:"));
        eprintln!("xtask:{host} {line}");
    }
    verdict(end?, request, folder)
}

fn start(mut command: Command, interactive: bool) -> anyhow::Result<Child> {
    if !interactive {
        command.stdin(Stdio::null());
    }
    // A group of its own: all its processes end by one signal.
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
    // The guest's processes are processes of ours too; none may stay behind.
    let _ = killpg(group(child)?, Signal::SIGKILL);
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
    eprintln!(
        "{tail}\nxtask: the VM {words}; its log is {}",
        path.display()
    );
    if matches!(end, End::ByItself(_)) && io::stderr().is_terminal() {
        eprintln!("xtask: `cargo xtask vm -- true` tries it with nothing to run");
    }
    Ok(code)
}
