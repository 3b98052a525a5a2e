//! `emu-cni`: a plugin of the Container Network Interface, specification 1.0.0, with which
//! podman, containerd, CRI-O and Kubernetes give a container the line of a machine.
//!
//! The engine runs the plugin with the configuration on standard input and the container in
//! environment variables, and reads the result, or an error, from standard output.
use std::{
    env,
    io::{Read, Write},
    net::IpAddr,
    process::ExitCode,
};

use emu_kernel::{
    machines::{Attachment, Attachments, hardware_address, router},
    netns::Netns,
    session::{Loaded, Session},
};
use emu_model::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json};

/// Versions of the specification whose results have the form of this plugin's.
const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];
/// Largest configuration in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// The network configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    cni_version: String,
    /// Network namespace in which the topology is loaded; default: where commands find it.
    netns: Option<String>,
    /// A machine: its address, or GROUP/INDEX.
    vnode: Option<String>,
    /// A group: its next machine without a container.
    group: Option<String>,
}

/// An error with its code, as the specification numbers them.
#[derive(Debug)]
pub struct Failure {
    /// From 1.
    pub code: u32,
    /// For people.
    pub text: String,
}

fn failure(code: u32, text: impl ToString) -> Failure {
    Failure {
        code,
        text: text.to_string(),
    }
}

const INCOMPATIBLE: u32 = 1;
const BAD_ENVIRONMENT: u32 = 4;
const BAD_INPUT: u32 = 6;
const BAD_CONFIG: u32 = 7;
/// The first code of plugins' own.
const FAILED: u32 = 100;

/// Runs the plugin; its exit code is 0, or 1 after an error.
pub fn main() -> ExitCode {
    let mut text = String::new();
    let read = std::io::stdin().take(MOST_BYTES).read_to_string(&mut text);
    let outcome = match read {
        Ok(_) => run(&text),
        Err(e) => Err(failure(BAD_INPUT, e)),
    };
    let version = version(&text);
    match outcome {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(result)) => answer(&result, ExitCode::SUCCESS),
        Err(Failure { code, text }) => {
            let error = json!({"cniVersion": version, "code": code, "msg": text});
            answer(&error, ExitCode::FAILURE)
        }
    }
}

