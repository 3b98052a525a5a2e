//! Emulated hosts on one machine: network namespaces, each with an interface of its own,
//! joined by a bridge. Every host loads its part of a topology, as it would on a cluster.
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use emu_common::layout::{Direction, Pipe};
use emu_kernel::{
    bpf::Maps,
    session::{Loaded, Session, SessionError},
    undo::Processes,
};
use emu_model::{
    plan::Plan,
    topology::{self, Topology},
};

use super::{BenchError, namespace::Namespace};

/// Name of the interface of every host.
pub const INTERFACE: &str = "eth0";

/// Address of a host on the bridge: the first host has 172.16.0.1.
pub fn host_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(0xac10_0001 + index as u32)
}

/// Hosts on one bridge, each with its part of a topology loaded.
pub struct Fleet {
    hosts: Vec<FleetHost>,
    _hub: Namespace,
}

/// One host of a fleet.
pub struct FleetHost {
    namespace: Namespace,
    maps: Maps,
    /// The host's vnodes, each with its index in the maps.
    vnodes: Vec<(IpAddr, u32)>,
}

impl Fleet {
    /// Creates one namespace per host of the topology, in the topology's order, and loads
    /// all parts. The hosts' addresses must be those of [`host_address`]. `folder` is for
    /// files.
    ///
    /// # Errors
    /// [`BenchError`] if the topology is invalid, or a namespace or a load fails.
    pub fn new(text: &str, folder: &Path) -> Result<Self, BenchError> {
        let file = folder.join("topology.yaml");
        fs::write(&file, text).map_err(BenchError::system("write the topology"))?;
        let topology = topology::parse(text, &file.display().to_string())
            .map_err(|e| SessionError::Topology(Box::new(e)))?;
        let hub = Namespace::new()?;
        hub.run("ip link add br0 type bridge")?;
        hub.run("ip link set br0 up")?;
        let namespaces = join(&hub, topology.hosts.len(), folder)?;
        let mut hosts = Vec::new();
        for (namespace, host) in namespaces.into_iter().zip(&topology.hosts) {
            hosts.push(FleetHost::load(
                namespace, &topology, &host.name, text, &file,
            )?);
        }
        Ok(Self { hosts, _hub: hub })
    }

    /// Host number `index`, from 0.
    pub fn host(&self, index: usize) -> &FleetHost {
        &self.hosts[index]
    }

    /// The host that carries a vnode.
    pub fn host_of(&self, vnode: IpAddr) -> Option<&FleetHost> {
        self.hosts
            .iter()
            .find(|host| host.vnodes.iter().any(|(address, _)| *address == vnode))
    }
}

/// Address of a host's interface on the bridge, with its prefix length.
fn link_address(index: usize) -> String {
    let [.., high, low] = (index as u32 + 1).to_be_bytes();
    format!("02:00:00:00:{high:02x}:{low:02x}")
}

/// Adds permanent neighbour entries for all other hosts. The kernel has one neighbour table
/// of a thousand entries for all namespaces: if a hundred hosts each resolved all others,
/// entries would expire and be resolved again all the time, and every request is a
/// broadcast.
fn neighbours(count: usize, own: usize) -> String {
    (0..count)
        .filter(|index| *index != own)
        .map(|index| {
            format!(
                "neigh replace {} lladdr {} dev {INTERFACE} nud permanent\n",
                host_address(index),
                link_address(index)
            )
        })
        .collect()
}

