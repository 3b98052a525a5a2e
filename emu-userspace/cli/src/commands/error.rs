//! The error of a command: its text, and its kind, which gives the exit code.
use std::fmt;

use emu_kernel::{
    live::{LiveError, TraceError},
    netns::NetnsError,
    session::SessionError,
    undo::UndoError,
    user::UserError,
};
use emu_model::{
    ErrorKind,
    plan::{PlanError, TableError},
    topology::TopologyErrors,
};
use emu_runner::{results::MergeError, run::RunError};

use crate::agent::AgentError;

/// Why a command failed.
#[derive(Debug)]
pub(super) struct CommandError {
    kind: ErrorKind,
    text: String,
}

impl CommandError {
    /// An operation that failed.
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Operation,
            text: format!("emu: {}", text.into()),
        }
    }

    /// A wrong command line.
    pub(super) fn usage(text: &str) -> Self {
        Self {
            kind: ErrorKind::Usage,
            text: format!("emu: {text}"),
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Makes a [`CommandError`] of a failed operation from a format.
macro_rules! failure {
    ($($format:tt)*) => {
        $crate::commands::error::CommandError::failed(format!($($format)*))
    };
}
pub(super) use failure;

/// An error of a library, as a command reports it.
trait Reported: fmt::Display {
    fn kind(&self) -> ErrorKind;

    /// The errors of a topology file, which are printed without a prefix.
    fn topology(&self) -> Option<&TopologyErrors> {
        None
    }
}

impl<E: Reported> From<E> for CommandError {
    fn from(error: E) -> Self {
        // The outer errors contain the text of their sources, so only the first is printed.
        let text = match error.topology() {
            Some(errors) => errors.to_string(),
            None => format!("emu: {error}"),
        };
        Self {
            kind: error.kind(),
            text,
        }
    }
}

impl Reported for SessionError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }

    fn topology(&self) -> Option<&TopologyErrors> {
        match self {
            SessionError::Topology(errors) => Some(errors),
            _ => None,
        }
    }
}

impl Reported for NetnsError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }
}

impl Reported for RunError {
    fn kind(&self) -> ErrorKind {
        self.kind()
    }

    fn topology(&self) -> Option<&TopologyErrors> {
        match self {
            RunError::File(errors) => Some(errors),
            RunError::Session(error) => error.topology(),
            _ => None,
        }
    }
}

impl Reported for TopologyErrors {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }

    fn topology(&self) -> Option<&TopologyErrors> {
        Some(self)
    }
}

/// Errors of one kind each.
macro_rules! reported {
    ($kind:ident: $($error:ty),+ $(,)?) => {
        $(impl Reported for $error {
            fn kind(&self) -> ErrorKind {
                ErrorKind::$kind
            }
        })+
    };
}

// An error in a file that the topology names is a usage error, too.
reported!(Usage: PlanError, TableError, TraceError);
reported!(Operation: AgentError, LiveError, MergeError, UndoError, UserError);
reported!(Operation: anyhow::Error, std::io::Error, serde_json::Error);
reported!(Operation: emu_kernel::drift::DriftError, emu_kernel::state::StateError);
reported!(Operation: emu_kernel::bpf::BpfError, emu_kernel::netlink::NetlinkError);
#[cfg(feature = "bench")]
reported!(Operation: emu_bench::BenchError, emu_report::ReportError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_a_file_has_another_exit_code_than_a_failure() {
        let names = Vec::new;
        let unknown = || PlanError::UnknownHost {
            name: "h9".to_owned(),
            names: names(),
        };
        let code = |error: CommandError| error.exit_code();
        assert_eq!(code(unknown().into()), 2);
        assert_eq!(code(SessionError::Plan(unknown()).into()), 2);
        let nested = RunError::Session(SessionError::Plan(unknown()));
        assert_eq!(code(nested.into()), 2);
        assert_eq!(code(SessionError::NotLoaded.into()), 1);
        assert_eq!(code(failure!("no {}", "luck")), 1);
        assert_eq!(failure!("no {}", "luck").to_string(), "emu: no luck");
    }
}
