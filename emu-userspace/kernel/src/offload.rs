//! Segmentation and receive offloads of an interface, by feature name.
//!
//! The emulation is exact for packets, not for 64 KiB super-packets: a pipe of 128 kbit/s
//! would pass one in a four-second burst.
use std::{io, os::fd::AsRawFd};

use emu_model::plan::Plan;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde::{Deserialize, Serialize};

// uapi/linux/ethtool.h
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
const MAX_FEATURES: usize = 1024;

/// Features that create or merge super-packets.
fn is_segmentation(name: &str) -> bool {
    (name.starts_with("tx-") && name.ends_with("-segmentation"))
        || matches!(
            name,
            "tx-generic-segmentation"
                | "tx-gso-list"
                | "tx-gso-partial"
                | "rx-gro"
                | "rx-gro-hw"
                | "rx-gro-list"
                | "rx-udp-gro-forwarding"
                | "rx-lro"
        )
}

/// Features that leave checksums to a device, which would compute them over corrupted bytes,
/// or not at all on lo.
fn is_checksum(name: &str) -> bool {
    name.starts_with("tx-checksum-ip")
}

/// A set of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffloadKind {
    /// Features that create or merge super-packets.
    Segmentation,
    /// These, and transmit checksums.
    SegmentationAndChecksums,
}

impl OffloadKind {
    /// The features that a plan turns off.
    pub fn of(plan: &Plan) -> Self {
        if plan.corrupts() {
            OffloadKind::SegmentationAndChecksums
        } else {
            OffloadKind::Segmentation
        }
    }

    fn has(self, name: &str) -> bool {
        is_segmentation(name)
            || (self == OffloadKind::SegmentationAndChecksums && is_checksum(name))
    }
}

/// A feature and the user's setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// Name as `ethtool -k` prints it in long form.
    pub name: String,
    /// Whether it is wanted.
    pub wanted: bool,
}

struct Device {
    socket: std::os::fd::OwnedFd,
    name: String,
}

#[repr(C)]
struct IfReq {
    name: [u8; 16],
    data: *mut u8,
    pad: [u8; 16],
}

/// `SIOCETHTOOL` of uapi/linux/sockios.h.
mod ioctl {
    nix::ioctl_readwrite_bad!(siocethtool, 0x8946, super::IfReq);
}

impl Device {
    fn open(name: &str) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        Ok(Self {
            socket,
            name: name.to_owned(),
        })
    }

    /// Runs one ethtool command. `buffer` is the command's structure and must be as long as
    /// the kernel writes for it.
    fn command(&self, buffer: &mut [u32]) -> io::Result<()> {
        let mut request = IfReq {
            name: [0; 16],
            data: buffer.as_mut_ptr().cast(),
            pad: [0; 16],
        };
        let bytes = self.name.as_bytes();
        let length = bytes.len().min(15);
        request.name[..length].copy_from_slice(&bytes[..length]);
        // SAFETY: `request` is a live ifreq with a terminated name; its data points to
        // `buffer`, which each caller below sizes for its command.
        unsafe { ioctl::siocethtool(self.socket.as_raw_fd(), &mut request) }?;
        Ok(())
    }

    fn feature_names(&self) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: cmd, reserved, u64 mask, u32 data[1].
        let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0, 0];
        self.command(&mut info)?;
        let count = (info[4] as usize).min(MAX_FEATURES);
        // struct ethtool_gstrings: cmd, string_set, len, then 32 bytes a name.
        let mut strings = vec![0u32; 3 + count * ETH_GSTRING_LEN / 4];
        strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
        self.command(&mut strings)?;
        let bytes: Vec<u8> = strings[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
        Ok(bytes
            .chunks(ETH_GSTRING_LEN)
            .map(|name| {
                let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                String::from_utf8_lossy(&name[..end]).into_owned()
            })
            .collect())
    }

    /// Blocks of (available, requested, active, never_changed).
    fn blocks(&self, count: usize) -> io::Result<Vec<[u32; 4]>> {
        let blocks = count.div_ceil(32);
        let mut buffer = vec![0u32; 2 + blocks * 4];
        buffer[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
        self.command(&mut buffer)?;
        Ok(buffer[2..]
            .chunks_exact(4)
            .map(|b| [b[0], b[1], b[2], b[3]])
            .collect())
    }

    fn set(&self, count: usize, changes: &[(usize, bool)]) -> io::Result<()> {
        let blocks = count.div_ceil(32);
        let mut buffer = vec![0u32; 2 + blocks * 2];
        buffer[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
        for (bit, on) in changes {
            let (block, mask) = (bit / 32, 1u32 << (bit % 32));
            buffer[2 + block * 2] |= mask;
            if *on {
                buffer[2 + block * 2 + 1] |= mask;
            }
        }
        self.command(&mut buffer)
    }
}

/// The features of a kind that are on and can be changed on an interface.
pub fn on(interface: &str, kind: OffloadKind) -> io::Result<Vec<Feature>> {
    let device = Device::open(interface)?;
    let names = device.feature_names()?;
    let blocks = device.blocks(names.len())?;
    Ok(names
        .into_iter()
        .enumerate()
        .filter(|(bit, name)| {
            let [available, _requested, active, never] = blocks[bit / 32];
            let mask = 1u32 << (bit % 32);
            kind.has(name) && available & mask != 0 && never & mask == 0 && active & mask != 0
        })
        .map(|(_, name)| Feature { name, wanted: true })
        .collect())
}

/// Turns all features of a kind off.
pub fn turn_off(interface: &str, kind: OffloadKind) -> io::Result<()> {
    let mut features = on(interface, kind)?;
    for feature in &mut features {
        feature.wanted = false;
    }
    set(interface, &features)
}

/// Sets features; skips names that the interface does not have.
pub fn set(interface: &str, features: &[Feature]) -> io::Result<()> {
    if features.is_empty() {
        return Ok(());
    }
    let device = Device::open(interface)?;
    let names = device.feature_names()?;
    let changes: Vec<(usize, bool)> = features
        .iter()
        .filter_map(|f| {
            let bit = names.iter().position(|n| *n == f.name)?;
            Some((bit, f.wanted))
        })
        .collect();
    device.set(names.len(), &changes)
}
