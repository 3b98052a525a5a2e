//! Named network namespaces: entering one, and making and removing them in the way of
//! `ip netns`, as a mount point below `/run/netns`.
//!
//! Only the network namespace of the calling thread changes. The mounts stay the caller's, so
//! the BPF and cgroup file systems stay accessible, unlike inside `ip netns exec`.
//!
//! A load that makes a namespace records its cookie before the namespace gets its name. So
//! whoever finds the name can tell a namespace of emu from a user's, also after a kill.
use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use emu_model::ErrorKind;
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs,
};

use crate::{
    link,
    netlink::{Netlink, NetlinkError},
    state::{NamespaceRecords, StateDir, StateError, WriterLock},
    user,
};

/// Folder of named namespaces, shared with `ip netns`.
const FOLDER: &str = "/run/netns";
/// The network namespace of the calling thread.
const HERE: &str = "/proc/thread-self/ns/net";
/// Longest name in bytes.
const NAME_MAX: usize = 200;

/// A network namespace of the user's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Netns {
    /// A name of `ip netns`.
    Named(String),
    /// A path outside `/run/netns`, for example `/proc/PID/ns/net`.
    At(PathBuf),
}

/// Why a text names no namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetnsNameError {
    #[error("a network namespace needs a name")]
    Empty,
    #[error("a name has no `/`; a path begins with `/`, for example /proc/PID/ns/net")]
    Slash,
    #[error("a name has no control characters")]
    Control,
    #[error("`.` and `..` are not names")]
    Dots,
    #[error("a name has at most {NAME_MAX} bytes")]
    Long,
}

