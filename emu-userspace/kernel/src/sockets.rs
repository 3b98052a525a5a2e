//! Sockets of this network namespace, and the processes that have them open.
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

/// Tables of sockets below `/proc/thread-self/net`; a kernel may be without some protocols.
const TABLES: [&str; 10] = [
    "tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6",
];

/// A socket that is bound to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundSocket {
    /// `tcp`, `udp`, `udplite`, `raw` or `icmp`.
    pub protocol: &'static str,
    /// Address and port; of a raw socket the number of its protocol.
    pub address: SocketAddr,
    /// Identifier and name of the processes that have it open, as far as they are visible.
    pub owners: Vec<(i32, String)>,
    inode: u64,
}

impl fmt::Display for BoundSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.address)?;
        match self.owners.as_slice() {
            [] => write!(f, " of a process that is not visible here"),
            owners => {
                let owners: Vec<String> = owners
                    .iter()
                    .map(|(id, name)| format!("{name} (process {id})"))
                    .collect();
                write!(f, " of {}", owners.join(", "))
            }
        }
    }
}

/// The first sockets of a list, as text for a message.
pub fn some(sockets: &[BoundSocket]) -> String {
    const SHOWN: usize = 8;
    let shown = sockets.iter().take(SHOWN).map(ToString::to_string);
    let mut text = shown.collect::<Vec<_>>().join("; ");
    if sockets.len() > SHOWN {
        text += &format!("; and {} other sockets", sockets.len() - SHOWN);
    }
    text
}

/// The sockets of the calling thread's network namespace that are bound to an address of which
/// `is_meant` is true. Sockets that no process has open any more do not count.
///
/// # Errors
/// The kernel's error, except for tables of protocols that it does not have.
pub fn bound(is_meant: impl Fn(IpAddr) -> bool) -> io::Result<Vec<BoundSocket>> {
    let mut sockets = Vec::new();
    for table in TABLES {
        let text = match fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        let protocol = table.trim_end_matches('6');
        let rows = text.lines().skip(1).filter_map(row);
        sockets.extend(
            rows.filter(|(address, inode)| *inode != 0 && is_meant(address.ip()))
                .map(|(address, inode)| BoundSocket {
                    protocol,
                    address,
                    owners: Vec::new(),
                    inode,
                }),
        );
    }
    if !sockets.is_empty() {
        let mut owners = owners();
        for socket in &mut sockets {
            socket.owners = owners.remove(&socket.inode).unwrap_or_default();
        }
    }
    sockets.sort_by_key(|socket| (socket.address, socket.protocol));
    Ok(sockets)
}

/// Local address and inode of a line of a table.
fn row(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    Some((address(fields.get(1)?)?, fields.get(9)?.parse().ok()?))
}

/// Parses the kernel's notation: 32-bit words in host byte order, in hexadecimal.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(
            u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        )
    };
    let ip = if ip.len() == 8 {
        IpAddr::from(word(0)?)
    } else {
        let words = [word(0)?, word(1)?, word(2)?, word(3)?];
        let mut octets = [0; 16];
        octets.copy_from_slice(words.as_flattened());
        Ipv6Addr::from(octets).to_canonical()
    };
    Some(SocketAddr::new(ip, port))
}

/// The processes that have each socket open, by its inode.
fn owners() -> BTreeMap<u64, Vec<(i32, String)>> {
    let mut owners: BTreeMap<u64, Vec<(i32, String)>> = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(id) = process.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // A process may end meanwhile.
        let open = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten();
        let mut name = None;
        for file in open.flatten() {
            let Ok(target) = fs::read_link(file.path()) else {
                continue;
            };
            let inode = target.to_str().and_then(|t| t.strip_prefix("socket:["));
            let Some(inode) = inode.and_then(|t| t.strip_suffix(']')?.parse().ok()) else {
                continue;
            };
            let name: &String = name.get_or_insert_with(|| {
                let name = fs::read_to_string(process.path().join("comm"));
                name.unwrap_or_default().trim().to_owned()
            });
            let list = owners.entry(inode).or_default();
            if list.last().is_none_or(|(last, _)| *last != id) {
                list.push((id, name.clone()));
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn bound_sockets_are_found_with_their_process() {
        let listener = TcpListener::bind("127.77.1.2:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let (server, _) = listener.accept().unwrap();
        let udp = UdpSocket::bind("127.77.1.2:0").unwrap();
        let find = || bound(|ip| ip == at.ip()).unwrap();
        let found = find();
        // The client has another address.
        assert_eq!(found.len(), 3, "{found:?}");
        let id = std::process::id().cast_signed();
        for socket in &found {
            assert_eq!(socket.owners.len(), 1);
            assert_eq!(socket.owners[0].0, id);
            assert!(socket.to_string().contains(&format!("(process {id})")));
        }
        assert!(some(&found).starts_with(&format!("{} {}", found[0].protocol, found[0].address)));
        let is_there = |protocol, address| {
            let mut all = found.iter();
            all.any(|s| s.protocol == protocol && s.address == address)
        };
        assert!(is_there("tcp", at) && is_there("udp", udp.local_addr().unwrap()));
        drop((listener, client, server, udp));
        // What is left of the connection belongs to no process.
        assert_eq!(find(), []);
    }

    #[test]
    fn addresses_are_read_in_the_kernel_s_notation() {
        let word = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let v4 = word([10, 1, 0, 7]);
        assert_eq!(address(&format!("{v4}:0050")), "10.1.0.7:80".parse().ok());
        let mapped = word([0; 4]) + &word([0; 4]) + &word([0, 0, 0xff, 0xff]) + &v4;
        assert_eq!(
            address(&format!("{mapped}:0050")),
            "10.1.0.7:80".parse().ok()
        );
        let v6 = word([0xfd, 0x10, 0, 0]) + &word([0; 4]) + &word([0; 4]) + &word([0, 0, 0, 7]);
        assert_eq!(address(&format!("{v6}:0001")), "[fd10::7]:1".parse().ok());
        assert_eq!(address("0A:1"), None);
    }
}
