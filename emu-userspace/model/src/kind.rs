//! The kind of an error, which decides the exit code of a command.

/// Whose mistake an error reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line or a file of the user is wrong.
    Usage,
    /// An operation failed.
    Operation,
}

impl ErrorKind {
    /// Exit code of a command that ends with the error.
    pub const fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Operation => 1,
            ErrorKind::Usage => 2,
        }
    }
}