/// Why a namespace could not be entered, made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("--netns needs root: sudo emu …")]
    NotRoot,
    #[error("there is no network namespace {netns} (`emu load --netns NAME` makes one)")]
    Missing { netns: Netns },
    #[error("{} is not a network namespace", path.display())]
    NotNetns { path: PathBuf },
    /// Loads made several namespaces.
    #[error(
        "there are networks in several network namespaces ({}); say which with --netns NAME",
        names.join(", ")
    )]
    Several { names: Vec<String> },
    /// Another process removed the namespace, or gave its name to another one.
    #[error("the network namespace {netns} was removed meanwhile; load again")]
    Removed { netns: Netns },
    #[error("{operation} {}: {source}", path.display())]
    System {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl NetnsError {
    /// Whether the user must choose, or the operation failed: names are checked when they are
    /// parsed.
    pub fn kind(&self) -> ErrorKind {
        match self {
            NetnsError::Several { .. } => ErrorKind::Usage,
            _ => ErrorKind::Operation,
        }
    }
}

fn system<E: Into<io::Error>>(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> NetnsError {
    let path = path.into();
    move |source| NetnsError::System {
        operation,
        path,
        source: source.into(),
    }
}

impl FromStr for Netns {
    type Err = NetnsNameError;

    fn from_str(text: &str) -> Result<Self, NetnsNameError> {
        if text.chars().any(char::is_control) {
            return Err(NetnsNameError::Control);
        }
        let name = match text.strip_prefix("/run/netns/") {
            Some(name) => name,
            None if text.starts_with('/') => return Ok(Self::At(text.into())),
            None => text,
        };
        match name {
            "" => Err(NetnsNameError::Empty),
            "." | ".." => Err(NetnsNameError::Dots),
            name if name.contains('/') => Err(NetnsNameError::Slash),
            name if name.len() > NAME_MAX => Err(NetnsNameError::Long),
            name => Ok(Self::Named(name.to_owned())),
        }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Netns::Named(name) => f.write_str(name),
            Netns::At(path) => path.display().fmt(f),
        }
    }
}

impl Netns {
    fn path(&self) -> PathBuf {
        match self {
            Netns::Named(name) => Path::new(FOLDER).join(name),
            Netns::At(path) => path.clone(),
        }
    }

    /// The namespaces that loads made, sorted by name.
    ///
    /// # Errors
    /// [`NetnsError::State`].
    fn made() -> Result<Vec<Self>, NetnsError> {
        let mut names = NamespaceRecords::names()?;
        names.retain(|name| is_netns(&Path::new(FOLDER).join(name)));
        names.sort();
        Ok(names.into_iter().map(Self::Named).collect())
    }

    /// The namespace that a load made, if there is one and nothing is loaded in the calling
    /// thread's.
    ///
    /// # Errors
    /// [`NetnsError::Several`] if the user must say which.
    pub fn of_load() -> Result<Option<Self>, NetnsError> {
        if StateDir::here()?.exists() {
            return Ok(None);
        }
        let mut made = Self::made()?;
        match made.len() {
            0 | 1 => Ok(made.pop()),
            _ => Err(NetnsError::Several {
                names: made.iter().map(Self::to_string).collect(),
            }),
        }
    }

    /// Whether the name or path is in use.
    pub fn exists(&self) -> bool {
        fs::symlink_metadata(self.path()).is_ok()
    }

    /// Moves the calling thread, and all threads that it starts later, into the namespace.
    ///
    /// # Errors
    /// [`NetnsError::Missing`], among others.
    pub fn enter(&self) -> Result<(), NetnsError> {
        if !user::is_root() {
            return Err(NetnsError::NotRoot);
        }
        let path = self.path();
        // A fifo must not block the command.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        let file = match file {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let netns = self.clone();
                return Err(NetnsError::Missing { netns });
            }
            Err(e) => return Err(system("open", path)(e)),
        };
        setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EINVAL | Errno::EBADF => NetnsError::NotNetns { path },
            errno => system("enter", path)(errno),
        })
    }

    /// Like [`Netns::enter`], but makes a namespace that has a name and does not exist, with
    /// `lo` up. Returns whether it made the namespace.
    pub fn enter_or_make(&self) -> Result<bool, NetnsError> {
        let Netns::Named(name) = self else {
            return self.enter().map(|()| false);
        };
        if !user::is_root() {
            return Err(NetnsError::NotRoot);
        }
        let records = NamespaceRecords::lock()?;
        clear_interrupted(&records, name)?;
        match self.enter() {
            Err(NetnsError::Missing { .. }) => make(&records, name).map(|()| true),
            entered => entered.map(|()| false),
        }
    }

    /// Removes what a load left that was killed before the namespace got its name. Returns
    /// whether there was anything.
    pub fn clear_interrupted(&self) -> Result<bool, NetnsError> {
        match self {
            Netns::Named(name) if user::is_root() => {
                clear_interrupted(&NamespaceRecords::lock()?, name)
            }
            _ => Ok(false),
        }
    }

    /// Checks that the calling thread is in the namespace, which another process may have
    /// removed while this one waited for the lock.
    pub fn check_here(&self) -> Result<(), NetnsError> {
        let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino()));
        let here = id(Path::new(HERE)).map_err(system("read", HERE))?;
        if id(&self.path()).is_ok_and(|named| named == here) {
            return Ok(());
        }
        let netns = self.clone();
        Err(NetnsError::Removed { netns })
    }

    /// Removes the name of the calling thread's namespace, if a load made it; the kernel
    /// removes the namespace with its last process. Returns whether it did.
    pub(crate) fn remove_if_made(
        &self,
        dir: &StateDir,
        _lock: &WriterLock,
    ) -> Result<bool, NetnsError> {
        let Netns::Named(name) = self else {
            return Ok(false);
        };
        let records = NamespaceRecords::lock()?;
        let made = records.get(name)?;
        if made.is_none() {
            return Ok(false);
        }
        let ours = made == Some(dir.cookie()) && self.check_here().is_ok();
        if ours {
            remove_name(&self.path())?;
        }
        records.remove(name)?;
        Ok(ours)
    }
}

/// Moves the calling thread into a new namespace without a name, which ends with the process.
pub fn enter_scratch() -> Result<(), NetnsError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(system("make the network namespace", HERE))
}

