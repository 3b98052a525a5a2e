//! The terminal of an interactive VM.
use std::io;

use nix::{
    sys::{
        signal::{SigSet, Signal, killpg},
        termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
    },
    unistd::{Pid, getpgrp, tcsetpgrp},
};

/// A terminal that passes every key on, until the value is dropped.
pub struct Raw(Option<Termios>);

impl Raw {
    /// Sets the terminal so, if wanted.
    pub fn enter(wanted: bool) -> Self {
        let before = wanted.then(|| tcgetattr(io::stdin()).ok()).flatten();
        if let Some(before) = &before {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &raw);
        }
        Self(before)
    }

    /// Gives the terminal to the VM's processes: those in the background are
    /// stopped when they read.
    pub fn give_to(&self, group: Pid) {
        if self.0.is_some() {
            foreground(group);
            let _ = killpg(group, Signal::SIGCONT);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            foreground(getpgrp());
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// A process that changes the terminal from the background is stopped, unless it blocks the
/// signal.
fn foreground(group: Pid) {
    let quiet = SigSet::from(Signal::SIGTTOU);
    let _ = quiet.thread_block();
    let _ = tcsetpgrp(io::stdin(), group);
    let _ = quiet.thread_unblock();
}
