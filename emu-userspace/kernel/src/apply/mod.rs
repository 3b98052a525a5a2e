//! Applies a plan: records every change before making it, in an order in which no packet is
//! shaped by an incomplete configuration.
mod addresses;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use emu_common::names;
use emu_model::plan::Plan;
use nix::mount::{MsFlags, mount};

use super::{
    bpf::{self, BpfError, Maps},
    error::{ApplyError, needs},
    link::{self, Link},
    machines,
    netlink::Netlink,
    offload,
    state::{State, StateDir, Undo, WriterLock},
    tc::{self, Hook, HookPlace, Preference},
    undo::{self, Processes, UndoError},
};

const BPFFS: &str = "/sys/fs/bpf";

/// A load in progress: the socket, the lock and the journal.
struct Loader<'a> {
    netlink: Netlink,
    lock: &'a WriterLock,
    dir: &'a StateDir,
    plan: &'a Plan,
}

/// Loads a plan in the calling thread's network namespace, after undoing an earlier load.
/// `topology` is stored for later commands.
///
/// # Errors
/// [`ApplyError`]; then nothing of the plan is left, and an earlier load is untouched if a
/// check before the first change failed.
pub fn load(
    plan: &Plan,
    file: &Path,
    topology: &str,
    dir: &StateDir,
    lock: &WriterLock,
) -> Result<State, ApplyError> {
    let mut loader = Loader {
        netlink: Netlink::open()?,
        lock,
        dir,
        plan,
    };
    loader.check()?;
    // The verifier and the memory limits may fail before anything is changed.
    let mut programs = bpf::load(plan)?;
    dir.check_room(lock, topology.len())?;
    match undo::unload(dir, lock, Processes::Refuse) {
        // What can be known is undone, and the load says why it was a full one.
        Err(UndoError::Damaged { .. }) => {}
        other => drop(other?),
    }
    let made = loader.make(&mut programs, file).and_then(|state| {
        dir.store(lock, &state, topology)?;
        Ok(state)
    });
    if made.is_err() {
        // The first error is reported; the journal stays if the undo fails.
        let _ = undo::unload(dir, lock, Processes::Refuse);
    }
    made
}

