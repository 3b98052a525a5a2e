//! The two compared setups: vnodes on `lo`, and netem on a veth pair.
use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use emu_kernel::{
    session::{Session, SessionError},
    undo::Processes,
};
use emu_model::{plan::Plan, topology};

use super::{
    BenchError,
    namespace::Namespace,
    probe::{self, Ends},
};

/// UDP and TCP port of the receivers.
const PORT: u16 = 7000;

/// An endpoint of a TCP connection: its namespace and address.
pub type End<'a> = (&'a Namespace, SocketAddr);

/// Location of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SceneSide {
    /// A vnode on `lo`.
    Emu,
    /// The right end of the veth pair.
    Right,
}

/// Three namespaces: one for emu, and two with netem between them.
pub struct Scene {
    emu: Namespace,
    left: Namespace,
    right: Namespace,
}

impl Scene {
    /// Creates the namespaces and the veth pair.
    ///
    /// # Errors
    /// [`BenchError::Missing`] if the kernel does not have fq or netem.
    pub fn new() -> Result<Self, BenchError> {
        let [emu, left, right] = [Namespace::new()?, Namespace::new()?, Namespace::new()?];
        for qdisc in ["fq", "netem"] {
            left.run(&format!("tc qdisc add dev lo root {qdisc}"))
                .map_err(|e| BenchError::Missing {
                    qdisc,
                    message: e.to_string(),
                })?;
            left.run("tc qdisc del dev lo root")?;
        }
        right.with_task(|task| {
            left.run(&format!(
                "ip link add v0 address 02:00:00:00:00:01 type veth \
                 peer name v0 address 02:00:00:00:00:02 netns {task}"
            ))
        })?;
        for (here, own, other) in [(&left, 1, 2), (&right, 2, 1)] {
            here.run("ip link set v0 addrgenmode none")?;
            here.run("ip link set v0 up")?;
            here.run(&format!("ip addr add 192.0.2.{own}/24 dev v0"))?;
            // A permanent neighbour entry, because netem could lose an ARP request.
            here.run(&format!(
                "ip neigh add 192.0.2.{other} lladdr 02:00:00:00:00:0{other} dev v0 nud permanent"
            ))?;
        }
        wait_for_carrier(&left)?;
        Ok(Self { emu, left, right })
    }

    /// Two vnodes, with these keys on the up pipe of the first.
    ///
    /// # Errors
    /// [`BenchError`] if the load fails or a socket cannot be opened.
    pub fn emu(&self, line: &str) -> Result<Ends, BenchError> {
        let text = format!(
            "version: 1\naccounting: {{overhead: 14}}\ngroups: {{a: {{prefix: 10.1.0.0/24, nodes: 2, up: {{{line}}}}}}}\n"
        );
        self.emu.enter(|| {
            let topology =
                topology::parse(&text, "bench").map_err(|e| SessionError::Topology(Box::new(e)))?;
            let plan = Plan::new(&topology, None).map_err(SessionError::Plan)?;
            Session::open()?.load(&plan, Path::new("bench"), &text)?;
            ends("10.1.0.1", || probe::receiver(&format!("10.1.0.2:{PORT}")))
        })
    }

    /// Two hosts, with these netem arguments at the interface of the first.
    ///
    /// # Errors
    /// [`BenchError`] if tc fails or a socket cannot be opened.
    pub fn netem(&self, arguments: &str) -> Result<Ends, BenchError> {
        self.root(&format!("netem limit 100000 {arguments}"))?;
        self.pair()
    }

    /// Two hosts, with a rate of 1 Mbit/s and this qdisc at the interface of the first.
    ///
    /// # Errors
    /// [`BenchError`] if tc fails or a socket cannot be opened.
    pub fn queue(&self, qdisc: &str) -> Result<Ends, BenchError> {
        self.root("handle 1: tbf rate 1mbit burst 1600 latency 60s")?;
        self.left
            .run(&format!("tc qdisc add dev v0 parent 1:1 {qdisc}"))?;
        self.pair()
    }

    /// Two hosts, with this root qdisc at the interface of the first; with a `class`, the
    /// qdisc is HTB and this is its only class.
    ///
    /// # Errors
    /// [`BenchError`] if tc fails or a socket cannot be opened.
    pub fn root_line(&self, qdisc: &str, class: Option<&str>) -> Result<Ends, BenchError> {
        self.root(qdisc)?;
        if let Some(class) = class {
            for line in [
                format!("tc class add dev v0 parent 1: classid 1:1 htb {class}"),
                "tc qdisc add dev v0 parent 1:1 pfifo limit 100000".to_owned(),
            ] {
                self.left.run(&line)?;
            }
        }
        self.pair()
    }

    /// The same setting in both directions: two vnodes with these keys on their up pipes,
    /// and two hosts with this qdisc, whose packets are no longer than emu's.
    ///
    /// # Errors
    /// [`BenchError`] if the load or tc fails.
    pub fn both_ways(&self, line: &str, qdisc: &str) -> Result<[[End<'_>; 2]; 2], BenchError> {
        drop(self.emu(line)?);
        self.root(qdisc)?;
        for here in [&self.left, &self.right] {
            here.run("ip link set v0 gso_max_segs 1")?;
            here.run("tc qdisc replace dev v0 root pfifo")?;
            here.run("tc qdisc del dev v0 root")?;
            here.run(&format!("tc qdisc add dev v0 root {qdisc}"))?;
        }
        let end = |namespace, address: [u8; 4]| (namespace, (address, 0).into());
        Ok([
            [end(&self.emu, [10, 1, 0, 1]), end(&self.emu, [10, 1, 0, 2])],
            [
                end(&self.left, [192, 0, 2, 1]),
                end(&self.right, [192, 0, 2, 2]),
            ],
        ])
    }

    /// The namespace of a receiver.
    pub fn at(&self, place: SceneSide) -> &Namespace {
        match place {
            SceneSide::Emu => &self.emu,
            SceneSide::Right => &self.right,
        }
    }

    fn root(&self, qdisc: &str) -> Result<(), BenchError> {
        let _ = self.left.run("tc qdisc del dev v0 root");
        self.left
            .run(&format!("tc qdisc add dev v0 root {qdisc}"))
            .map(drop)
    }

    fn pair(&self) -> Result<Ends, BenchError> {
        self.left.enter(|| {
            ends("192.0.2.1", || {
                let address = format!("192.0.2.2:{PORT}");
                self.right.enter(|| probe::receiver(&address))
            })
        })
    }
}

/// Waits for the carrier of a veth pair, which a kernel worker brings up shortly after the
/// command.
///
/// # Errors
/// [`BenchError`] if the carrier does not come up.
pub fn wait_for_carrier(left: &Namespace) -> Result<(), BenchError> {
    for _ in 0..200 {
        if left.run("ip link show v0")?.contains("state UP") {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Opens a sending socket that is connected to a receiving one.
fn ends(
    from: &str,
    to: impl FnOnce() -> Result<UdpSocket, BenchError>,
) -> Result<Ends, BenchError> {
    let to = to()?;
    let sender = UdpSocket::bind((from, 0)).map_err(BenchError::system(format!("bind {from}")))?;
    let address = to
        .local_addr()
        .map_err(BenchError::system("read an address"))?;
    sender
        .connect(address)
        .map_err(BenchError::system("connect"))?;
    Ok(Ends { from: sender, to })
}

impl Drop for Scene {
    fn drop(&mut self) {
        // The kernel removes the namespace in any case; the state folder and the pins would
        // stay.
        let _ = self
            .emu
            .enter(|| Ok(Session::open()?.unload(Processes::Kill)?));
    }
}
