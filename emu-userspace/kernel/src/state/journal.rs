//! The journal: one line for each step of `unload`, written before the change that it
//! undoes.
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use nix::{
    errno::Errno,
    net::if_::{Interface, if_nameindex, if_nametoindex},
};
use serde::{Deserialize, Serialize};

use super::{JOURNAL, ROOT, StateDir, StateError, WriterLock, file_error, private};
use crate::{offload::Feature, tc::Hook};

/// One step of `unload`, recorded before the change that it undoes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub enum Undo {
    /// Delete an interface that the load created.
    DeleteLink { name: String },
    /// Restore the MTU of an interface.
    Mtu {
        interface: String,
        /// MTU before, in bytes.
        mtu_bytes: u32,
    },
    /// Allow super-packets on an interface again.
    GsoMaxSegments {
        interface: String,
        /// Segments before.
        segments: u32,
    },
    /// Set an interface down again.
    LinkDown { interface: String },
    /// Restore the root qdisc of an interface.
    RootQdisc {
        interface: String,
        /// How to create the previous one; `None` for the kernel's default.
        recipe: Option<Vec<u8>>,
    },
    /// Delete the clsact qdisc that the load added.
    Clsact { interface: String },
    /// Delete emu's filter.
    Filter { interface: String, hook: Hook },
    /// Delete emu's filter that brings packets to the ports of machines.
    PortFilter { interface: String },
    /// Remove the network namespaces of machines, and their ports.
    Machines {
        /// The state folder, which keeps them.
        folder: PathBuf,
    },
    /// Restore the offloads of an interface.
    Features {
        interface: String,
        /// Previous settings.
        features: Vec<Feature>,
    },
    /// Remove the aliases that the load added.
    Aliases {
        interface: String,
        /// First and last address of each range.
        runs: Vec<(IpAddr, IpAddr)>,
        /// Addresses that existed before, and stay.
        keep: Vec<IpAddr>,
    },
    /// Restore a kernel setting.
    Sysctl {
        path: PathBuf,
        /// Value before.
        before: String,
    },
    /// Remove AnyIP routes.
    LocalRoutes {
        /// Their prefixes.
        prefixes: Vec<IpNet>,
    },
    /// Remove the AnyIP route of the addresses that stand for `::1` of vnodes.
    LoopbackRoute { prefix: IpNet },
    /// Remove routes to other hosts.
    Routes {
        interface: String,
        /// Prefix and gateway.
        routes: Vec<(IpNet, IpAddr)>,
    },
    /// Remove the cgroups of vnodes' processes, and with them the programs
    /// attached there.
    Cgroup {
        /// Folder of the namespace below emu's.
        name: String,
    },
    /// Remove a folder of pinned maps.
    Pins { directory: PathBuf },
}

impl Undo {
    /// The interface that the step changes, if it is one that the load did not make.
    fn interface(&mut self) -> Option<&mut String> {
        match self {
            Undo::Mtu { interface, .. }
            | Undo::GsoMaxSegments { interface, .. }
            | Undo::LinkDown { interface }
            | Undo::RootQdisc { interface, .. }
            | Undo::Clsact { interface }
            | Undo::Filter { interface, .. }
            | Undo::PortFilter { interface }
            | Undo::Features { interface, .. }
            | Undo::Aliases { interface, .. }
            | Undo::Routes { interface, .. } => Some(interface),
            Undo::DeleteLink { .. }
            | Undo::Machines { .. }
            | Undo::Sysctl { .. }
            | Undo::LocalRoutes { .. }
            | Undo::LoopbackRoute { .. }
            | Undo::Cgroup { .. }
            | Undo::Pins { .. } => None,
        }
    }
}

/// A line of the journal: a step, and the index of its interface. An interface keeps its
/// index when it gets another name, and another interface may get its name.
#[derive(Serialize, Deserialize)]
struct JournalLine {
    #[serde(flatten)]
    step: Undo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
}

impl JournalLine {
    /// # Errors
    /// The kernel's error, except that there is no such interface.
    fn new(mut step: Undo) -> Result<Self, Errno> {
        let index = match step.interface().map(|name| if_nametoindex(name.as_str())) {
            None | Some(Err(Errno::ENODEV | Errno::ENXIO)) => None,
            Some(found) => Some(found?),
        };
        Ok(Self { step, index })
    }

    /// The step, with the name that its interface has now. No interface can have the name
    /// that stands for one that is gone.
    fn into_step(self, now: &BTreeMap<u32, String>) -> Undo {
        let Self { mut step, index } = self;
        if let (Some(index), Some(name)) = (index, step.interface()) {
            match now.get(&index) {
                Some(now) => name.clone_from(now),
                None => *name = format!("{name} (which was removed)"),
            }
        }
        step
    }
}

/// The names of all interfaces by their index.
///
/// # Errors
/// The kernel's error. (`if_indextoname` of nix returns an empty name after an error, as if the
/// interface were gone.)
fn interfaces() -> Result<BTreeMap<u32, String>, Errno> {
    let all = if_nameindex()?;
    let name = |i: &Interface| (i.index(), i.name().to_string_lossy().into_owned());
    Ok(all.iter().map(name).collect())
}

/// The content of a journal.
#[derive(Debug, Default)]
pub struct Content {
    /// The steps that could be read, in the order in which they were recorded.
    pub steps: Vec<Undo>,
    /// Whether lines could not be read.
    pub damaged: bool,
}

