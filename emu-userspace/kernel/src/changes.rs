//! Notifications of the kernel about changes of its network configuration.
use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};

use crate::netlink::NetlinkError;

/// Links, qdiscs and filters, addresses and routes (`RTNLGRP_*` of uapi/linux/rtnetlink.h).
const GROUPS: [u32; 6] = [1, 4, 5, 7, 9, 11];

/// A socket that hears of changes in the network namespace of the thread that opened it.
pub struct Changes {
    socket: Socket,
}

impl Changes {
    /// Subscribes.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Socket)?;
        socket
            .bind(&SocketAddr::new(0, 0))
            .map_err(NetlinkError::Socket)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(NetlinkError::Socket)?;
        }
        Ok(Self { socket })
    }

    /// Waits until something changed, at most this long; whether it did.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn wait(&self, longest: Duration) -> Result<bool, NetlinkError> {
        let longest_us = i64::try_from(longest.as_micros())
            .unwrap_or(i64::MAX)
            .max(1);
        setsockopt(
            &self.socket,
            ReceiveTimeout,
            &TimeVal::microseconds(longest_us),
        )
        .map_err(|errno| NetlinkError::Socket(errno.into()))?;
        let mut buffer = Vec::with_capacity(1 << 16);
        match self.socket.recv(&mut buffer, 0) {
            Ok(_) => Ok(true),
            // More changed than the socket holds.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(true),
            Err(e)
                if [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&e.kind()) =>
            {
                Ok(false)
            }
            Err(e) => Err(NetlinkError::Socket(e)),
        }
    }

    /// Reads over what is there already.
    ///
    /// # Errors
    /// As for [`Changes::wait`].
    pub fn drain(&self) -> Result<(), NetlinkError> {
        while self.wait(Duration::from_micros(1))? {}
        Ok(())
    }
}