impl Loader<'_> {
    fn link(&mut self, name: &str) -> Result<Link, ApplyError> {
        let links = link::links(&mut self.netlink)?;
        let have = links.iter().map(|l| l.name.clone()).collect();
        links
            .into_iter()
            .find(|l| l.name == name)
            .ok_or(ApplyError::NoInterface {
                name: name.to_owned(),
                have,
            })
    }

    fn record(&self, undo: Undo) -> Result<(), ApplyError> {
        Ok(self.dir.record(self.lock, &undo)?)
    }

    /// Checks everything that can be checked before the first change.
    fn check(&mut self) -> Result<(), ApplyError> {
        let ours = self.dir.exists();
        let qdiscs = tc::qdiscs(&mut self.netlink)?;
        for name in &self.plan.interfaces {
            let link = self.link(name)?;
            if !link.ethernet {
                return Err(ApplyError::NotEthernet { name: link.name });
            }
            let root = qdiscs.iter().find(|q| {
                q.index == link.index && q.parent == netlink_packet_route::tc::TcHandle::ROOT
            });
            if let Some(root) = root
                && !root.is_default()
                && root.handle.major != tc::FQ_HANDLE_MAJOR
                && !tc::is_restorable(&root.kind)
            {
                return Err(ApplyError::Qdisc {
                    interface: link.name,
                    kind: root.kind.clone(),
                });
            }
        }
        if !ours && link::link(&mut self.netlink, names::IFB)?.is_some() {
            return Err(ApplyError::NameTaken {
                name: names::IFB.to_owned(),
            });
        }
        self.check_addresses()
    }

    fn make(&mut self, programs: &mut bpf::Programs, file: &Path) -> Result<State, ApplyError> {
        let pins = self.pin(programs)?;
        let ifb = self.make_ifb(programs)?;
        for name in self.plan.interfaces.clone() {
            self.prepare_interface(&name)?;
        }
        self.add_addresses()?;
        self.make_machines(programs, ifb)?;
        // The filters come last: from here on packets are shaped, by a complete
        // configuration.
        for name in self.plan.interfaces.clone() {
            self.attach(&name, ifb, programs)?;
        }
        machines::start(self.plan, &mut self.netlink)?;
        machines::wait(self.plan, self.dir)?;
        Ok(State {
            version: 1,
            topology: file.to_owned(),
            host: self.plan.host.clone(),
            size: self.plan.size,
            loaded_at_unix_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            map_ids: programs.map_ids()?,
            bpffs_device: bpffs_device(),
            program_ids: programs.program_ids()?,
            offloads_on: self.offloads_on(),
            pins,
            seed: self.plan.seed,
            slots: Vec::new(),
            features: self.plan.features(),
            corrupts: self.plan.corrupts(),
            host_latency_ns: self.plan.host_latency_ns,
            fq: Some(self.plan.fq.clone()),
            object: bpf::object_mark(),
            copy: String::new(),
        })
    }

    /// Pins the maps and programs. If no BPF file system is mounted (inside `ip netns exec`,
    /// which mounts a new /sys), mounts one.
    fn pin(&self, programs: &mut bpf::Programs) -> Result<PathBuf, ApplyError> {
        if !is_bpffs(Path::new(BPFFS)) {
            // Errors are ignored here, since pinning reports them.
            let _ = mount(
                Some("bpf"),
                BPFFS,
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            );
        }
        let directory = pins(&self.dir.name());
        self.record(Undo::Pins {
            directory: directory.clone(),
        })?;
        // A folder of a namespace whose state is gone.
        let _ = fs::remove_dir_all(&directory);
        programs.pin(&directory)?;
        Ok(directory)
    }

    fn make_ifb(&mut self, programs: &bpf::Programs) -> Result<u32, ApplyError> {
        self.record(Undo::DeleteLink {
            name: names::IFB.to_owned(),
        })?;
        self.netlink
            .request(link::add_ifb(names::IFB, self.plan.mtu_bytes.max(1500)))
            .map_err(needs("ifb"))?;
        let ifb = self.link(names::IFB)?;
        if self.plan.corrupts() {
            // lo has no device that computes checksums, and its offload is fixed; the
            // programs give corrupted packets a checksum that the receiver checks.
            offload::turn_off(&ifb.name, offload::OffloadKind::SegmentationAndChecksums).map_err(
                |source| ApplyError::Offload {
                    interface: ifb.name.clone(),
                    source,
                },
            )?;
        }
        self.set_fq(&ifb)?;
        self.netlink
            .request(tc::add_clsact(ifb.index, &ifb.name))
            .map_err(needs("sch_ingress"))?;
        self.netlink
            .request(tc::add_direct_filter(
                at(&ifb, Hook::Egress),
                Preference::First,
                programs.fd(names::PROG_IFB)?,
                names::PROG_IFB,
            ))
            .map_err(needs("cls_bpf"))?;
        self.netlink
            .request(link::set_up(ifb.index, &ifb.name, true))?;
        Ok(ifb.index)
    }

    fn set_fq(&mut self, link: &Link) -> Result<(), ApplyError> {
        self.netlink
            .request(tc::add_fq(link.index, &link.name, &self.plan.fq))
            .map_err(needs("sch_fq"))
    }

    /// Offloads that are still on although the load turned them off.
    fn offloads_on(&self) -> Vec<(String, String)> {
        let of = |name: &String| {
            let on = offload::on(name, self.offloads()).unwrap_or_default();
            let name = name.clone();
            on.into_iter()
                .map(move |feature| (name.clone(), feature.name))
        };
        self.plan.interfaces.iter().flat_map(of).collect()
    }

    /// Offloads that a load turns off.
    fn offloads(&self) -> offload::OffloadKind {
        offload::OffloadKind::of(self.plan)
    }

    /// MTU, offloads and root qdisc of an interface.
    fn prepare_interface(&mut self, name: &str) -> Result<(), ApplyError> {
        let link = self.link(name)?;
        let interface = || link.name.clone();
        if !link.up {
            self.record(Undo::LinkDown {
                interface: interface(),
            })?;
            self.netlink.request(link::set_up(link.index, name, true))?;
        }
        let shrink = link.mtu_bytes > self.plan.mtu_bytes;
        if shrink || (name == "lo" && link.mtu_bytes != self.plan.mtu_bytes) {
            self.record(Undo::Mtu {
                interface: interface(),
                mtu_bytes: link.mtu_bytes,
            })?;
            self.netlink
                .request(link::set_mtu(link.index, name, self.plan.mtu_bytes))?;
        }
        if link.gso_max_segments > 1 {
            self.record(Undo::GsoMaxSegments {
                interface: interface(),
                segments: link.gso_max_segments,
            })?;
            self.netlink
                .request(link::set_gso_max_segments(link.index, name, 1))?;
        }
        let offload_error = |source| ApplyError::Offload {
            interface: link.name.clone(),
            source,
        };
        let features = offload::on(name, self.offloads()).map_err(offload_error)?;
        let off: Vec<_> = features
            .iter()
            .map(|f| offload::Feature {
                name: f.name.clone(),
                wanted: false,
            })
            .collect();
        self.record(Undo::Features {
            interface: interface(),
            features,
        })?;
        offload::set(name, &off).map_err(offload_error)?;

        let root = tc::qdiscs(&mut self.netlink)?.into_iter().find(|q| {
            q.index == link.index && q.parent == netlink_packet_route::tc::TcHandle::ROOT
        });
        self.record(Undo::RootQdisc {
            interface: interface(),
            recipe: root.filter(|q| !q.is_default()).map(|q| q.recipe()),
        })?;
        self.set_fq(&link)
    }

    fn attach(&mut self, name: &str, ifb: u32, programs: &bpf::Programs) -> Result<(), ApplyError> {
        let link = self.link(name)?;
        let has_clsact = tc::qdiscs(&mut self.netlink)?
            .iter()
            .any(|q| q.index == link.index && q.kind == "clsact");
        if !has_clsact {
            self.record(Undo::Clsact {
                interface: link.name.clone(),
            })?;
            self.netlink
                .request(tc::add_clsact(link.index, name))
                .map_err(needs("sch_ingress"))?;
        }
        for hook in [Hook::Ingress, Hook::Egress] {
            self.record(Undo::Filter {
                interface: link.name.clone(),
                hook,
            })?;
        }
        let mut attached = vec![(Hook::Ingress, Preference::First, names::PROG_INGRESS)];
        if self.plan.machines().next().is_some() {
            self.record(Undo::PortFilter {
                interface: link.name.clone(),
            })?;
            attached.push((Hook::Ingress, Preference::Second, names::PROG_TO_PORT));
        }
        attached.push((Hook::Egress, Preference::First, names::PROG_EGRESS));
        for (hook, preference, program) in attached {
            let (place, fd) = (at(&link, hook), programs.fd(program)?);
            let (request, module) = tc::add_program(place, preference, fd, program, ifb);
            self.netlink.request(request).map_err(needs(module))?;
        }
        Ok(())
    }

    /// Makes the machines, with ports that are down.
    fn make_machines(&mut self, programs: &bpf::Programs, ifb: u32) -> Result<(), ApplyError> {
        if self.plan.machines().next().is_none() {
            return Ok(());
        }
        let folder = self.dir.path();
        self.record(Undo::Machines {
            folder: folder.to_owned(),
        })?;
        machines::make(self.plan, folder)?;
        // The router forwards IPv6 packets, and so answers with ICMP errors, only if all
        // interfaces do. On an interface to other hosts this would end the autoconfiguration.
        let has_ipv6 = self.plan.machines().any(|(_, address)| address.is_ipv6());
        if has_ipv6 && self.plan.uplink().is_none() {
            self.set_sysctl("/proc/sys/net/ipv6/conf/all/forwarding")?;
        }
        machines::install(self.plan, &mut self.netlink, programs, ifb)
    }
}

/// A hook of an interface.
fn at(link: &Link, hook: Hook) -> HookPlace<'_> {
    HookPlace::Interface {
        index: link.index,
        name: &link.name,
        hook,
    }
}

/// Folder of the pins of the namespace with a state folder of this name.
pub(crate) fn pins(name: &str) -> PathBuf {
    Path::new(BPFFS).join("emu").join(name)
}

fn is_bpffs(path: &Path) -> bool {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type().0 == BPF_FS_MAGIC)
}

/// Whether a BPF file system is mounted in this mount namespace.
pub(super) fn bpffs_in_sight() -> bool {
    is_bpffs(Path::new(BPFFS))
}

/// Device number of the BPF file system of this mount namespace; 0 if there is none.
pub(super) fn bpffs_device() -> u64 {
    fs::metadata(BPFFS).map_or(0, |metadata| std::os::unix::fs::MetadataExt::dev(&metadata))
}

/// The maps of a finished load.
pub fn open_maps(state: &State) -> Result<Maps, BpfError> {
    Maps::open(&state.pins, &state.map_ids)
}
