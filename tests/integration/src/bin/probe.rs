//! The Rust version of programs/probe.c: one socket, for the tests of `emu exec`.
#![expect(clippy::print_stdout, reason = "its output is its result")]
use std::{
    env,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
};

use socket2::{Domain, Socket, Type};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match work(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("errno {}", error.raw_os_error().unwrap_or(0));
            ExitCode::FAILURE
        }
    }
}

fn work(arguments: &[String]) -> io::Result<()> {
    let usage = || io::Error::from(io::ErrorKind::InvalidInput);
    let [kind, way, address, port] = arguments else {
        return Err(usage());
    };
    let ip: IpAddr = address.parse().map_err(|_| usage())?;
    let end = SocketAddr::new(ip, port.parse().map_err(|_| usage())?);
    let mut answer = [0u8; 256];
    let length = match (kind.as_str(), way.as_str()) {
        ("tcp", "connect") => {
            let mut stream = TcpStream::connect(end)?;
            stream.write_all(b"?")?;
            stream.read(&mut answer)?
        }
        ("udp", "connect" | "sendto") => {
            // The standard library's UdpSocket would bind to the wildcard address first.
            let domain = Domain::for_address(end);
            let socket = UdpSocket::from(Socket::new(domain, Type::DGRAM, None)?);
            if way == "connect" {
                socket.connect(end)?;
                socket.send(b"?")?;
            } else {
                socket.send_to(b"?", end)?;
            }
            socket.recv(&mut answer)?
        }
        ("tcp", _) => {
            let listener = TcpListener::bind(end)?;
            println!("{}", listener.local_addr()?.ip());
            if way == "serve" {
                let (mut stream, peer) = listener.accept()?;
                let _ = stream.read(&mut answer)?;
                stream.write_all(peer.ip().to_string().as_bytes())?;
            }
            return Ok(());
        }
        _ => {
            let socket = UdpSocket::bind(end)?;
            println!("{}", socket.local_addr()?.ip());
            if way == "serve" {
                let (_, peer) = socket.recv_from(&mut answer)?;
                socket.send_to(peer.ip().to_string().as_bytes(), peer)?;
            }
            return Ok(());
        }
    };
    println!("{}", String::from_utf8_lossy(&answer[..length]));
    Ok(())
}
