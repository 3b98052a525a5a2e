//! Machines: vnodes with a network namespace of their own.
//!
//! A machine has `lo`, `eth0` with its address, and a default route. The other end of `eth0`,
//! its port, is in the network namespace of the load; the programs at the port are the
//! machine's access router. The namespaces are kept by mounts in the state folder, so they
//! outlive the load's process, and an unload finds them after a kill.
mod make;

use std::{
    fs, io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use emu_model::plan::Plan;
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns},
};

use crate::state::StateDir;

pub(crate) use make::{attach, make, start};

/// Group of the ports (`ip link show group`), by which all are deleted at once.
pub(crate) const PORT_GROUP: u32 = 0xe30;

/// Name of the port of the vnode with this index.
pub(crate) fn port_name(vnode: u32) -> String {
    format!("emu-p{vnode}")
}

/// Why a machine could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Its namespace is not there.
    #[error("the machine {address} has no network namespace ({}): {source}", path.display())]
    Gone {
        address: IpAddr,
        path: PathBuf,
        source: io::Error,
    },
    /// The kernel refused.
    #[error("enter the network namespace of the machine {address}: {source}")]
    Enter {
        address: IpAddr,
        #[source]
        source: io::Error,
    },
}

/// Name of the folder with the namespaces of machines, in a state folder.
pub(crate) const FOLDER: &str = "machines";

/// Folder with the namespaces of a load's machines.
pub(crate) fn folder(dir: &StateDir) -> PathBuf {
    dir.path().join(FOLDER)
}

/// The machines of the load in the calling thread's network namespace.
#[derive(Debug, Clone)]
pub struct Machines {
    folder: PathBuf,
    /// Addresses, sorted.
    addresses: Vec<IpAddr>,
}

impl Machines {
    /// The machines of a loaded plan.
    pub fn of(dir: &StateDir, plan: &Plan) -> Self {
        let mut addresses: Vec<_> = plan.machines().map(|(_, address)| address).collect();
        addresses.sort_unstable();
        Self {
            folder: folder(dir),
            addresses,
        }
    }

    /// As [`Machines::of`], for the calling thread's network namespace.
    ///
    /// # Errors
    /// That of the namespace's number.
    pub fn here(plan: &Plan) -> io::Result<Self> {
        Ok(Self::of(&StateDir::here().map_err(io::Error::other)?, plan))
    }

    /// Whether a vnode is a machine.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }

    /// The network namespace of a vnode; `None` if the vnode is no machine.
    ///
    /// # Errors
    /// [`MachineError::Gone`].
    pub fn namespace(&self, address: IpAddr) -> Result<Option<OwnedFd>, MachineError> {
        if !self.has(address) {
            return Ok(None);
        }
        let path = self.folder.join(address.to_string());
        match fs::File::open(&path) {
            Ok(file) => Ok(Some(file.into())),
            Err(source) => Err(MachineError::Gone {
                address,
                path,
                source,
            }),
        }
    }

    /// Moves the calling thread into the network namespace of a vnode, if it is a machine.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn enter(&self, address: IpAddr) -> Result<bool, MachineError> {
        let Some(namespace) = self.namespace(address)? else {
            return Ok(false);
        };
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| {
            MachineError::Enter {
                address,
                source: errno.into(),
            }
        })?;
        Ok(true)
    }

    /// Runs `work` in the network namespace of a vnode, for example to make a socket there.
    /// For a vnode that is no machine this is the caller's.
    ///
    /// # Errors
    /// [`MachineError`] as an [`io::Error`], or that of `work`.
    pub fn inside<T: Send>(
        &self,
        address: IpAddr,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        if !self.has(address) {
            return work();
        }
        // A thread of its own, which does not come back from the namespace.
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter(address).map_err(io::Error::other)?;
                work()
            });
            inside
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread in the machine panicked")))
        })
    }
}

/// Removes the namespaces below a folder, and the folder; processes inside keep theirs. It is
/// no error if there are none.
///
/// # Errors
/// The first one that could not be removed.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut first = Ok(());
    for entry in entries {
        let path = entry?.path();
        let removed = unmount(&path).and_then(|()| fs::remove_file(&path));
        first = first.and(removed);
    }
    first.and_then(|()| fs::remove_dir(folder))
}

fn unmount(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // Not mounted: a load was killed in between.
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
