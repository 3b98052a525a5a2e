//! Changes to the user who called `sudo`, or to a named one.
use std::{
    ffi::{CString, OsString},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    unistd::{
        Gid, Uid, User, getegid, geteuid, getgrouplist, getgroups, initgroups, setfsgid, setfsuid,
        setgid, setgroups, setuid,
    },
};

/// Why a user cannot be found or assumed.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such name.
    #[error("no user {name:?} on this machine")]
    Unknown { name: String },
    /// The user database failed.
    #[error("look up the user {name}: {source}")]
    LookUp { name: String, source: Errno },
    /// The kernel rejected the change.
    #[error("become the user {name}: {source}")]
    Become { name: String, source: Errno },
}

/// A user to run a program as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Name, if the user has one.
    pub name: Option<String>,
    /// Home folder, if known.
    pub home: Option<PathBuf>,
    /// Login shell, if known.
    pub shell: Option<PathBuf>,
    uid: Uid,
    gid: Gid,
}

/// Numbers of a user, for a process that cannot look them up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Person {
    /// Environment variables that sudo replaced when it made the user root.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut set = Vec::new();
        if let Some(home) = &self.home {
            set.push(("HOME", home.clone().into_os_string()));
        }
        if let Some(name) = &self.name {
            set.push(("USER", name.into()));
            set.push(("LOGNAME", name.into()));
        }
        set
    }

    /// The user's numbers.
    pub fn credentials(&self) -> Credentials {
        let name = self.name.as_deref().and_then(|n| CString::new(n).ok());
        let groups = name.and_then(|name| getgrouplist(&name, self.gid).ok());
        Credentials {
            uid: self.uid.as_raw(),
            gid: self.gid.as_raw(),
            groups: groups
                .unwrap_or_else(|| vec![self.gid])
                .iter()
                .map(|gid| gid.as_raw())
                .collect(),
        }
    }
}

impl From<User> for Person {
    fn from(user: User) -> Self {
        Self {
            name: Some(user.name),
            home: Some(user.dir),
            shell: Some(user.shell),
            uid: user.uid,
            gid: user.gid,
        }
    }
}

pub fn is_root() -> bool {
    geteuid().is_root()
}

/// The user with a name.
pub fn named(name: &str) -> Result<Person, UserError> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.into()),
        Ok(None) => Err(UserError::Unknown {
            name: name.to_owned(),
        }),
        Err(source) => Err(UserError::LookUp {
            name: name.to_owned(),
            source,
        }),
    }
}

/// The user who called `sudo`, according to the environment; `None` without sudo.
pub fn behind_sudo() -> Result<Option<Person>, UserError> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(uid), Some(gid)) = (number("SUDO_UID"), number("SUDO_GID")) else {
        return Ok(None);
    };
    if !is_root() || uid == 0 {
        return Ok(None);
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let user = User::from_uid(uid).map_err(|source| UserError::LookUp {
        name: uid.to_string(),
        source,
    })?;
    Ok(Some(match user {
        Some(user) => Person {
            gid,
            ..Person::from(user)
        },
        None => Person {
            name: None,
            home: None,
            shell: None,
            uid,
            gid,
        },
    }))
}

/// The number of the user who called `sudo`; `None` without sudo.
pub(crate) fn caller_uid() -> Option<u32> {
    if !is_root() {
        return None;
    }
    std::env::var("SUDO_UID").ok()?.parse().ok()
}

/// Runs `work` in this thread with a user's rights to files, such as reading a file that the
/// user names: root does not read for users what they may not read. With `None`, with the
/// rights of the process.
///
/// # Errors
/// [`UserError::Become`]; then `work` did not run.
pub fn with_files_of<T>(person: Option<&Person>, work: impl FnOnce() -> T) -> Result<T, UserError> {
    let Some(person) = person.filter(|_| is_root()) else {
        return Ok(work());
    };
    let name = person.name.as_deref();
    let rights = Rights::of(name, person.uid, person.gid, &person.credentials().groups)?;
    let done = work();
    drop(rights);
    Ok(done)
}

/// Like [`with_files_of`], for a user known by number alone, without supplementary groups.
/// For root only.
pub(crate) fn with_files_of_number<T>(
    uid: u32,
    gid: u32,
    work: impl FnOnce() -> T,
) -> Result<T, UserError> {
    let rights = Rights::of(None, Uid::from_raw(uid), Gid::from_raw(gid), &[gid])?;
    let done = work();
    drop(rights);
    Ok(done)
}

/// Runs `work` with the rights to files of the user who called `sudo`, if one did.
///
/// # Errors
/// [`UserError`]; then `work` did not run.
pub fn as_caller<T>(work: impl FnOnce() -> T) -> Result<T, UserError> {
    with_files_of(behind_sudo()?.as_ref(), work)
}

/// Rights to files of this thread for a limited time; dropping it restores those of the
/// process.
struct Rights {
    groups: Vec<Gid>,
}

impl Rights {
    fn of(name: Option<&str>, uid: Uid, gid: Gid, theirs: &[u32]) -> Result<Self, UserError> {
        let failed = |source| UserError::Become {
            name: name.map_or_else(|| uid.to_string(), str::to_owned),
            source,
        };
        let rights = Self {
            groups: getgroups().map_err(failed)?,
        };
        thread_groups(theirs).map_err(failed)?;
        setfsgid(gid);
        // The last step, which takes away root's rights to all files.
        setfsuid(uid);
        // These calls report no failure; no user has this number.
        let is = setfsuid(Uid::from_raw(u32::MAX));
        if is == uid {
            Ok(rights)
        } else {
            Err(failed(Errno::EPERM))
        }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        setfsuid(geteuid());
        setfsgid(getegid());
        let groups: Vec<u32> = self.groups.iter().map(|gid| gid.as_raw()).collect();
        // Root may do this; a process without the right keeps its own rights.
        let _ = thread_groups(&groups);
    }
}

/// Sets the groups of this thread alone; the C library would set those of all threads.
fn thread_groups(groups: &[u32]) -> Result<(), Errno> {
    // SAFETY: the kernel reads `groups.len()` numbers from the slice, which has this length
    // and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Changes this process to a user for good.
pub fn become_user(person: &Person) -> Result<(), UserError> {
    let text = person
        .name
        .clone()
        .unwrap_or_else(|| person.uid.to_string());
    let switch = || {
        match person.name.as_deref().map(CString::new) {
            Some(Ok(name)) => initgroups(&name, person.gid)?,
            _ => setgroups(&[person.gid])?,
        }
        setgid(person.gid)?;
        setuid(person.uid)
    };
    switch().map_err(|source| UserError::Become { name: text, source })
}
