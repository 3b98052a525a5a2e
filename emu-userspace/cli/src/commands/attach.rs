//! `emu attach` and `emu detach`.
use std::{path::PathBuf, process::Command};

use clap::Args;
use emu_kernel::{
    machines::Attachment,
    session::{Loaded, Session},
    user,
};
use serde_json::json;

use super::{OK, Outcome, error::failure, print, print_json};
use crate::commands::error::CommandError;

/// Programs that tell the process of a container by its name.
const ENGINES: [&str; 3] = ["docker", "podman", "nerdctl"];

/// Arguments of `emu attach`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  docker run -d --network none --name web nginx
  emu attach web servers/0            the container is now the vnode
  emu attach 4711 servers/1           so is the network namespace of a process
  emu detach servers/0                the line leads to the machine itself again

The container needs a network namespace of its own, without an interface eth0. Its line
ends with it; `emu load`, or an agent, then gives the line back to the machine.")]
pub(super) struct Attach {
    /// Name of a container of docker, podman or nerdctl, a process, or the path of a network
    /// namespace.
    container: String,
    /// The vnode, a machine: an address, or GROUP/INDEX.
    vnode: String,
    /// Name of the interface in the container.
    #[arg(long, default_value = "eth0", value_name = "NAME")]
    interface: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Arguments of `emu detach`.
#[derive(Args)]
#[command(after_help = "Example: emu detach servers/0")]
pub(super) struct Detach {
    /// The vnode: an address, or GROUP/INDEX.
    vnode: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Attach {
    pub(super) fn run(self) -> Outcome {
        if !user::is_root() {
            return Err(failure!("attach needs root: sudo emu attach …"));
        }
        let vnode = Loaded::find()?.vnode(&self.vnode)?;
        let to = Attachment {
            namespace: namespace(&self.container)?,
            holder: self.container,
            interface: self.interface,
        };
        let session = Session::open()?;
        session.attach(vnode, to.clone())?;
        if self.json {
            return print_json(&json!({"ok": true, "vnode": vnode, "attached": to}));
        }
        print(&format!(
            "{} is {vnode}, by its {}",
            to.holder, to.interface
        ))
    }
}

impl Detach {
    pub(super) fn run(self) -> Outcome {
        if !user::is_root() {
            return Err(failure!("detach needs root: sudo emu detach …"));
        }
        let vnode = Loaded::find()?.vnode(&self.vnode)?;
        Session::open()?.detach(vnode)?;
        if self.json {
            return print_json(&json!({"ok": true, "vnode": vnode}));
        }
        print(&format!("the line of {vnode} leads to its machine again"))?;
        Ok(OK)
    }
}

/// The network namespace that the user means.
fn namespace(container: &str) -> Result<PathBuf, CommandError> {
    if container.starts_with('/') {
        return Ok(container.into());
    }
    let process = match container.parse::<u32>() {
        Ok(process) => process,
        Err(_) => of_engine(container)?,
    };
    Ok(format!("/proc/{process}/ns/net").into())
}

/// The first process of a container, according to the engine that knows it.
fn of_engine(name: &str) -> Result<u32, CommandError> {
    let mut tried = Vec::new();
    for engine in ENGINES {
        let asked = Command::new(engine)
            .args([
                "inspect",
                "--type",
                "container",
                "--format",
                "{{.State.Pid}}",
                "--",
                name,
            ])
            .output();
        let Ok(output) = asked else { continue };
        tried.push(engine);
        if !output.status.success() {
            continue;
        }
        return match String::from_utf8_lossy(&output.stdout).trim().parse() {
            Ok(0) | Err(_) => Err(failure!("the container {name} of {engine} does not run")),
            Ok(process) => Ok(process),
        };
    }
    Err(match tried.as_slice() {
        [] => failure!(
            "{name} is no process and no path, and there is none of {} to ask for a container",
            ENGINES.join(", ")
        ),
        [one] => failure!("{one} knows no container {name}"),
        tried => failure!("none of {} knows a container {name}", tried.join(", ")),
    })
}
