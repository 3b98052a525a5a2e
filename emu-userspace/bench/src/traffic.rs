//! Round trips and bulk transfers between two namespaces, with plain sockets.
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::{Domain, Socket, Type};

use super::{BenchError, namespace::Namespace};

/// Timeout for one answer, and for a sender to notice that its time is over.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(ANSWER_TIMEOUT_MS as u64);
/// The same timeout for epoll_wait(2), in milliseconds.
const ANSWER_TIMEOUT_MS: u16 = 500;
/// Bytes of one write or read.
const CHUNK_BYTES: usize = 16 << 10;
/// Writes or reads of one connection before the next one has its turn.
const CHUNKS: u32 = 4;
/// Maximum number of ready connections per epoll_wait(2).
const EVENTS: usize = 256;

/// An endpoint that sends or answers.
#[derive(Clone, Copy)]
pub struct Endpoint<'a> {
    /// Namespace of the endpoint.
    pub namespace: &'a Namespace,
    /// IP address; the port is not used.
    pub address: SocketAddr,
}

/// Round-trip times of `count` datagrams, one at a time, in microseconds. The first ones
/// are a warm-up and do not count; lost datagrams are left out.
///
/// # Errors
/// [`BenchError`] if a socket operation fails.
pub fn round_trips(from: Endpoint, to: Endpoint, count: u32) -> Result<Vec<f64>, BenchError> {
    let bind = |place: Endpoint| {
        let address = place.address;
        place.namespace.enter(move || {
            let socket = UdpSocket::bind(address).map_err(BenchError::system("bind a socket"))?;
            socket
                .set_read_timeout(Some(ANSWER_TIMEOUT))
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
        // Wakes the answering side, so that it need not wait for its timeout.
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
        // A late answer to an earlier datagram is not an answer to this one.
        while start.elapsed() < ANSWER_TIMEOUT {
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

/// Parameters of a bulk transfer over TCP.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Number of parallel connections.
    pub streams: u32,
    /// Initial time that does not count, because of slow start.
    pub warm_up: Duration,
    /// Measured time after the warm-up.
    pub time: Duration,
}

/// Goodput in bits per second, as counted by the receiving programs.
///
/// # Errors
/// [`BenchError`] if a connection cannot be made.
pub fn transfer(from: Endpoint, to: Endpoint, transfer: &Transfer) -> Result<f64, BenchError> {
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
            let (mut sending, mut receiving) = (Vec::new(), Vec::new());
            // All connections are established before the first one sends.
            for _ in 0..transfer.streams {
                sending.push(from.namespace.enter(|| {
                    connect(from.address, address).map_err(BenchError::system("connect"))
                })?);
                let (accepted, _) = listener.accept().map_err(BenchError::system("accept"))?;
                receiving.push(accepted);
            }
            // One thread for all connections of a side: with thousands of threads this
            // would measure the scheduler.
            scope.spawn(move || serve(&mut sending, EpollFlags::EPOLLOUT, done, push));
            scope.spawn(move || {
                serve(&mut receiving, EpollFlags::EPOLLIN, done, |stream| {
                    let length = pull(stream)?;
                    received.fetch_add(length as u64, Ordering::Relaxed);
                    Ok(length)
                })
            });
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

/// Lets each ready connection transfer some data, until the time is over or no connection
/// is left. Connections that failed or ended are skipped.
fn serve(
    streams: &mut [TcpStream],
    ready: EpollFlags,
    done: &AtomicBool,
    mut work: impl FnMut(&mut TcpStream) -> io::Result<usize>,
) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (number, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true)?;
        epoll.add(stream, EpollEvent::new(ready, number as u64))?;
    }
    let mut left = streams.len();
    let mut events = [EpollEvent::empty(); EVENTS];
    while left > 0 && !done.load(Ordering::Relaxed) {
        let count = epoll.wait(&mut events, ANSWER_TIMEOUT_MS)?;
        for event in &events[..count] {
            let stream = &mut streams[event.data() as usize];
            match work(stream) {
                Ok(1..) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => {
                    epoll.delete(&*stream)?;
                    left -= 1;
                }
            }
        }
    }
    Ok(())
}

fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&from.into())?;
    // A full queue loses handshakes too, which then take seconds.
    socket.connect_timeout(&to.into(), Duration::from_secs(30))?;
    // Data that is still queued when the time is over does not matter.
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket.into())
}

/// Sends until the socket buffer is full; returns the number of bytes.
fn push(stream: &mut TcpStream) -> io::Result<usize> {
    chunks(|| stream.write(&[0x5a; CHUNK_BYTES]))
}

/// Receives the available data; returns the number of bytes.
fn pull(stream: &mut TcpStream) -> io::Result<usize> {
    let mut chunk = [0; CHUNK_BYTES];
    chunks(|| stream.read(&mut chunk))
}

/// Transfers up to [`CHUNKS`] chunks, fewer if one is incomplete; returns the bytes.
fn chunks(mut one: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let mut sum = 0;
    for _ in 0..CHUNKS {
        match one() {
            Ok(length) => {
                sum += length;
                if length < CHUNK_BYTES {
                    break;
                }
            }
            Err(_) if sum > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_serves_connections_until_they_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut ours: Vec<TcpStream> = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..3 {
            ours.push(TcpStream::connect(address).unwrap());
            theirs.push(listener.accept().unwrap().0);
        }
        for (number, stream) in theirs.iter_mut().enumerate() {
            stream.write_all(&vec![1; 50_000 * (number + 1)]).unwrap();
        }
        drop(theirs);
        let (mut received, done) = (0, AtomicBool::new(false));
        serve(&mut ours, EpollFlags::EPOLLIN, &done, |stream| {
            let length = pull(stream)?;
            received += length;
            Ok(length)
        })
        .unwrap();
        assert_eq!(received, 300_000);
    }
}
