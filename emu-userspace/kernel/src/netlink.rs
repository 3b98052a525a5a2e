//! A synchronous route-netlink socket: one request, a dump, or a batch.
//!
//! It does not know the content of its messages; other modules build them.
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};

/// Number of requests sent in one write. Each rejected request is answered in a buffer of its
/// own, and the socket's default receive buffer holds some 270 of these.
const BATCH: usize = 100;
/// Requested receive buffer; the kernel doubles it for its bookkeeping.
const RECEIVE_BYTES: libc::c_int = 212_992;
/// The kernel answers within milliseconds; an answer that takes longer was lost.
const ANSWER_SECONDS: i64 = 60;

/// Why a netlink operation failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel did not answer.
    #[error("{operation}: no answer from the kernel within {ANSWER_SECONDS} s")]
    Silent { operation: String },
    /// The kernel answered with an error.
    #[error("{operation}: {source}")]
    Refused {
        /// The operation, for example `add qdisc fq to lo`.
        operation: String,
        /// The kernel's error number.
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("{operation}: invalid answer from the kernel: {detail}")]
    Answer {
        operation: String,
        /// The parser's message.
        detail: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it answered with one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { source, .. } => source.raw_os_error(),
            NetlinkError::Socket(_) | NetlinkError::Silent { .. } | NetlinkError::Answer { .. } => {
                None
            }
        }
    }
}

/// One change to the kernel's tables, with its flags and the text for errors.
pub struct Request {
    /// The message.
    pub message: RouteNetlinkMessage,
    /// `NLM_F_*` flags in addition to `NLM_F_REQUEST`.
    pub flags: u16,
    /// The operation, for the error text.
    pub operation: String,
    /// Error numbers that mean "already done".
    pub tolerate: &'static [i32],
}

/// A connection to the kernel's network tables in one network namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Socket)?;
        socket.bind_auto().map_err(NetlinkError::Socket)?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(NetlinkError::Socket)?;
        // Twice the default, since an answer that exceeds the buffer is lost.
        let _ = socket.set_rx_buf_sz(RECEIVE_BYTES);
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))
            .map_err(|errno| NetlinkError::Socket(errno.into()))?;
        // Without it the kernel sends every failed request back in full.
        let _ = socket.set_cap_ack(true);
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends one change and waits for its acknowledgement.
    pub fn request(&mut self, request: Request) -> Result<(), NetlinkError> {
        self.batch(vec![request])
    }

    /// Sends many changes, several in one write, and returns the first error that a request
    /// does not tolerate. The requests after it have been executed.
    pub fn batch(&mut self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        let mut first_error = None;
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let mut buffer = Vec::new();
            let mut pending = Vec::with_capacity(BATCH);
            while let Some(request) = requests.next() {
                // The kernel answers in order and reports every error, so one acknowledgement
                // at the end shows that all requests were handled.
                let last = pending.len() + 1 == BATCH || requests.peek().is_none();
                let flags = request.flags | if last { NLM_F_ACK } else { 0 };
                self.append(&mut buffer, request.message, flags);
                pending.push((request.operation, request.tolerate));
                if last {
                    break;
                }
            }
            self.socket.send(&buffer, 0).map_err(NetlinkError::Socket)?;
            let refused = self.answers(&pending)?;
            first_error = first_error.or(refused);
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Requests all objects of a kind.
    pub fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        operation: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut buffer = Vec::new();
        self.append(&mut buffer, message, NLM_F_DUMP);
        self.socket.send(&buffer, 0).map_err(NetlinkError::Socket)?;
        let mut found = Vec::new();
        loop {
            for answer in self.receive(operation)? {
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(found),
                            Some(_) => Err(NetlinkError::Refused {
                                operation: operation.to_owned(),
                                source: error.to_io(),
                            }),
                        };
                    }
                    _ => {}
                }
            }
        }
    }

    fn append(&mut self, buffer: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut buffer[start..]);
    }

    /// Reads until the last of the pending requests is answered; returns the first error that
    /// its request does not tolerate.
    fn answers(
        &mut self,
        pending: &[(String, &'static [i32])],
    ) -> Result<Option<NetlinkError>, NetlinkError> {
        let last = self.sequence;
        let first = last + 1 - pending.len() as u32;
        let mut refused = None;
        loop {
            for answer in self.receive(&pending[0].0)? {
                let sequence = answer.header.sequence_number;
                let NetlinkPayload::Error(error) = answer.payload else {
                    continue;
                };
                let Some((operation, tolerate)) =
                    pending.get(sequence.wrapping_sub(first) as usize)
                else {
                    continue;
                };
                if error.code.is_some() {
                    let source = error.to_io();
                    let tolerated = source
                        .raw_os_error()
                        .is_some_and(|errno| tolerate.contains(&errno));
                    if !tolerated && refused.is_none() {
                        refused = Some(NetlinkError::Refused {
                            operation: operation.clone(),
                            source,
                        });
                    }
                }
                if sequence == last {
                    return Ok(refused);
                }
            }
        }
    }

    fn receive(
        &mut self,
        operation: &str,
    ) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
        let (bytes, _) = self
            .socket
            .recv_from_full()
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => NetlinkError::Silent {
                    operation: operation.to_owned(),
                },
                _ => NetlinkError::Socket(error),
            })?;
        let mut found = Vec::new();
        let mut rest = &bytes[..];
        while rest.len() >= 16 {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|e| {
                    NetlinkError::Answer {
                        operation: operation.to_owned(),
                        detail: e.to_string(),
                    }
                })?;
            let length = (message.header.length as usize).next_multiple_of(4);
            found.push(message);
            if length == 0 || length >= rest.len() {
                break;
            }
            rest = &rest[length..];
        }
        Ok(found)
    }
}