/// Removes the file without a namespace and the record that a killed load or unload left.
fn clear_interrupted(records: &NamespaceRecords, name: &str) -> Result<bool, NetnsError> {
    if records.get(name)?.is_none() {
        return Ok(false);
    }
    let path = Path::new(FOLDER).join(name);
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(system("read", path)(e)),
        Ok(_) if is_netns(&path) => return Ok(false),
        Ok(m) if m.is_file() && m.len() == 0 => {
            fs::remove_file(&path).map_err(system("remove", path))?;
        }
        Ok(_) => return Err(NetnsError::NotNetns { path }),
    }
    records.remove(name)?;
    Ok(true)
}

fn is_netns(path: &Path) -> bool {
    statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == statfs::NSFS_MAGIC)
}

/// Makes a namespace and moves the calling thread into it: first the record, then the name.
fn make(records: &NamespaceRecords, name: &str) -> Result<(), NetnsError> {
    let path = Path::new(FOLDER).join(name);
    share_folder()?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(system("make the network namespace", &path))?;
    let mut netlink = Netlink::open()?;
    if let Some(lo) = link::link(&mut netlink, "lo")? {
        netlink.request(link::set_up(lo.index, &lo.name, true))?;
    }
    records.store(name, StateDir::here()?.cookie())?;
    let made = mount_name(&path);
    if made.is_err() {
        records.remove(name)?;
    }
    made
}

/// Gives the calling thread's namespace a name.
fn mount_name(path: &Path) -> Result<(), NetnsError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o400).open(path);
    let file = file.map_err(system("make", path))?;
    let mounted = bind(Path::new(HERE), path, MsFlags::MS_BIND);
    if mounted.is_err() {
        // The error to report is the first one.
        let _ = fs::remove_file(path);
    }
    drop(file);
    mounted.map_err(system("mount the network namespace at", path))
}

/// Makes the folder of names a shared mount, as `ip netns` does: so a name that is removed here
/// is also removed in mount namespaces that were copied meanwhile.
fn share_folder() -> Result<(), NetnsError> {
    let folder = Path::new(FOLDER);
    match DirBuilder::new().mode(0o755).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(system("make", folder)(e));
        }
        // Whatever the umask is.
        Ok(()) => File::open(folder)
            .and_then(|file| file.set_permissions(Permissions::from_mode(0o755)))
            .map_err(system("make", folder))?,
        Err(_) => {}
    }
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(None::<&str>, folder, None::<&str>, flags, None::<&str>)
    };
    match share() {
        // The folder is not a mount point yet.
        Err(Errno::EINVAL) => bind(folder, folder, MsFlags::MS_BIND | MsFlags::MS_REC)
            .and_then(|()| share())
            .map_err(system("share the folder", folder)),
        shared => shared.map_err(system("share the folder", folder)),
    }
}

fn bind(from: &Path, to: &Path, flags: MsFlags) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
}

fn remove_name(path: &Path) -> Result<(), NetnsError> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // Not mounted: only the file is left.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(system("unmount", path)(errno)),
    }
    fs::remove_file(path).map_err(system("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        let named = |name: &str| Ok(Netns::Named(name.to_owned()));
        assert_eq!("lab".parse(), named("lab"));
        assert_eq!("...".parse(), named("..."));
        assert_eq!("/run/netns/lab".parse(), named("lab"));
        let path = "/proc/1/ns/net";
        assert_eq!(path.parse(), Ok(Netns::At(path.into())));
    }

    #[test]
    fn a_name_that_is_no_file_name_is_refused() {
        let error = |text: &str| text.parse::<Netns>().unwrap_err();
        assert_eq!(error(""), NetnsNameError::Empty);
        assert_eq!(error("/run/netns/"), NetnsNameError::Empty);
        assert_eq!(error("a/b"), NetnsNameError::Slash);
        assert_eq!(error("/run/netns/../x"), NetnsNameError::Slash);
        assert_eq!(error(".."), NetnsNameError::Dots);
        assert_eq!(error("a\nb"), NetnsNameError::Control);
        assert_eq!(error("/a\u{7f}"), NetnsNameError::Control);
        assert_eq!(error(&"x".repeat(NAME_MAX + 1)), NetnsNameError::Long);
    }
}
