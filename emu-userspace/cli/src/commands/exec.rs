//! `emu exec`.
use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use clap::Args;
use emu_kernel::{
    session::Loaded,
    user::{self, Person},
};
use emu_model::name::printable;

use crate::commands::error::{CommandError, failure};

/// Exit codes for failures of emu itself, as in other commands that start commands.
pub(super) const OWN_FAILURE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Environment variable with the vnode's address, as in `ping -I $EMU_VNODE`.
const VNODE_VARIABLE: &str = "EMU_VNODE";

/// Arguments of `emu exec`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  emu exec 10.1.3.1 -- curl http://10.2.0.1/
  emu exec cable/0 -it                        a shell
  emu exec --user nobody campus/3 -- ./peer --port 6881
  emu exec cable/0 -- ping -I 10.1.3.1 10.2.0.1    ping must name its source: $EMU_VNODE

The program runs in place of emu, as the user who called sudo, with this
environment and folder. Exit codes: the program's own; 127 not found, 126 not
executable, 125 any other reason why it could not start.")]
pub(super) struct Exec {
    /// A vnode's address, or its group and its index in the group, from 0: cable/7.
    vnode: String,
    /// Accepted for compatibility: the program always gets the standard input.
    #[arg(short, long)]
    interactive: bool,
    /// Needs a terminal. Without a program, runs your shell.
    #[arg(short, long)]
    tty: bool,
    /// Run as this user; default: the user who called sudo.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The program and its arguments.
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Why a program could not be started.
struct Failure {
    code: u8,
    error: CommandError,
}

impl<E: Into<CommandError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            code: OWN_FAILURE,
            error: error.into(),
        }
    }
}

impl Exec {
    pub(super) fn run(self) -> ExitCode {
        let Err(failure) = self.replace_this_process();
        eprintln!("{}", printable(&failure.error.to_string()));
        ExitCode::from(failure.code)
    }

    fn replace_this_process(self) -> Result<Infallible, Failure> {
        if !user::is_root() {
            return Err(failure!("exec needs root: sudo emu exec …").into());
        }
        if self.tty && !io::stdin().is_terminal() {
            return Err(failure!("-t needs a terminal as standard input").into());
        }
        let person = match &self.user {
            Some(name) => Some(user::named(name)?),
            None => user::behind_sudo()?,
        };
        let mut words = self.command.into_iter();
        let program = match words.next() {
            Some(program) => program,
            None if self.interactive || self.tty => shell(person.as_ref()).into(),
            None => {
                return Err(failure!("no program to run; -it runs your shell").into());
            }
        };
        let loaded = Loaded::find()?;
        let vnode = loaded.vnode(&self.vnode)?;
        let mut command = Command::new(&program);
        command.args(words).env(VNODE_VARIABLE, vnode.to_string());
        hint(&program, command.get_args(), vnode);
        loaded.enter(vnode)?;
        if let Some(person) = &person {
            user::become_user(person)?;
            for (variable, value) in person.environment() {
                command.env(variable, value);
            }
        }
        let error = command.exec();
        let code = match error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => NOT_EXECUTABLE,
        };
        let error = failure!("run {}: {error}", program.display());
        Err(Failure { code, error })
    }
}

/// Tells the user of a ping without a source address: no hook can give its socket one, the kernel
/// would choose the destination's, and the guard drops that.
fn hint<'a>(program: &OsStr, mut arguments: impl Iterator<Item = &'a OsStr>, vnode: IpAddr) {
    let name = Path::new(program).file_name().unwrap_or_default();
    let is_ping = ["ping", "ping4", "ping6"].iter().any(|ping| name == *ping);
    let has_source = arguments.any(|a| a.as_encoded_bytes().starts_with(b"-I"));
    if is_ping && !has_source {
        eprintln!("emu: ping gets no address from emu; name the source: ping -I {vnode} …");
    }
}

/// The user's shell; that of the environment unless the user changes.
fn shell(person: Option<&Person>) -> PathBuf {
    person
        .and_then(|p| p.shell.clone())
        .or_else(|| std::env::var_os("SHELL").map(PathBuf::from))
        .filter(|shell| shell.is_file())
        .unwrap_or_else(|| PathBuf::from("/bin/sh"))
}
