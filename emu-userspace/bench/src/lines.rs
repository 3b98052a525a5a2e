//! The systems that `bench vnodes` compares: two endpoints without emulation, with emu, and
//! with one HTB class, one netem and one rule per destination.
use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Instant,
};

use emu_kernel::{
    session::{Session, SessionError},
    undo::Processes,
};
use emu_model::{plan::Plan, topology};
use serde::Serialize;

use super::{BenchError, namespace::Namespace, traffic::Endpoint};

/// A way to shape the traffic of many destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// No emulation: a plain veth pair.
    None,
    /// A topology of emu with both endpoints on `lo`.
    Emu,
    /// An HTB class, a netem and a u32 rule per destination.
    U32,
    /// The same with flower rules, which the kernel looks up in a hash table.
    Flower,
}

impl System {
    /// Name of the system in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no emulation",
            Self::Emu => "emu",
            Self::U32 => "HTB+netem+u32",
            Self::Flower => "HTB+netem+flower",
        }
    }
}

/// Two endpoints and the emulation between them; torn down on drop.
pub struct Line {
    /// The emulation between the endpoints.
    pub system: System,
    /// Number of destinations.
    pub vnodes: u32,
    /// Setup time in seconds; 0 without emulation.
    pub load_s: f64,
    from: Namespace,
    to: Option<Namespace>,
    ends: [Ipv4Addr; 2],
}

/// Address of the sender in the systems other than emu; the destinations are the same as
/// emu's.
const SENDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Address of the first destination.
const FIRST: u32 = u32::from_be_bytes([10, 2, 0, 1]);

impl Line {
    /// Sets up one system. Traffic goes to the last destination: the worst position in a
    /// list of rules, and an arbitrary one in a hash table.
    ///
    /// # Errors
    /// [`BenchError`] if the kernel does not have a qdisc or filter, or a load fails.
    pub fn new(system: System, vnodes: u32) -> Result<Self, BenchError> {
        let last = Ipv4Addr::from(FIRST + vnodes - 1);
        match system {
            System::Emu => Self::emu(vnodes),
            System::None | System::U32 | System::Flower => Self::veth(system, vnodes, last),
        }
    }

    /// Namespace and address of the sender and of the last destination.
    pub fn places(&self) -> [Endpoint<'_>; 2] {
        let to = self.to.as_ref().unwrap_or(&self.from);
        [(&self.from, self.ends[0]), (to, self.ends[1])].map(|(namespace, address)| Endpoint {
            namespace,
            address: SocketAddr::from((address, 0)),
        })
    }

    fn emu(vnodes: u32) -> Result<Self, BenchError> {
        let namespace = Namespace::new()?;
        // The sender is the first vnode, the destination is the last one.
        let nodes = vnodes.max(2);
        let last = Ipv4Addr::from(FIRST + nodes - 1);
        let text = format!(
            "version: 1\naddressing: anyip\ngroups: {{all: {{prefix: 10.2.0.0/15, nodes: {nodes}, \
             up: 10gbit, down: 10gbit, queue: 1s}}}}\n"
        );
        let load_s = namespace.enter(|| {
            let start = Instant::now();
            let topology =
                topology::parse(&text, "bench").map_err(|e| SessionError::Topology(Box::new(e)))?;
            let plan = Plan::new(&topology, None).map_err(SessionError::Plan)?;
            Session::open()?.load(&plan, Path::new("bench"), &text)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        Ok(Self {
            system: System::Emu,
            vnodes,
            load_s,
            from: namespace,
            to: None,
            ends: [Ipv4Addr::from(FIRST), last],
        })
    }

    fn veth(system: System, vnodes: u32, last: Ipv4Addr) -> Result<Self, BenchError> {
        let [left, right] = [Namespace::new()?, Namespace::new()?];
        right.with_task(|task| {
            left.run(&format!(
                "ip link add v0 address 02:00:00:00:00:01 type veth \
                 peer name v0 address 02:00:00:00:00:02 netns {task}"
            ))
        })?;
        for (here, own, other, mac) in [(&left, SENDER, last, 2), (&right, last, SENDER, 1)] {
            here.run("ip link set v0 addrgenmode none")?;
            here.run("ip link set v0 up")?;
            here.run(&format!("ip addr add {own}/32 dev v0"))?;
            here.run(&format!("ip route add {other}/32 dev v0 src {own}"))?;
            here.run(&format!(
                "ip neigh add {other} lladdr 02:00:00:00:00:0{mac} dev v0 nud permanent"
            ))?;
        }
        super::scene::wait_for_carrier(&left)?;
        let start = Instant::now();
        if let Some(batch) = batch(system, vnodes) {
            left.feed("tc -batch -", &batch)?;
        }
        let load_s = match system {
            System::None => 0.0,
            _ => start.elapsed().as_secs_f64(),
        };
        Ok(Self {
            system,
            vnodes,
            load_s,
            from: left,
            to: Some(right),
            ends: [SENDER, last],
        })
    }
}

/// The lines of `tc -batch`. Minor numbers of classes and major numbers of netem start at
/// 0x10, so that neither collides with that of the root.
fn batch(system: System, vnodes: u32) -> Option<String> {
    let rule = |text: &mut String, address: Ipv4Addr, number: u32| match system {
        System::U32 => writeln!(
            text,
            "filter add dev v0 parent 1: protocol ip prio 1 u32 match ip dst {address}/32 flowid 1:{number:x}"
        ),
        _ => writeln!(
            text,
            "filter add dev v0 parent 1: protocol ip prio 1 flower dst_ip {address} classid 1:{number:x}"
        ),
    };
    if system == System::None {
        return None;
    }
    let mut text = String::from("qdisc add dev v0 root handle 1: htb\n");
    for number in 0..vnodes {
        let (minor, address) = (number + 0x10, Ipv4Addr::from(FIRST + number));
        let _ = writeln!(
            text,
            "class add dev v0 parent 1: classid 1:{minor:x} htb rate 10gbit quantum 60000"
        );
        let _ = writeln!(
            text,
            "qdisc add dev v0 parent 1:{minor:x} handle {minor:x}: netem limit 10000"
        );
        let _ = rule(&mut text, address, minor);
    }
    Some(text)
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.system == System::Emu {
            // The kernel removes the namespace in any case; the state folder and the pins
            // would stay.
            let _ = self
                .from
                .enter(|| Ok(Session::open()?.unload(Processes::Kill)?));
        }
    }
}