/// Parses a journal. A step follows its interface to the name that this has now.
///
/// # Errors
/// The kernel's error if it does not list the interfaces.
pub fn parse(bytes: &[u8]) -> Result<Content, Errno> {
    let mut content = Content::default();
    let now = interfaces()?;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match serde_json::from_slice::<JournalLine>(line) {
            Ok(line) => content.steps.push(line.into_step(&now)),
            // A line cut off by a kill belongs to a change that was not made.
            Err(_) if !line.ends_with(b"\n") => {}
            Err(_) => content.damaged |= !line.trim_ascii().is_empty(),
        }
    }
    Ok(content)
}

impl StateDir {
    /// Records how to undo the following change.
    ///
    /// # Errors
    /// [`StateError::File`]; the change must then not be made.
    pub fn record(&self, _lock: &WriterLock, undo: &Undo) -> Result<(), StateError> {
        tracing::debug!(?undo, "journal");
        self.make()?;
        let path = self.path.join(JOURNAL);
        let index = file_error("look up an interface for", &path);
        let line = JournalLine::new(undo.clone()).map_err(|errno| index(errno.into()))?;
        let mut line = serde_json::to_vec(&line).map_err(|e| StateError::Damaged {
            path: path.clone(),
            detail: e.to_string(),
        })?;
        line.push(b'\n');
        let mut file = private::open(&path).map_err(file_error("open", &path))?;
        // After a line that was cut off, a new one begins.
        if file.metadata().map_or(0, |m| m.len()) > 0 && !self.ends_whole(&path) {
            line.insert(0, b'\n');
        }
        file.write_all(&line)
            .map_err(file_error("append to", &path))
    }

    /// Whether the last line of the journal is complete.
    fn ends_whole(&self, path: &Path) -> bool {
        let mut last = [0];
        let read = fs::File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)
        });
        read.is_ok() && last == *b"\n"
    }

    /// The undo steps in the order in which they were recorded, with the names that the
    /// interfaces have now. Lines that cannot be read are passed over, see
    /// [`StateDir::damaged_journal`].
    pub fn journal(&self) -> Result<Vec<Undo>, StateError> {
        Ok(self.journal_content()?.steps)
    }

    fn journal_content(&self) -> Result<Content, StateError> {
        let path = self.path.join(JOURNAL);
        match fs::read(&path) {
            Ok(bytes) => parse(&bytes)
                .map_err(|errno| file_error("look up the interfaces of", &path)(errno.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Content::default()),
            // A folder, for example: there is no journal, and what stands there is kept.
            Err(e) if e.kind() == io::ErrorKind::IsADirectory => Ok(Content {
                damaged: true,
                ..Content::default()
            }),
            Err(e) => Err(file_error("read", &path)(e)),
        }
    }

    /// If the journal has lines that cannot be read: keeps a copy of it, and returns the
    /// path of the copy.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn damaged_journal(&self) -> Result<Option<PathBuf>, StateError> {
        if !self.journal_content()?.damaged {
            return Ok(None);
        }
        let path = self.path.join(JOURNAL);
        let kept = Path::new(ROOT).join(format!("{}.damaged.jsonl", self.name()));
        match fs::read(&path) {
            Ok(bytes) => {
                private::replace(&kept, &bytes).map_err(file_error("write", &kept))?;
            }
            Err(_) => {
                let _ = fs::remove_dir_all(&kept);
                fs::rename(&path, &kept).map_err(file_error("keep", &path))?;
            }
        }
        Ok(Some(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Content {
        parse(bytes).expect("names of interfaces")
    }

    #[test]
    fn the_readable_part_of_a_journal_is_used() {
        let step = |interface: &str| {
            let step = Undo::LinkDown {
                interface: interface.to_owned(),
            };
            serde_json::to_string(&step).expect("JSON")
        };
        let lo = |content: &Content| content.steps.len();
        let whole = format!("{}\n{}\n", step("lo"), step("a"));
        assert_eq!(
            (lo(&read(whole.as_bytes())), read(whole.as_bytes()).damaged),
            (2, false)
        );
        let cut = format!("{whole}{{\"undo\":\"li");
        assert_eq!(
            (lo(&read(cut.as_bytes())), read(cut.as_bytes()).damaged),
            (2, false)
        );
        for bad in [
            &b"{\"undo\":\"new-step\"}\n"[..],
            b"\xff\xfe\n",
            b"[]\n",
            b"\0\0\0\n",
        ] {
            let text = [step("lo").as_bytes(), b"\n", bad, whole.as_bytes()].concat();
            let content = read(&text);
            assert_eq!((lo(&content), content.damaged), (3, true), "{bad:?}");
        }
    }

    #[test]
    fn a_step_follows_its_interface() {
        let step = |index: u32| {
            let text =
                format!("{{\"undo\":\"link-down\",\"interface\":\"old0\",\"index\":{index}}}\n");
            read(text.as_bytes()).steps.remove(0)
        };
        let named = |interface: &str| Undo::LinkDown {
            interface: interface.to_owned(),
        };
        assert_eq!(step(1), named("lo"));
        assert_eq!(step(0x7fff_fff0), named("old0 (which was removed)"));
        let line =
            serde_json::to_string(&JournalLine::new(named("lo")).expect("lo")).expect("JSON");
        assert!(line.contains("\"index\":1"), "{line}");
    }
}
