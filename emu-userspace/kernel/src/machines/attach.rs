//! Lending the lines of machines to containers.
use std::{
    fs::OpenOptions,
    net::IpAddr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
};

use emu_model::plan::Plan;

use super::{Attachment, Attachments, Machines, connect, port_name};
use crate::{
    error::ApplyError,
    identity::IdentityError,
    link,
    netlink::Netlink,
    session::{Loaded, Session, SessionError},
    state::{State, StateDir, WriterLock},
};

impl From<ApplyError> for SessionError {
    fn from(error: ApplyError) -> Self {
        Self::Apply(Box::new(error))
    }
}

impl Session {
    /// Lets the line of a machine lead to another network namespace, for example that of a
    /// container, instead of the machine's own.
    ///
    /// # Errors
    /// [`SessionError::NotMachine`], among others.
    pub fn attach(&self, vnode: IpAddr, to: Attachment) -> Result<(), SessionError> {
        let path = &to.namespace;
        let open = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        let file = open.map_err(|source| SessionError::Namespace {
            path: path.clone(),
            source,
        })?;
        self.connect(&Loaded::find()?, vnode, file.as_fd(), &to.interface)?;
        let mut attachments = Attachments::read(&self.dir)?;
        attachments.0.insert(vnode, to);
        Ok(attachments.store(&self.dir, &self.lock)?)
    }

    /// Lets the line of a machine lead to the machine's own network namespace again.
    ///
    /// # Errors
    /// [`SessionError::NotMachine`], among others.
    pub fn detach(&self, vnode: IpAddr) -> Result<(), SessionError> {
        let loaded = Loaded::find()?;
        let machines = Machines::of(&self.dir, &loaded.plan);
        let own = machines.namespace(vnode).map_err(IdentityError::from);
        let own = own.map_err(|e| SessionError::Identity(Box::new(e)))?;
        let own = own.ok_or(SessionError::NotMachine { vnode })?;
        self.connect(&loaded, vnode, own.as_fd(), "eth0")?;
        let mut attachments = Attachments::read(&self.dir)?;
        attachments.0.remove(&vnode);
        Ok(attachments.store(&self.dir, &self.lock)?)
    }

    fn connect(
        &self,
        loaded: &Loaded,
        vnode: IpAddr,
        target: BorrowedFd<'_>,
        interface: &str,
    ) -> Result<(), SessionError> {
        self.check_whole()?;
        let machine = loaded
            .plan
            .machines()
            .find(|(_, address)| *address == vnode);
        let machine = machine.ok_or(SessionError::NotMachine { vnode })?;
        Ok(connect(
            &loaded.plan,
            &loaded.state,
            machine,
            target,
            interface,
        )?)
    }

    /// Machines of a group whose line leads to no container that is still there.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn free_machines(&self, group: &str) -> Result<Vec<IpAddr>, SessionError> {
        let loaded = Loaded::find()?;
        let attachments = Attachments::read(&self.dir)?;
        let links = link::by_name(&mut Netlink::open().map_err(ApplyError::from)?);
        let links = links.map_err(ApplyError::from)?;
        let plan = &loaded.plan;
        let free = plan.machines().filter(|(index, address)| {
            let of_group = plan.groups[plan.vnodes[*index as usize].group].name == group;
            let has_line = links.contains_key(&port_name(*index));
            of_group && !(has_line && attachments.0.contains_key(address))
        });
        Ok(free.map(|(_, address)| address).collect())
    }
}

/// Gives the lines of containers that have ended back to their machines.
pub(crate) fn give_back(plan: &Plan, state: &State, dir: &StateDir, lock: &WriterLock) {
    let Ok(links) = Netlink::open().and_then(|mut netlink| link::by_name(&mut netlink)) else {
        return;
    };
    let mut without = plan
        .machines()
        .filter(|(index, _)| !links.contains_key(&port_name(*index)));
    let Some(first) = without.next() else {
        return;
    };
    let machines = Machines::of(dir, plan);
    let mut attachments = Attachments::read(dir).unwrap_or_default();
    let before = attachments.clone();
    for (index, address) in [first].into_iter().chain(without) {
        // A machine that is gone itself needs a full reload; the next comparison finds it.
        let own = machines.namespace(address).ok().flatten();
        let back = own.map(|own| connect(plan, state, (index, address), own.as_fd(), "eth0"));
        if let Some(Ok(())) = back {
            attachments.0.remove(&address);
        }
    }
    if attachments != before {
        // The record is only used to find free machines, with a look at the ports.
        let _ = attachments.store(dir, lock);
    }
}
