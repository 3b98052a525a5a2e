//! Cost of the hooks of `emu exec` for a program: connect and close, and sending a
//! datagram, with the hooks attached and without them, interleaved.
//!
//! One process measures itself in one cgroup of one scratch network namespace; only the
//! hooks are attached and detached. The answering sockets are outside the cgroup.
use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use emu_kernel::{
    addr,
    cgroup::{self, Tree},
    identity::{self, Hooks},
    link,
    netlink::Netlink,
};
use emu_report::{Axis, Chart, Environment, Report, Table, Verdict};
use serde::Serialize;
use socket2::{Domain, Socket, Type};

use super::{BenchError, Measurement, MedianCi, Observer, namespace::Namespace};

/// Longest wait for the route of a new address.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of samples of a run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Number of pairs of blocks, one block with the hooks and one without.
    pub pairs: u32,
    /// Operations per block, whose median counts. At most 10,000: each connection occupies
    /// a port for a minute.
    pub operations: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pairs: 50,
            operations: 400,
        }
    }
}

/// Results of one kind of operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// Name of the operation in the table.
    pub name: &'static str,
    /// Nanoseconds per operation with the hooks attached.
    pub with_ns: MedianCi,
    /// Nanoseconds per operation without hooks.
    pub without_ns: MedianCi,
    /// Ratio of the time with hooks to the time without, of neighbouring blocks.
    pub ratio: MedianCi,
}

/// The measurement.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// The number of samples.
    pub options: Options,
    /// Largest median ratio of a TCP connect-and-close cycle; `None`: without limit.
    pub at_most: Option<f64>,
}

/// Results of all operations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Whether the cycles are within the limit.
    pub ok: bool,
    /// The limit.
    pub at_most: Option<f64>,
    /// Number of pairs of blocks.
    pub pairs: u32,
    /// Operations per block.
    pub operations: u32,
    /// The operations.
    pub cases: Vec<Case>,
}

/// The measured operation.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// A TCP connection from socket(2) to close, with the peer's accept and close:
    /// P2PLab's measurement.
    Cycle,
    /// The connect and close alone.
    Connect,
    /// A sendto on a UDP socket that was never bound.
    Datagram,
}

const CASES: [(&str, Work, Ends); 5] = [
    ("tcp4 cycle", Work::Cycle, V4),
    ("tcp6 cycle", Work::Cycle, V6),
    ("tcp4 connect, close", Work::Connect, V4),
    ("tcp6 connect, close", Work::Connect, V6),
    ("udp4 sendto", Work::Datagram, V4),
];

/// Addresses of the vnode and of the answering socket, both from documentation ranges.
type Ends = (IpAddr, IpAddr);
const V4: Ends = (
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
);
const V6: Ends = (
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
);

impl Measurement for Identity {
    type Outcome = Outcome;

    /// Measures all cases. Meanwhile the calling process is in a scratch cgroup; afterwards it
    /// is in its own cgroup again.
    fn run(&self, _: &mut dyn Observer) -> Result<Option<Outcome>, BenchError> {
        let cases = Namespace::new()?.enter(|| in_scratch_namespace(self.options))?;
        let limit = self.at_most.unwrap_or(f64::INFINITY);
        let mut cycles = cases.iter().filter(|case| case.name.ends_with("cycle"));
        Ok(Some(Outcome {
            ok: cycles.all(|case| case.ratio.median <= limit),
            at_most: self.at_most,
            pairs: self.options.pairs,
            operations: self.options.operations,
            cases,
        }))
    }

