//! What `bench vnodes` compares: the same two ends with nothing between them, with
//! emu, and with one class, one netem and one rule for each destination.
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

use super::{BenchError, namespace::Namespace, traffic::Place};

/// A way to shape the traffic of many destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// No emulation: a veth pair as it is.
    None,
    /// emu.
    Emu,
    /// HTB class, netem and u32 rule for each destination.
    U32,
    /// The same with flower rules, whose look-up is hashed.
    Flower,
}

impl System {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no emulation",
            Self::Emu => "emu",
            Self::U32 => "HTB+netem+u32",
            Self::Flower => "HTB+netem+flower",
        }
    }
}

/// Two ends, and what is between them; put away when dropped.
pub struct Line {
    /// Which way.
    pub system: System,
    /// Number of destinations.
    pub vnodes: u32,
    /// Time to set it up, in seconds; 0 without emulation.
    pub load_s: f64,
    from: Namespace,
    to: Option<Namespace>,
    ends: [Ipv4Addr; 2],
}

/// Of the rivals' sender; the destinations are those of emu.
const SENDER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The first destination.
const FIRST: u32 = u32::from_be_bytes([10, 2, 0, 1]);

impl Line {
    /// Sets one up. Packets go to the last destination: the worst place in a list of
    /// rules, and no place in particular in a hash.
    ///
    /// # Errors
    /// [`BenchError`], for what this kernel lacks.
    pub fn new(system: System, vnodes: u32) -> Result<Self, BenchError> {
        let last = Ipv4Addr::from(FIRST + vnodes - 1);
        match system {
            System::Emu => Self::emu(vnodes),
            System::None | System::U32 | System::Flower => Self::veth(system, vnodes, last),
        }
    }

    /// The namespace and address of the sender and of the last destination.
    pub fn places(&self) -> [Place<'_>; 2] {
        let to = self.to.as_ref().unwrap_or(&self.from);
        [(&self.from, self.ends[0]), (to, self.ends[1])].map(|(namespace, address)| Place {
            namespace,
            address: SocketAddr::from((address, 0)),
        })
    }

    fn emu(vnodes: u32) -> Result<Self, BenchError> {
        let namespace = Namespace::new()?;
        // The sender is the first vnode, the destination the last.
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

/// The lines of `tc -batch`. Minor numbers of classes and major numbers of netem
/// begin at 0x10, so that neither meets that of the root.
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
            // The namespace goes anyway; the state folder and the pins would stay.
            let _ = self
                .from
                .enter(|| Ok(Session::open()?.unload(Processes::Kill)?));
        }
    }
}
