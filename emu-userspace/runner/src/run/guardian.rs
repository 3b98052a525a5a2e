//! A process that cleans up if the process that runs the experiment dies.
//!
//! It holds the read end of a pipe, of which only the run has the write end. The lines in the
//! pipe name what is to be cleaned up; if the pipe ends without the line `done`, the run has
//! died.
use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Write},
    net::IpAddr,
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
};

use emu_kernel::{live::Live, run_cgroup, session::Session, spawn, undo::Processes};
use emu_model::topology::Target;

use super::RunError;

/// The run's end of the pipe.
pub(super) struct Guardian {
    child: Option<(Child, ChildStdin)>,
}

impl Guardian {
    /// Starts the guardian in a session of its own, so that signals to the terminal's or the
    /// run's process group do not reach it.
    pub fn start(command: Option<&[OsString]>, run: &str) -> Result<Self, RunError> {
        let Some((program, arguments)) = command.and_then(|c| c.split_first()) else {
            return Ok(Self { child: None });
        };
        let mut child = Command::new(program)
            .args(arguments)
            .arg(run)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(RunError::system("start the guardian"))?;
        let stdin = child.stdin.take();
        Ok(Self {
            child: stdin.map(|stdin| (child, stdin)),
        })
    }

    fn tell(&mut self, text: &str) {
        if let Some((_, stdin)) = &mut self.child {
            // If the guardian has died, the run goes on without it.
            let _ = writeln!(stdin, "{text}");
        }
    }

    /// The run is about to load a topology, and will unload it.
    pub fn loads(&mut self) {
        self.tell("loads");
    }

    /// The run is about to enable controllers in the machine's root cgroup.
    pub fn controllers(&mut self, names: &[&str]) {
        self.tell(&format!("controllers {}", names.join(" ")));
    }

    /// The run is about to disconnect a vnode, or has connected it again.
    pub fn dark(&mut self, vnode: IpAddr, dark: bool) {
        self.tell(&format!("{} {vnode}", if dark { "dark" } else { "light" }));
    }

    /// There is nothing left to clean up.
    pub fn dismiss(mut self) {
        self.tell("done");
    }
}

impl Drop for Guardian {
    /// Waits for the guardian, which cleans up after an error.
    fn drop(&mut self) {
        if let Some((mut child, stdin)) = self.child.take() {
            drop(stdin);
            let _ = child.wait();
        }
    }
}

/// The guardian's process: reads the run's lines on standard input until it ends, and cleans
/// up unless the last line was `done`. Returns whether the run has died.
///
/// # Errors
/// What could not be cleaned up.
pub fn guard(run: &str) -> Result<bool, RunError> {
    spawn::ignore_signals(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
    let mut loads = false;
    let mut dark: Vec<IpAddr> = Vec::new();
    let mut controllers = String::new();
    for line in BufReader::new(io::stdin()).lines().map_while(Result::ok) {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("loads", _) => loads = true,
            ("controllers", names) => controllers = names.to_owned(),
            ("dark", vnode) => dark.extend(vnode.parse::<IpAddr>()),
            ("light", vnode) => dark.retain(|d| d.to_string() != vnode),
            ("done", _) => return Ok(false),
            _ => {}
        }
    }
    let cleared = run_cgroup::clear_after(run).map_err(|e| RunError::Identity(Box::new(e)));
    let names: Vec<&str> = controllers.split_whitespace().collect();
    if !names.is_empty() {
        run_cgroup::disable_controllers(&names).map_err(|e| RunError::Identity(Box::new(e)))?;
    }
    if loads {
        unload()?;
    } else if let (false, Ok(mut live)) = (dark.is_empty(), Live::open()) {
        for vnode in dark {
            let _ = live.set_down(Target::Vnode(vnode), false);
        }
    }
    cleared.map(|()| true)
}

/// Unloads the topology. If the run died inside a load, the kernel has released its lock.
fn unload() -> Result<(), RunError> {
    Session::open()?.unload(Processes::Refuse)?;
    Ok(())
}