    fn report(&self, outcome: &Outcome, environment: &Environment) -> Report {
        let mut report = Report::new("identity", "What the hooks of emu exec cost", environment);
        if let Some(limit) = self.at_most {
            let verdict = if outcome.ok {
                Verdict::Holds
            } else {
                Verdict::Fails
            };
            report.verdict(
                verdict,
                format!("a TCP cycle costs at most {limit} times as much"),
            );
        }
        report.text(
            "One process in a cgroup of a scratch namespace, with the hooks attached and without \
             them in turns; medians, and the ratio of neighbouring blocks.",
        );
        let cases = &outcome.cases;
        report.table("cases", cells(cases));
        let chart = Chart::new("With the hooks and without")
            .x(Axis::new("").categories(cases.iter().map(|c| c.name)))
            .y(Axis::new("us").from_zero())
            .bars("without", cases.iter().map(|c| c.without_ns.median / 1e3))
            .bars("with", cases.iter().map(|c| c.with_ns.median / 1e3));
        report.figure("cases", chart, "Time of one operation.");
        report
    }
}

fn cells(cases: &[Case]) -> Table {
    let mut table = Table::new(["", "with, us", "without, us", "ratio", "95 % interval"]);
    for case in cases {
        let ratio = &case.ratio;
        table.row([
            case.name.to_owned(),
            format!("{:.2}", case.with_ns.median / 1e3),
            format!("{:.2}", case.without_ns.median / 1e3),
            format!("{:.3}", ratio.median),
            format!("{:.3} to {:.3}", ratio.low, ratio.high),
        ]);
    }
    table
}

fn in_scratch_namespace(options: Options) -> Result<Vec<Case>, BenchError> {
    let mut netlink = Netlink::open()?;
    let lo = link::link(&mut netlink, "lo")?.map_or(1, |l| l.index);
    for address in [V4.0, V4.1, V6.0, V6.1] {
        netlink.request(addr::add_alias(lo, "lo", address))?;
    }
    wait_for_route(V6.1).map_err(BenchError::system("reach an address of lo"))?;
    // Opened before the process joins the cgroup, so that they stay outside.
    let answering = CASES.map(|(case, work, ends)| {
        let open = |_| answer(work, ends.1).map_err(BenchError::system(case));
        (0..options.pairs).map(open).collect::<Result<Vec<_>, _>>()
    });
    let hooks = Hooks::load(1)?;
    let (map_id, _) = hooks.map_ids()?;
    let place = ServerPlace::enter()?;
    let mut cases = Vec::new();
    for ((name, work, ends), answering) in CASES.into_iter().zip(answering) {
        identity::assign(
            map_id,
            place.cgroup_id,
            &identity::with_shared_loopback(ends.0),
        )?;
        let series = CostSeries {
            name,
            work,
            vnode: ends.0,
            operations: options.operations,
        };
        cases.extend(series.measure(&hooks, &place.file, &answering?)?);
    }
    Ok(cases)
}

/// Waits until the kernel has added the route of a new IPv6 address, which it does in the
/// background.
fn wait_for_route(address: IpAddr) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        match socket.connect(&SocketAddr::new(address, 9).into()) {
            Err(error) if begin.elapsed() > ROUTE_TIMEOUT => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(1)),
            Ok(()) => return Ok(()),
        }
    }
}

/// Opens an answering socket and returns it with its address.
fn answer(work: Work, address: IpAddr) -> io::Result<(Socket, SocketAddr)> {
    let any_port = SocketAddr::new(address, 0);
    let kind = match work {
        Work::Cycle | Work::Connect => Type::STREAM,
        Work::Datagram => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(any_port), kind, None)?;
    socket.bind(&any_port.into())?;
    if kind == Type::STREAM {
        socket.listen(16)?;
    }
    let bound = socket.local_addr()?.as_socket().unwrap_or(any_port);
    Ok((socket, bound))
}

/// The scratch cgroup of this process; the process leaves it, and it is removed, on drop.
struct ServerPlace {
    tree: Tree,
    name: String,
    file: File,
    cgroup_id: u64,
    before: PathBuf,
}

impl ServerPlace {
    fn enter() -> Result<Self, BenchError> {
        let tree = Tree::find()?;
        let before = own_cgroup(&tree);
        let name = format!("bench-{}", std::process::id());
        let folder = tree.folder(&name);
        let cgroup_id = cgroup::create(&folder)?;
        let file = cgroup::open(&folder)?;
        let place = Self {
            tree,
            name,
            file,
            cgroup_id,
            before,
        };
        cgroup::join(&folder)?;
        Ok(place)
    }
}

