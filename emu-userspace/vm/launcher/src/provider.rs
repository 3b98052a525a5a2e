//! What the launcher needs and does not make itself.
use std::path::{Path, PathBuf};

/// A file that a VM needs, and the Debian package that has it.
pub struct Need {
    /// Path of the file.
    pub file: &'static str,
    /// The package.
    pub package: &'static str,
}

/// Supplies a launcher with programs, packages and a folder, and takes its notices.
pub trait Provider: Sync {
    /// The folder with the programs and libraries that User-Mode Linux runs: `vm-init`,
    /// `libvm_xstate.so`, `libvm_time.so` and `libvm_random.so`. They are current.
    ///
    /// # Errors
    /// They cannot be built or are missing.
    fn helpers(&self) -> anyhow::Result<PathBuf>;

    /// `vm-init` without shared libraries, for a guest that boots without this machine's files.
    ///
    /// # Errors
    /// It cannot be built or is missing.
    fn static_init(&self) -> anyhow::Result<PathBuf>;

    /// Installs the packages of those files that are missing; `purpose` is for the message.
    ///
    /// # Errors
    /// A package is missing and cannot be installed.
    fn install(&self, purpose: &str, needs: &[Need]) -> anyhow::Result<()>;

    /// Fetches a package of Debian testing, with a notice, and unpacks it into a folder.
    /// Neither the package nor its release becomes known to the machine's apt.
    ///
    /// # Errors
    /// The package cannot be fetched.
    fn unpack_testing(&self, package: &str, folder: &Path) -> anyhow::Result<()>;

    /// A folder for kernels and results of trials, which are kept between runs.
    fn cache(&self) -> PathBuf;

    /// The command with which a user checks whether a VM starts, if there is one.
    fn trial_command(&self) -> Option<&str>;

    /// Tells the user something, on standard error.
    fn notice(&self, text: &str);
}
