//! Round trips and bulk transfers between two namespaces, with plain sockets.
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{BenchError, namespace::Namespace};

/// Longest wait for one answer, or for a sender to see that its time is over.
const PATIENCE: Duration = Duration::from_millis(500);
/// Stack of a thread that moves bytes: there may be two thousand.
const STACK_BYTES: usize = 256 << 10;
/// Bytes of one write or read.
const CHUNK_BYTES: usize = 16 << 10;

/// Where something sends from, or answers.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Namespace.
    pub namespace: &'a Namespace,
    /// Address, with any port.
    pub address: SocketAddr,
}

/// Round-trip times of so many datagrams, one after the other, in microseconds. The
/// first ones warm up and do not count; none for a datagram that was lost.
///
/// # Errors
/// [`BenchError`].
pub fn round_trips(from: Place, to: Place, count: u32) -> Result<Vec<f64>, BenchError> {
    let bind = |place: Place| {
        let address = place.address;
        place.namespace.enter(move || {
            let socket = UdpSocket::bind(address).map_err(BenchError::system("bind a socket"))?;
            socket
                .set_read_timeout(Some(PATIENCE))
                .map_err(BenchError::system("set a time-out"))?;
            Ok(socket)
        })
    };
    let (asking, answering) = (bind(from)?, bind(to)?);
    let address = answering
        .local_addr()
        .map_err(BenchError::system("read an address"))?;
    asking
        .connect(address)
        .map_err(BenchError::system("connect"))?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0u8; 64];
            while !done.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = answering.recv_from(&mut buffer) {
                    let _ = answering.send_to(&buffer[..length], peer);
                }
            }
        });
        let times = ask(&asking, count);
        done.store(true, Ordering::Relaxed);
        // Wakes the answering side, which need not wait for its time-out.
        let _ = asking.send(&[0; 8]);
        times
    })
}

fn ask(socket: &UdpSocket, count: u32) -> Result<Vec<f64>, BenchError> {
    let warm_up = count / 10 + 1;
    let mut times = Vec::with_capacity(count as usize);
    let mut buffer = [0u8; 64];
    for number in 0..count + warm_up {
        let start = Instant::now();
        let sent = u64::from(number).to_be_bytes();
        socket
            .send(&sent)
            .map_err(BenchError::system("send a datagram"))?;
        // An answer to an earlier one, which came too late, is none to this.
        while start.elapsed() < PATIENCE {
            match socket.recv(&mut buffer) {
                Ok(8) if buffer[..8] == sent => {
                    if number >= warm_up {
                        times.push(start.elapsed().as_nanos() as f64 / 1e3);
                    }
                    break;
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(BenchError::system("wait for an answer")(e)),
            }
        }
    }
    Ok(times)
}

/// A bulk transfer over TCP.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Connections side by side.
    pub streams: u32,
    /// Time from the start that does not count: slow start.
    pub warm_up: Duration,
    /// Time that counts.
    pub time: Duration,
}

/// Bits per second that the receiving programs got.
///
/// # Errors
/// [`BenchError`].
pub fn transfer(from: Place, to: Place, transfer: &Transfer) -> Result<f64, BenchError> {
    let listener = to.namespace.enter(move || {
        let socket = || {
            let socket = Socket::new(Domain::for_address(to.address), Type::STREAM, None)?;
            socket.bind(&to.address.into())?;
            socket.listen(4096)?;
            Ok(TcpListener::from(socket))
        };
        socket().map_err(BenchError::system("listen"))
    })?;
    let address = listener
        .local_addr()
        .map_err(BenchError::system("read an address"))?;
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let (received, done) = (&received, &done);
        let run = || {
            let mut streams = Vec::new();
            // All are connected before the first sends.
            for _ in 0..transfer.streams {
                let sending = from.namespace.enter(|| {
                    connect(from.address, address).map_err(BenchError::system("connect"))
                })?;
                let (receiving, _) = listener.accept().map_err(BenchError::system("accept"))?;
                streams.push((sending, receiving));
            }
            for (sending, receiving) in streams {
                spawn(scope, move || push(sending, done))?;
                spawn(scope, move || pull(receiving, received, done))?;
            }
            thread::sleep(transfer.warm_up);
            let (start, before) = (Instant::now(), received.load(Ordering::Relaxed));
            thread::sleep(transfer.time);
            let bytes = received.load(Ordering::Relaxed) - before;
            Ok(bytes as f64 * 8.0 / start.elapsed().as_secs_f64())
        };
        let rate = run();
        done.store(true, Ordering::Relaxed);
        rate
    })
}

fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    work: impl FnOnce() + Send + 'scope,
) -> Result<(), BenchError> {
    thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn_scoped(scope, work)
        .map(drop)
        .map_err(BenchError::system("start a thread"))
}

fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&from.into())?;
    // A full queue loses handshakes too, which take seconds then.
    socket.connect_timeout(&to.into(), Duration::from_secs(30))?;
    // What is still queued when the time is over is of no interest.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

fn push(mut stream: TcpStream, done: &AtomicBool) {
    let chunk = [0x5a; CHUNK_BYTES];
    while !done.load(Ordering::Relaxed) {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn pull(mut stream: TcpStream, received: &AtomicU64, done: &AtomicBool) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut chunk = [0; CHUNK_BYTES];
    while !done.load(Ordering::Relaxed) {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => {
                received.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