/// Creates the namespaces and attaches them to the bridge.
fn join(hub: &Namespace, count: usize, folder: &Path) -> Result<Vec<Namespace>, BenchError> {
    let batch = folder.join("ip-batch");
    let mut plug = String::new();
    let mut namespaces = Vec::new();
    for index in 0..count {
        let namespace = Namespace::new()?;
        hub.with_task(|task| {
            let lines = format!(
                "link add {INTERFACE} address {} type veth peer name v{index} netns {task}\n\
                 link set {INTERFACE} addrgenmode none\n\
                 link set {INTERFACE} up\n\
                 addr add {}/16 dev {INTERFACE}\n{}",
                link_address(index),
                host_address(index),
                neighbours(count, index)
            );
            run_batch(&namespace, &batch, &lines)
        })?;
        plug += &format!("link set v{index} addrgenmode none\nlink set v{index} master br0 up\n");
        namespaces.push(namespace);
    }
    run_batch(hub, &batch, &plug)?;
    // A kernel worker brings the carrier up shortly after the command.
    for namespace in &namespaces {
        for _ in 0..200 {
            if namespace
                .run(&format!("ip link show {INTERFACE}"))?
                .contains("state UP")
            {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(namespaces)
}

fn run_batch(namespace: &Namespace, file: &Path, lines: &str) -> Result<(), BenchError> {
    fs::write(file, lines).map_err(BenchError::system("write a batch for ip"))?;
    namespace
        .run(&format!("ip -batch {}", file.display()))
        .map(drop)
}

/// A program to start as a vnode.
#[derive(Debug, Clone)]
pub struct FleetProgram<'a> {
    /// Address of the vnode that the program runs as.
    pub vnode: IpAddr,
    /// Program and arguments.
    pub argv: &'a [String],
    /// Working folder; `log` in it receives the program's output.
    pub folder: PathBuf,
}

impl FleetHost {
    fn load(
        namespace: Namespace,
        topology: &Topology,
        name: &str,
        text: &str,
        file: &Path,
    ) -> Result<Self, BenchError> {
        let loaded = namespace.enter(|| {
            let plan = Plan::new(topology, Some(name)).map_err(SessionError::Plan)?;
            Session::open()?.load(&plan, file, text)?;
            Ok(Loaded::find()?)
        })?;
        let vnodes = loaded.plan.vnodes.iter().zip(&loaded.slots);
        let vnodes = vnodes.map(|(v, slot)| (v.address, *slot)).collect();
        let maps = loaded.maps()?;
        Ok(Self {
            namespace,
            maps,
            vnodes,
        })
    }

    /// Starts a program as a vnode of this host by `emu exec`.
    ///
    /// # Errors
    /// [`BenchError::System`] if the program cannot be started.
    pub fn start(&self, program: &FleetProgram<'_>) -> Result<Child, BenchError> {
        let log = File::create(program.folder.join("log"))
            .map_err(BenchError::system("make a log file"))?;
        let errors = log
            .try_clone()
            .map_err(BenchError::system("make a log file"))?;
        let me =
            std::env::current_exe().map_err(BenchError::system("find the program of `emu`"))?;
        let vnode = program.vnode.to_string();
        self.namespace.enter(|| {
            Command::new(me)
                .args(["exec", "--user", "root", &vnode, "--"].map(OsStr::new))
                .args(program.argv)
                .current_dir(&program.folder)
                .stdin(Stdio::null())
                .stdout(log)
                .stderr(errors)
                .spawn()
                .map_err(BenchError::system("start `emu exec`"))
        })
    }

    /// Counters of a vnode's pipe; all zero if this host does not carry the vnode.
    pub fn pipe(&self, vnode: IpAddr, direction: Direction) -> Pipe {
        let slot = self.vnodes.iter().find(|(address, _)| *address == vnode);
        slot.and_then(|(_, slot)| self.maps.pipes.get(*slot as usize * 2 + direction as usize))
            .unwrap_or_default()
    }

    /// Runs a closure on a thread in this host's namespace.
    ///
    /// # Errors
    /// The error of the closure.
    pub fn enter<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, BenchError> + Send,
    ) -> Result<T, BenchError> {
        self.namespace.enter(work)
    }
}

impl Drop for FleetHost {
    fn drop(&mut self) {
        // The kernel removes the namespace in any case; processes, state folder and pins
        // would stay.
        let unload = || Ok(Session::open()?.unload(Processes::Kill)?);
        if let Err(error) = self.namespace.enter(unload) {
            let _ = writeln!(std::io::stderr(), "emu: a host of the measurement: {error}");
        }
    }
}