impl Drop for ServerPlace {
    fn drop(&mut self) {
        // The root cgroup accepts every process; if this fails too, an empty folder
        // remains.
        if cgroup::join(&self.before).is_err() {
            let _ = cgroup::join(self.tree.root());
        }
        let _ = self.tree.remove(&self.name);
    }
}

/// Folder of this process's current cgroup.
fn own_cgroup(tree: &Tree) -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    tree.root().join(own.unwrap_or_default())
}

/// State of one case in progress.
struct CostSeries {
    name: &'static str,
    work: Work,
    vnode: IpAddr,
    operations: u32,
}

impl CostSeries {
    /// Measures blocks with and without hooks alternately; the order changes from pair to
    /// pair.
    fn measure(
        &self,
        hooks: &Hooks,
        cgroup: &File,
        answering: &[(Socket, SocketAddr)],
    ) -> Result<Option<Case>, BenchError> {
        let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (socket, address)) in answering.iter().enumerate() {
            let block = |hooked: bool| {
                if hooked {
                    hooks.attach(cgroup)?;
                }
                let result = self.block(socket, *address, hooked);
                if hooked {
                    hooks.detach(cgroup)?;
                }
                result.map_err(BenchError::system(self.name))
            };
            let [first, second] = [block(i % 2 == 0)?, block(i % 2 == 1)?];
            let (hooked, plain) = if i % 2 == 0 {
                (first, second)
            } else {
                (second, first)
            };
            with.push(hooked);
            without.push(plain);
            ratios.push(hooked / plain);
        }
        let medians = [with, without, ratios].map(MedianCi::of);
        let [Some(with_ns), Some(without_ns), Some(ratio)] = medians else {
            return Ok(None);
        };
        Ok(Some(Case {
            name: self.name,
            with_ns,
            without_ns,
            ratio,
        }))
    }

    /// Median time of an operation in nanoseconds. The first operations after a change of
    /// the hooks are a warm-up and do not count.
    fn block(&self, peer: &Socket, address: SocketAddr, hooked: bool) -> io::Result<f64> {
        let warm_up = self.operations / 10;
        let mut times = Vec::with_capacity(self.operations as usize);
        for i in 0..self.operations + warm_up {
            let time = match self.work {
                Work::Cycle | Work::Connect => self.connect(peer, address, hooked)?,
                Work::Datagram => self.datagram(peer, address)?,
            };
            if i >= warm_up {
                times.push(time);
            }
        }
        Ok(MedianCi::of(times).map_or(0.0, |s| s.median))
    }

    fn connect(&self, peer: &Socket, address: SocketAddr, hooked: bool) -> io::Result<f64> {
        let to = address.into();
        let whole = Instant::now();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        let part = Instant::now();
        socket.connect(&to)?;
        drop(socket);
        let part = part.elapsed();
        let (accepted, from) = peer.accept()?;
        drop(accepted);
        let time = match self.work {
            Work::Cycle => whole.elapsed(),
            Work::Connect | Work::Datagram => part,
        };
        let seen = from.as_socket().map(|from| from.ip());
        // Without this check, hooks that do nothing would give an excellent measurement.
        if hooked && seen != Some(self.vnode) {
            return Err(io::Error::other(format!(
                "the peer saw {seen:?} and not the vnode"
            )));
        }
        Ok(time.as_nanos() as f64)
    }

    fn datagram(&self, peer: &Socket, address: SocketAddr) -> io::Result<f64> {
        let to = address.into();
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        // The first datagram binds the socket to a port; the second one is like all later
        // ones.
        socket.send_to(b"?", &to)?;
        let start = Instant::now();
        socket.send_to(b"?", &to)?;
        let time = start.elapsed().as_nanos() as f64;
        for _ in 0..2 {
            peer.recv(&mut [std::mem::MaybeUninit::uninit(); 8])?;
        }
        Ok(time)
    }
}
