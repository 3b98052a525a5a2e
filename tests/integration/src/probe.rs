//! The probe in three languages (the others are in `languages`), run as vnodes, and a peer
//! that replies with the address that it sees.
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::command::{emu_path, python};

/// Timeout for an answer of the peer.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);
/// Folder of the probe's source files.
pub const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/programs");

/// A probe program: its language and its command line.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Programming language of the probe.
    pub language: &'static str,
    command_line: Vec<String>,
}

/// The probe in every language that this machine has; others are skipped with a message.
///
/// # Panics
/// If a compiler fails.
#[expect(clippy::print_stdout, reason = "what a test leaves out")]
pub fn probes(rust: &str, folder: &Path) -> Vec<Probe> {
    let mut probes = vec![Probe {
        language: "Rust",
        command_line: vec![rust.to_owned()],
    }];
    match c_probe(folder) {
        Some(probe) => probes.push(probe),
        None => println!("SKIPPED C programs: no gcc"),
    }
    match python() {
        Some(python) => probes.push(Probe {
            language: "Python",
            command_line: vec![python.into(), format!("{PROGRAMS}/probe.py")],
        }),
        None => println!("SKIPPED Python programs: no python3"),
    }
    probes
}

/// The C probe, linked statically if the machine has a static C library.
fn c_probe(folder: &Path) -> Option<Probe> {
    let binary = folder.join("probe").display().to_string();
    let compile = |options: &[&str]| {
        Command::new("gcc")
            .args(options)
            .args(["-Wall", "-O1", "-o", &binary])
            .arg(format!("{PROGRAMS}/probe.c"))
            .output()
    };
    let mut output = compile(&["-static"]).ok()?;
    if !output.status.success() {
        output = compile(&[]).ok()?;
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    Some(Probe {
        language: "C",
        command_line: vec![binary],
    })
}

impl Probe {
    /// A probe in a language, started by this command.
    pub fn new(language: &'static str, command_line: Vec<String>) -> Self {
        Self {
            language,
            command_line,
        }
    }

    fn command(&self, vnode: &str, arguments: &str) -> Command {
        let mut command = Command::new(emu_path());
        command.args(["exec", vnode, "--"]).args(&self.command_line);
        command.args(arguments.split_whitespace());
        command
    }

    /// Runs the probe as a vnode to completion and returns its output.
    ///
    /// # Panics
    /// If `emu exec` fails.
    pub fn run(&self, vnode: &str, arguments: &str) -> String {
        let output = self.command(vnode, arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.is_empty(), "{} {arguments}: {errors}", self.language);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Starts the probe as a server on a vnode and waits until it is bound.
    ///
    /// # Panics
    /// If it does not bind.
    pub fn serve(&self, vnode: &str, kind: &str, address: &str, port: u16) -> Server {
        let mut child = self
            .command(vnode, &format!("{kind} serve {address} {port}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut bound = String::new();
        output.read_line(&mut bound).unwrap();
        Server {
            bound: bound.trim().to_owned(),
            child,
            _output: output,
        }
    }
}

/// A running server; killed on drop.
pub struct Server {
    /// The address that the server is bound to, by getsockname(2).
    pub bound: String,
    child: Child,
    _output: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers every TCP and UDP request to an address with the address that it sees; the
/// threads end with the process.
///
/// # Panics
/// If the address is not local.
pub fn peer(address: &str) {
    let end: SocketAddr = address.parse().unwrap();
    let listener = TcpListener::bind(end).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let seen = stream.peer_addr().unwrap().ip();
            let _ = stream.read(&mut [0; 8]);
            let _ = stream.write_all(seen.to_string().as_bytes());
        }
    });
    let socket = UdpSocket::bind(end).unwrap();
    thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 8]) {
            let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
        }
    });
}

/// Asks a server, from a given address, which address it sees; `None` without an answer.
///
/// # Panics
/// If `from` is not local.
pub fn ask(kind: &str, from: &str, to: &str) -> Option<String> {
    let from: IpAddr = from.parse().unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let stream = kind == "tcp";
    let form = if stream { Type::STREAM } else { Type::DGRAM };
    let socket = Socket::new(Domain::for_address(to), form, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect_timeout(&to.into(), PEER_TIMEOUT).ok()?;
    socket.set_read_timeout(Some(PEER_TIMEOUT)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"?").ok()?;
    let mut answer = [0; 256];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}