/// Prints the answer; an engine that does not read it gets an error.
fn answer(value: &Value, code: ExitCode) -> ExitCode {
    match writeln!(std::io::stdout(), "{value:#}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The version of the configuration, for errors.
pub fn version(text: &str) -> String {
    let config: Option<Value> = serde_json::from_str(text).ok();
    let version = config.as_ref().and_then(|c| c["cniVersion"].as_str());
    // An engine gets an answer of a version that there is.
    let version = version.filter(|version| !version.is_empty());
    version.unwrap_or("1.0.0").to_owned()
}

fn variable(name: &str) -> Result<String, Failure> {
    env::var(name).map_err(|_| failure(BAD_ENVIRONMENT, format!("{name} is not set")))
}

fn run(text: &str) -> Result<Option<Value>, Failure> {
    let command = variable("CNI_COMMAND")?;
    if command == "VERSION" {
        let version = version(text);
        return Ok(Some(
            json!({"cniVersion": version, "supportedVersions": VERSIONS}),
        ));
    }
    let config = configuration(text, &env::var("CNI_ARGS").unwrap_or_default())?;
    let container = variable("CNI_CONTAINERID")?;
    let interface = variable("CNI_IFNAME")?;
    // Of the namespace that holds the topology, not of the container.
    enter(config.netns.as_deref())?;
    let to = |namespace: String| Attachment {
        holder: container.clone(),
        namespace: namespace.into(),
        interface: interface.clone(),
    };
    match command.as_str() {
        "ADD" => add(&config, to(variable("CNI_NETNS")?)).map(Some),
        "DEL" => delete(&container, &interface).map(|()| None),
        "CHECK" => check(&to(variable("CNI_NETNS")?)).map(|()| None),
        // Nothing is kept beyond what DEL removes.
        "GC" | "STATUS" => Ok(None),
        other => Err(failure(
            BAD_ENVIRONMENT,
            format!("CNI_COMMAND is {other:?}; this plugin has ADD, DEL, CHECK and VERSION"),
        )),
    }
}

/// Reads a configuration; `arguments` is `CNI_ARGS`.
///
/// # Errors
/// [`Failure`] if it is no configuration, or one of another version.
pub fn configuration(text: &str, arguments: &str) -> Result<Config, Failure> {
    let mut config: Config = serde_json::from_str(text).map_err(|e| failure(BAD_INPUT, e))?;
    if !VERSIONS.contains(&config.cni_version.as_str()) {
        return Err(failure(
            INCOMPATIBLE,
            format!(
                "cniVersion {:?}; this plugin has {}",
                config.cni_version,
                VERSIONS.join(", ")
            ),
        ));
    }
    override_by_arguments(&mut config, arguments);
    Ok(config)
}

/// `CNI_ARGS` may name the vnode or the group of one container: `EMU_VNODE=cable/0`.
fn override_by_arguments(config: &mut Config, arguments: &str) {
    for (key, value) in arguments.split(';').filter_map(|pair| pair.split_once('=')) {
        match key {
            "EMU_VNODE" => config.vnode = Some(value.to_owned()),
            "EMU_GROUP" => config.group = Some(value.to_owned()),
            _ => {}
        }
    }
}

fn enter(netns: Option<&str>) -> Result<(), Failure> {
    let found = match netns {
        Some(name) => Some(name.parse::<Netns>().map_err(|e| failure(BAD_CONFIG, e))?),
        None => Netns::of_load().map_err(|e| {
            let code = match e.kind() {
                ErrorKind::Usage => BAD_CONFIG,
                _ => FAILED,
            };
            failure(code, e)
        })?,
    };
    match found {
        Some(netns) => netns.enter().map_err(|e| failure(FAILED, e)),
        None => Ok(()),
    }
}

fn session() -> Result<Session, Failure> {
    Session::open().map_err(|e| failure(FAILED, e))
}

fn add(config: &Config, to: Attachment) -> Result<Value, Failure> {
    let loaded = Loaded::find().map_err(|e| failure(FAILED, e))?;
    let session = session()?;
    let vnode = match (&config.vnode, &config.group) {
        (Some(vnode), _) => loaded.vnode(vnode).map_err(|e| failure(BAD_CONFIG, e))?,
        (None, Some(group)) => {
            let free = session.free_machines(group);
            let free = free.map_err(|e| failure(FAILED, e))?;
            *free.first().ok_or_else(|| {
                let text = format!("no machine of the group {group:?} is without a container");
                failure(FAILED, text)
            })?
        }
        (None, None) => {
            let text = "the configuration has neither \"vnode\" nor \"group\"";
            return Err(failure(BAD_CONFIG, text));
        }
    };
    session
        .attach(vnode, to.clone())
        .map_err(|e| failure(FAILED, e))?;
    let index = loaded
        .plan
        .machines()
        .find(|(_, address)| *address == vnode);
    let mac = index.map_or_else(String::new, |(index, _)| hardware_address(index));
    let (bits, all) = match vnode {
        IpAddr::V4(_) => (32, "0.0.0.0/0"),
        IpAddr::V6(_) => (128, "::/0"),
    };
    let gateway = router(vnode);
    Ok(json!({
        "cniVersion": config.cni_version,
        "interfaces": [{"name": to.interface, "mac": mac, "sandbox": to.namespace}],
        "ips": [{"address": format!("{vnode}/{bits}"), "gateway": gateway, "interface": 0}],
        "routes": [{"dst": all, "gw": gateway}],
        "dns": {},
    }))
}

/// The machine of a container.
fn of(container: &str, interface: &str) -> Result<Option<(IpAddr, Attachment)>, Failure> {
    let all = Attachments::here().map_err(|e| failure(FAILED, e))?;
    let mut all = all.0.into_iter();
    Ok(all.find(|(_, to)| to.holder == container && to.interface == interface))
}

/// It is no error if there is nothing to delete: engines repeat it.
fn delete(container: &str, interface: &str) -> Result<(), Failure> {
    if !Loaded::is_here() {
        return Ok(());
    }
    let session = session()?;
    match of(container, interface)? {
        None => Ok(()),
        Some((vnode, _)) => session.detach(vnode).map_err(|e| failure(FAILED, e)),
    }
}

fn check(to: &Attachment) -> Result<(), Failure> {
    let found = of(&to.holder, &to.interface)?;
    let Some((vnode, _)) = found.filter(|(_, there)| there == to) else {
        let text = format!("{} has no vnode by {}", to.holder, to.interface);
        return Err(failure(FAILED, text));
    };
    let (_, missing) = Loaded::find_settled().map_err(|e| failure(FAILED, e))?;
    let own = format!("the machine {vnode}");
    match missing.into_iter().find(|what| what.contains(&own)) {
        Some(what) => Err(failure(FAILED, format!("{what} is missing"))),
        None => Ok(()),
    }
}
