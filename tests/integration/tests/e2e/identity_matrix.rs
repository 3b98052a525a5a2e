//! Attempts to use another address than the vnode's: what happens to each is the table of
//! docs/exec.md.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read},
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use integration::{
    command::{self, TopologyFile, emu, emu_path},
    netns::isolated,
    probe::PROGRAMS,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::exec::{OLD, TOPOLOGY};

const OTHER: &str = "10.1.0.8";
/// `ETH_P_ALL` in network byte order, and the length of lo's link header.
const ALL: i32 = (0x0003_u16).to_be() as i32;
const LINK_HEADER: usize = 14;
/// Heading of the table in docs/exec.md.
const HEADING: &str = "## Other addresses\n";
/// What a process outside does, which no hook of the vnode can see.
const NOT_COVERED: &str = "socket made and bound outside, used in the vnode";

/// Source addresses of the IPv4 packets to each destination port, or ICMP identifier.
type Seen = BTreeMap<u16, BTreeSet<Ipv4Addr>>;

/// Source address and port of a frame.
fn parse(frame: &[u8]) -> Option<(Ipv4Addr, u16)> {
    let packet = frame.get(LINK_HEADER..)?;
    if packet.first()? >> 4 != 4 {
        return None;
    }
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let header = usize::from(packet[0] & 0xf) * 4;
    let at = match packet[9] {
        1 => 4,
        6 | 17 | 132 | 136 => 2,
        _ => return None,
    };
    let port = packet.get(header + at..header + at + 2)?;
    Some((source.into(), u16::from_be_bytes([port[0], port[1]])))
}

/// Collects what passes the interfaces until `stop`.
fn watch(socket: &Socket, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::new();
    let mut frame = [0; 2_048];
    while !stop.load(Relaxed) {
        let mut reader = socket;
        if let Ok(length) = reader.read(&mut frame)
            && let Some((source, port)) = parse(&frame[..length])
        {
            seen.entry(port).or_default().insert(source);
        }
    }
    seen
}

/// Outcome of each attempt of a user's program in the vnode, by its name, in order.
fn outcomes(python: &str, user: &str) -> Vec<(String, Option<String>)> {
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("control");
    run("chmod", &["755", folder.path().to_str().unwrap()]);
    let program = format!("{PROGRAMS}/identity.py");
    let emu = emu_path();
    let mut helper = Command::new(python)
        .args([&program, "helper", control.to_str().unwrap(), OLD.1, OTHER])
        .arg(&emu)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let ready = helper.stdout.take().unwrap();
    BufReader::new(ready).read_line(&mut line).unwrap();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL))).unwrap();
    let pause = Some(Duration::from_millis(50));
    socket.set_read_timeout(pause).unwrap();
    let stop = AtomicBool::new(false);
    let (seen, output) = thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&socket, &stop));
        let output = Command::new(&emu)
            .args(["exec", "--user", user, OLD.0, "--", python, &program])
            .args(["attempts", control.to_str().unwrap(), OLD.1, OTHER])
            .output()
            .unwrap();
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Relaxed);
        (watching.join().unwrap(), output)
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    // It ends the programs that it started, and then itself.
    assert!(helper.wait().unwrap().success());
    let (own, outside): (Ipv4Addr, Ipv4Addr) = (OLD.0.parse().unwrap(), OLD.1.parse().unwrap());
    let mut outcomes = Vec::new();
    for line in BufReader::new(&output.stdout[..]).lines() {
        let (name, port, said): (String, u16, String) =
            serde_json::from_str(&line.unwrap()).unwrap();
        let mut sources = seen.get(&port).cloned().unwrap_or_default();
        // What the process outside sends.
        sources.remove(&outside);
        let others: Vec<_> = sources.iter().filter(|source| **source != own).collect();
        if name != NOT_COVERED {
            assert!(others.is_empty(), "{name} as {user}: from {others:?}");
        }
        let outcome = match said.as_str() {
            "absent" => None,
            "sent" if !others.is_empty() => Some("from the other".to_owned()),
            "sent" if sources.is_empty() => Some("dropped".to_owned()),
            "sent" => Some("from own".to_owned()),
            text if text.starts_with('E') => Some(format!("`{text}`")),
            text => Some(text.to_owned()),
        };
        outcomes.push((name, outcome));
    }
    outcomes
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// Rows of the table in docs/exec.md: attempt, outcome as nobody, outcome as root.
fn documented() -> Vec<[String; 3]> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/exec.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(HEADING).unwrap();
    let rows = section.lines().skip_while(|l| !l.starts_with("|---"));
    let rows = rows.skip(1).take_while(|l| l.starts_with('|'));
    rows.map(|row| {
        let mut cells = row
            .trim_matches('|')
            .split('|')
            .map(|c| c.trim().to_owned());
        [(); 3].map(|()| cells.next().unwrap_or_default())
    })
    .collect()
}

#[test]
fn no_attempt_uses_another_address_and_the_documentation_says_so() {
    let Some(python) = command::python() else {
        println!("SKIPPED the attempts: no python3");
        return;
    };
    let [nobody, root] = isolated(move || {
        let file = TopologyFile::new(TOPOLOGY);
        file.load();
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").unwrap();
        let outcomes = ["nobody", "root"].map(|user| outcomes(python, user));
        emu("unload --kill");
        outcomes
    });
    let documented = documented();
    let mut table = String::new();
    let mut differs = documented.len() != nobody.len();
    for (i, ((name, nobody), (_, root))) in nobody.iter().zip(&root).enumerate() {
        let [said, as_nobody, as_root] = documented.get(i).cloned().unwrap_or_default();
        differs |= said != *name;
        let mut cell = |outcome: &Option<String>, said: String| match outcome {
            Some(outcome) => {
                // Kernels differ in the order of their checks.
                if said.split(" or ").any(|one| one == outcome) {
                    return said;
                }
                differs = true;
                outcome.clone()
            }
            None => {
                println!("SKIPPED {name}: this kernel does not have it");
                said
            }
        };
        let (nobody, root) = (cell(nobody, as_nobody), cell(root, as_root));
        table += &format!("| {name} | {nobody} | {root} |\n");
    }
    assert!(nobody.len() > 30);
    assert!(!differs, "the table of docs/exec.md would be\n{table}");
}
