//! Messages between a VM's kernel process and the controller of several VMs in one
//! emulated time. Each is one datagram of a sequenced-packet socket: a kind, a time in
//! nanoseconds, and for frames their bytes.

/// Longest frame of an Ethernet with usual MTU, a VLAN tag included.
pub const LONGEST_FRAME: usize = 1_518;
/// Longest message.
pub const LONGEST: usize = HEADER + LONGEST_FRAME;
/// Bytes before a frame.
pub const HEADER: usize = 16;

/// Kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum FrameKind {
    /// VM to controller: a frame was sent at this time.
    Sent = 1,
    /// VM to controller: nothing happens here before this time, and it is not passed
    /// without a [`FrameKind::Until`] ([`NEVER`]: nothing by itself).
    Waiting = 2,
    /// Controller to VM: a frame is delivered at this time.
    Frame = 3,
    /// Controller to VM: time may go up to this one.
    Until = 4,
}

/// A time that does not come.
pub const NEVER: u64 = u64::MAX;

/// Writes the header of a message.
pub fn header(kind: FrameKind, time_ns: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(&(kind as u64).to_le_bytes());
    bytes[8..].copy_from_slice(&time_ns.to_le_bytes());
    bytes
}

/// Kind and time of a message, and the bytes after them; none if it is not a message.
pub fn parse(message: &[u8]) -> Option<(FrameKind, u64, &[u8])> {
    let (header, rest) = message.split_at_checked(HEADER)?;
    let word = |at: usize| Some(u64::from_le_bytes(header[at..at + 8].try_into().ok()?));
    let kind = match word(0)? {
        1 => FrameKind::Sent,
        2 => FrameKind::Waiting,
        3 => FrameKind::Frame,
        4 => FrameKind::Until,
        _ => return None,
    };
    Some((kind, word(8)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_were_written() {
        for kind in [
            FrameKind::Sent,
            FrameKind::Waiting,
            FrameKind::Frame,
            FrameKind::Until,
        ] {
            let message = [&header(kind, 5_000_000_001)[..], b"frame"].concat();
            assert_eq!(parse(&message), Some((kind, 5_000_000_001, &b"frame"[..])));
        }
        assert_eq!(parse(&[0; HEADER]), None);
        assert_eq!(parse(&[1, 0, 0]), None);
    }
}
