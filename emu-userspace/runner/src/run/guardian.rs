//! A process that clears up should the one that runs the experiment die.
//!
//! It holds the reading end of a pipe whose writing end only the run has. Words
//! through the pipe say what there is to clear up; its end without the word `done`
//! says that the run is dead.
use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Write},
    net::IpAddr,
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
};

use emu_kernel::{cohort, live::Live, session::Session, spawn, undo::Processes};
use emu_model::topology::Target;

use super::RunError;

/// The run's side.
pub(super) struct Guardian {
    child: Option<(Child, ChildStdin)>,
}

impl Guardian {
    /// Starts it, in a session of its own: what is sent to the terminal's processes
    /// or to ours does not reach it.
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

    fn tell(&mut self, words: &str) {
        if let Some((_, stdin)) = &mut self.child {
            // One that is gone cannot be helped; the run goes on.
            let _ = writeln!(stdin, "{words}");
        }
    }

    /// The run is about to load a topology, and unloads it.
    pub fn loads(&mut self) {
        self.tell("loads");
    }

    /// The machine's cgroup root is about to hand on controllers.
    pub fn controllers(&mut self, names: &[&str]) {
        self.tell(&format!("controllers {}", names.join(" ")));
    }

    /// The network of a vnode goes dark, or comes back.
    pub fn dark(&mut self, vnode: IpAddr, dark: bool) {
        self.tell(&format!("{} {vnode}", if dark { "dark" } else { "light" }));
    }

    /// Nothing is left to clear up.
    pub fn dismiss(mut self) {
        self.tell("done");
    }
}

impl Drop for Guardian {
    /// Waits for it: after an error it clears up.
    fn drop(&mut self) {
        if let Some((mut child, stdin)) = self.child.take() {
            drop(stdin);
            let _ = child.wait();
        }
    }
}

/// The guardian's side: reads what a run says on standard input until it ends, and
/// clears up after it if it was not done.
///
/// # Errors
/// What could not be cleared up.
pub fn guard(run: &str) -> Result<(), RunError> {
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
            ("done", _) => return Ok(()),
            _ => {}
        }
    }
    let cleared = cohort::clear_after(run).map_err(|e| RunError::Identity(Box::new(e)));
    let names: Vec<&str> = controllers.split_whitespace().collect();
    if !names.is_empty() {
        cohort::take_back(&names).map_err(|e| RunError::Identity(Box::new(e)))?;
    }
    if loads {
        unload()?;
    } else if let (false, Ok(mut live)) = (dark.is_empty(), Live::open()) {
        for vnode in dark {
            let _ = live.set_down(Target::Vnode(vnode), false);
        }
    }
    cleared
}

/// Unloads; the dead run may have died inside a load, whose lock went with it.
fn unload() -> Result<(), RunError> {
    Session::open()?.unload(Processes::Refuse)?;
    Ok(())
}
