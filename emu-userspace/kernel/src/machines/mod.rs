//! Machines: vnodes with a network namespace of their own.
//!
//! A machine has `lo`, `eth0` with its address, and a default route. The other end of `eth0`,
//! its port, is in the network namespace of the load; the programs at the port are the
//! machine's access router.
//!
//! Files that are mounted keep the namespaces, so they outlive the load's process. These mounts
//! are in a mount namespace of their own, which one mount in the state folder keeps: the
//! machine's list of mounts stays short, and unmounting one file removes all machines.
mod attach;
mod attachments;
mod connect;
mod make;
#[expect(
    unsafe_code,
    reason = "a child that shares its parent's memory may make system calls only"
)]
mod surroundings;

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use emu_common::{model::port, names};
use emu_model::plan::{Kind, Plan};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs,
};

use crate::{
    state::StateDir,
    tc::{Hook, Preference},
    threads,
};

pub(crate) use attach::give_back;
pub use attachments::{Attachment, Attachments};
pub(crate) use connect::connect;
pub(crate) use make::{install, make, start, wait};
pub use surroundings::Surroundings;

/// Group of the ports (`ip link show group`), by which all are deleted at once.
pub(crate) const PORT_GROUP: u32 = 0xe30;

/// The programs at the ports, which share them.
pub(crate) const PORT_PROGRAMS: [(Hook, Preference, &str); 3] = [
    (Hook::Ingress, Preference::First, names::PROG_PORT_IN),
    (Hook::Egress, Preference::First, names::PROG_PORT_OUT),
    (Hook::Egress, Preference::Second, names::PROG_INGRESS),
];

/// Name of the port of the vnode with this index.
pub(crate) fn port_name(vnode: u32) -> String {
    format!("emu-p{vnode}")
}

/// Hardware address of the machine with this index, as text.
pub fn hardware_address(vnode: u32) -> String {
    port::mac(vnode).map(|byte| format!("{byte:02x}")).join(":")
}

/// Address of the access router of a machine.
pub fn router(machine: IpAddr) -> IpAddr {
    make::gateway(machine)
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

/// Where the mount namespace with the machines' namespaces is mounted.
fn keeper(state: &Path) -> PathBuf {
    state.join("machines")
}

/// Whether the mount that keeps the machines of a state folder is there.
pub(crate) fn are_kept(state: &Path) -> bool {
    statfs::statfs(&keeper(state)).is_ok_and(|s| s.filesystem_type() == statfs::NSFS_MAGIC)
}

/// The machines of the load in the calling thread's network namespace.
#[derive(Debug, Clone)]
pub struct Machines {
    /// The state folder.
    folder: PathBuf,
    /// Addresses with the names of the vnodes, sorted.
    machines: Vec<(IpAddr, String)>,
}

impl Machines {
    /// The machines of a loaded plan.
    pub fn of(dir: &StateDir, plan: &Plan) -> Self {
        let mut machines: Vec<_> = plan
            .placed_vnodes()
            .filter(|(vnode, _)| plan.kind(vnode) == Kind::Machine)
            .map(|(vnode, place)| (vnode.address, plan.host_name(vnode, place)))
            .collect();
        machines.sort_unstable();
        Self {
            folder: dir.path().to_owned(),
            machines,
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
        self.name(address).is_some()
    }

    fn name(&self, address: IpAddr) -> Option<&str> {
        let found = self.machines.binary_search_by_key(&address, |(a, _)| *a);
        found.ok().map(|index| self.machines[index].1.as_str())
    }

    /// The network namespace of a vnode; `None` if the vnode is no machine.
    ///
    /// # Errors
    /// [`MachineError::Gone`].
    pub fn namespace(&self, address: IpAddr) -> Result<Option<OwnedFd>, MachineError> {
        if !self.has(address) {
            return Ok(None);
        }
        let path = keeper(&self.folder);
        let open = || -> io::Result<OwnedFd> {
            let mounts = File::open(&path)?;
            // A mount namespace is for threads that share no root folder with others.
            unshare(CloneFlags::CLONE_FS)?;
            setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
            Ok(File::open(self.folder.join(address.to_string()))?.into())
        };
        let opened = threads::apart(open).flatten();
        opened.map(Some).map_err(|source| MachineError::Gone {
            address,
            path,
            source,
        })
    }

    /// What a program in a vnode finds around it; `None` if the vnode is no machine.
    ///
    /// # Errors
    /// [`MachineError::Gone`].
    pub fn surroundings(&self, address: IpAddr) -> Result<Option<Surroundings>, MachineError> {
        let (Some(name), Some(network)) = (self.name(address), self.namespace(address)?) else {
            return Ok(None);
        };
        Ok(Some(Surroundings::new(network, &self.folder, name)))
    }

    /// Moves the calling process, which has one thread, into a vnode if it is a machine:
    /// network, host name, `/etc/hosts`, `/etc/resolv.conf` and `/sys`.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn enter(&self, address: IpAddr) -> Result<(), MachineError> {
        match self.surroundings(address)? {
            None => Ok(()),
            Some(surroundings) => surroundings
                .enter()
                .map_err(|source| MachineError::Enter { address, source }),
        }
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
        let Some(namespace) = self.namespace(address).map_err(io::Error::other)? else {
            return work();
        };
        inside(namespace.as_fd(), work)
    }
}

/// Runs `work` in a network namespace, on a thread of its own, which does not come back.
fn inside<T: Send, E: From<io::Error> + Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    threads::apart(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        work()
    })?
}

/// Removes the machines of a state folder; processes inside keep their namespaces. It is no
/// error if there are none.
///
/// # Errors
/// The first mount or file that could not be removed.
pub(crate) fn remove(state: &Path) -> io::Result<()> {
    let file = keeper(state);
    if fs::symlink_metadata(&file).is_ok() {
        unmount(&file)?;
        fs::remove_file(&file)?;
    }
    match fs::symlink_metadata(state) {
        Ok(_) => unmount(state),
        Err(_) => Ok(()),
    }
}

fn unmount(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // Not mounted: a load was killed in between.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
