//! Containers as vnodes: by `emu attach`, and by the CNI plugin as engines run it.
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use integration::{
    command::{TopologyFile, emu, emu_command, emu_json, emu_path, run, try_emu, try_run},
    netns::{Host, isolated},
};
use serde_json::{Value, json};

const TOPOLOGY: &str = "
version: 1
seed: 3
kind: machine
groups:
  a: {prefix: 10.1.0.0/24, nodes: 2, up: 10mbit, down: 10mbit, latency: 10ms}
  b: {prefix: 10.2.0.0/24, nodes: 2, up: 10mbit, down: 10mbit, latency: 10ms}
  p: {prefix: 10.3.0.0/24, kind: process, nodes: 1, latency: 1ms}
latencies:
  - {between: [a, b], latency: 30ms}
";

fn loaded() -> TopologyFile {
    let file = TopologyFile::new(TOPOLOGY);
    emu(&format!("load {} --no-verify --netns lab", file.path()));
    file
}

/// Removes the namespace of [`loaded`] also after a failure.
struct Lab;

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = try_emu("unload --kill --netns lab");
    }
}

/// The round trip of one ping in milliseconds.
fn rtt_ms(from: &str, to: &str) -> f64 {
    let said = emu(&format!("exec {from} -- ping -n -c 1 -W 2 {to}"));
    let time = said.split("time=").nth(1).and_then(|t| t.split(' ').next());
    time.unwrap_or_else(|| panic!("{said}")).parse().unwrap()
}

/// Two groups apart: 84 bytes on 10 Mbit/s four times, and 100 ms.
fn assert_is_vnode(to: &str) {
    let rtt = rtt_ms("a/0", to);
    assert!((rtt - 100.3).abs() < 1.5, "{rtt}");
}

/// A namespace, as an engine makes it for a container, becomes a vnode, and its end gives the
/// line back.
#[test]
fn a_namespace_that_is_attached_is_the_vnode() {
    isolated(|| {
        let _lab = Lab;
        let file = loaded();
        {
            let container = Host::new("attached");
            let path = format!("/run/netns/{}", container.name());
            let told = emu(&format!("attach {path} b/1"));
            assert!(told.contains("is 10.2.0.2, by its eth0"), "{told}");
            assert_is_vnode("10.2.0.2");
            let inside = run(&format!("ip -n {} -o addr show dev eth0", container.name()));
            assert!(inside.contains("10.2.0.2/32"), "{inside}");
            let ping = format!(
                "ip netns exec {} ping -n -c 1 -W 2 10.1.0.1",
                container.name()
            );
            assert!(run(&ping).contains("1 received"));
            // The machine itself is without a line meanwhile.
            let own = emu("exec b/1 -- ip -br link");
            assert!(!own.contains("eth0"), "{own}");
            emu("detach b/1");
            assert_is_vnode("10.2.0.2");
            let own = emu("exec b/1 -- ip -br link");
            assert!(own.contains("eth0"), "{own}");
            emu(&format!("attach {path} b/1 --interface net1"));
            assert_is_vnode("10.2.0.2");
        }
        // The container is gone, and its end of the line with it.
        integration::wait_for("the end of the line", || {
            let status = try_emu("status --json");
            let text = String::from_utf8_lossy(&status.stdout).into_owned();
            text.contains("of the machine 10.2.0.2").then_some(())
        });
        let told = emu(&format!("load {} --no-verify --netns lab", file.path()));
        assert!(told.contains("put back: the port"), "{told}");
        assert_is_vnode("10.2.0.2");
        assert_eq!(emu_json("status")["ok"], true);
    });
}

#[test]
fn what_cannot_be_attached_is_refused_with_the_reason() {
    isolated(|| {
        let _lab = Lab;
        let _file = loaded();
        for (arguments, reason) in [
            ("/run/netns/none b/0", "No such file"),
            ("/etc/passwd b/0", "Invalid argument"),
            ("/proc/self/ns/mnt b/0", "Invalid argument"),
            (
                "/proc/self/ns/net b/0 --interface lo",
                "there is an interface lo already",
            ),
            ("99999999 b/0", "No such file"),
            ("/proc/self/ns/net p/0", "kind: machine"),
            ("/proc/self/ns/net c/0", "no vnode"),
            ("no-such-container b/0", "no-such-container"),
        ] {
            let refused = try_emu(&format!("attach {arguments}"));
            let text = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(1), "{arguments}: {text}");
            assert!(text.contains(reason), "{arguments}: {text}");
        }
        assert_is_vnode("10.2.0.1");
    });
}

/// Runs the plugin as an engine does.
fn cni(command: &str, container: &str, config: &Value, arguments: &str) -> (bool, Value) {
    let plugin = emu_path().with_file_name("emu-cni");
    let mut child = Command::new(&plugin)
        .env_clear()
        .envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", arguments),
            ("CNI_PATH", "/opt/cni/bin"),
        ])
        .env("CNI_NETNS", format!("/run/netns/{container}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", plugin.display()));
    let text = config.to_string();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = serde_json::from_str(&said).unwrap_or(Value::Null);
    (output.status.success(), value)
}

/// The operations of the specification, with results and errors in its form.
#[test]
fn the_plugin_follows_the_specification() {
    isolated(|| {
        let _lab = Lab;
        let _file = loaded();
        let config = json!({"cniVersion": "1.0.0", "name": "emu", "type": "emu-cni", "group": "b"});
        let (good, version) = cni("VERSION", "x", &json!({"cniVersion": "1.0.0"}), "");
        assert!(good);
        let versions = version["supportedVersions"].as_array().unwrap();
        assert!(versions.contains(&json!("1.0.0")), "{version}");

        let containers = ["one", "two", "three"].map(Host::new);
        let names: Vec<&str> = containers.iter().map(Host::name).collect();
        let (good, first) = cni("ADD", names[0], &config, "");
        assert!(good, "{first}");
        assert_eq!(first["cniVersion"], "1.0.0");
        assert_eq!(first["ips"][0]["address"], "10.2.0.1/32");
        assert_eq!(first["ips"][0]["gateway"], "169.254.1.1");
        assert_eq!(first["interfaces"][0]["name"], "eth0");
        let sandbox = format!("/run/netns/{}", names[0]);
        assert_eq!(first["interfaces"][0]["sandbox"], sandbox);
        let link = run(&format!("ip -n {} link show eth0", names[0]));
        assert!(
            link.contains(first["interfaces"][0]["mac"].as_str().unwrap()),
            "{link}"
        );
        assert_is_vnode("10.2.0.1");
        // The next free machine; then there is none; then one by name.
        let (_, second) = cni("ADD", names[1], &config, "");
        assert_eq!(second["ips"][0]["address"], "10.2.0.2/32");
        let (good, error) = cni("ADD", names[2], &config, "");
        assert!(!good && error["code"].as_u64().unwrap() >= 100, "{error}");
        assert!(error["msg"].as_str().unwrap().contains("\"b\""), "{error}");
        let (_, third) = cni("ADD", names[2], &config, "IgnoreUnknown=1;EMU_VNODE=a/1");
        assert_eq!(third["ips"][0]["address"], "10.1.0.2/32");
        for name in &names {
            assert!(cni("CHECK", name, &config, "").0, "{name}");
        }
        // The same container may be deleted twice, and one that never was.
        for name in [names[0], names[0], "never"] {
            assert!(cni("DEL", name, &config, "").0, "{name}");
        }
        assert!(!cni("CHECK", names[0], &config, "").0);
        let (_, again) = cni("ADD", names[0], &config, "");
        assert_eq!(again["ips"][0]["address"], "10.2.0.1/32");
        // Errors have the codes of the specification.
        for (config, code) in [
            (json!({"cniVersion": "0.1.0", "group": "b"}), 1),
            (json!({"cniVersion": "1.0.0"}), 7),
            (json!({"cniVersion": "1.0.0", "vnode": "c/9"}), 7),
            (json!([1]), 6),
        ] {
            let (good, error) = cni("ADD", "new", &config, "");
            assert!(!good && error["code"] == code, "{config}: {error}");
        }
        let (_, error) = cni("MOVE", "new", &config, "");
        assert_eq!(error["code"], 4, "{error}");
    });
}

/// podman as Debian packages it, with a configuration of its own.
struct Podman {
    folder: tempfile::TempDir,
}

impl Podman {
    fn new() -> Option<Self> {
        if !try_run("podman --version").status.success() {
            println!("SKIPPED: there is no podman");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let here = |name: &str| folder.path().join(name);
        let which = |name: &str| PathBuf::from(run(&format!("which {name}")).trim());
        for name in ["cni", "plugins", "root"] {
            fs::create_dir(here(name)).unwrap();
        }
        for name in [
            "bin", "proc", "sys", "dev", "etc", "tmp", "usr", "lib", "lib64",
        ] {
            fs::create_dir(here("root").join(name)).unwrap();
        }
        std::os::unix::fs::symlink(
            emu_path().with_file_name("emu-cni"),
            here("plugins").join("emu-cni"),
        )
        .unwrap();
        // The engine starts it with an empty environment.
        let libraries = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        let crun = here("crun");
        let script = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {} \"$@\"\n",
            which("crun").display()
        );
        fs::write(&crun, script).unwrap();
        fs::set_permissions(&crun, fs::Permissions::from_mode(0o755)).unwrap();
        let settings = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
             conmon_path = [{conmon:?}]\nruntime = \"crun\"\n\
             [engine.runtimes]\ncrun = [{crun:?}]\n\
             [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{plugins:?}]\n\
             network_config_dir = {networks:?}\ndefault_network = \"emu\"\n\
             [containers]\ncgroups = \"disabled\"\n",
            conmon = which("conmon"),
            plugins = here("plugins"),
            networks = here("cni"),
        );
        fs::write(here("containers.conf"), settings).unwrap();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = {:?}\ngraphroot = {:?}\n",
            here("run"),
            here("graph")
        );
        fs::write(here("storage.conf"), storage).unwrap();
        let network = json!({
            "cniVersion": "0.4.0", "name": "emu",
            "plugins": [{"type": "emu-cni", "group": "b", "netns": "lab"}],
        });
        fs::write(here("cni/emu.conflist"), network.to_string()).unwrap();
        Some(Self { folder })
    }

    fn call(&self, arguments: &str) -> Output {
        self.configured(Command::new("podman").args(arguments.split_whitespace()))
    }

    /// Runs a command that calls podman with the configuration.
    fn configured(&self, command: &mut Command) -> Output {
        let here = |name: &str| self.folder.path().join(name);
        command
            .env("CONTAINERS_CONF", here("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", here("storage.conf"))
            .env("HOME", self.folder.path())
            .output()
            .unwrap()
    }

    fn good(&self, arguments: &str) -> String {
        let output = self.call(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "podman {arguments}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a container with the system's own programs.
    fn start(&self, name: &str, network: &str) {
        let root = self.folder.path().join("root");
        self.good(&format!(
            "run -d --name {name} --network {network} --security-opt seccomp=unconfined \
             -v /usr:/usr -v /lib:/lib -v /lib64:/lib64 -v /bin:/bin --rootfs {} \
             /bin/sleep 1000",
            root.display()
        ));
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.call("rm -f -t 0 one two");
    }
}

/// A container of podman: by its network of type emu-cni, and by `emu attach`.
#[test]
fn containers_of_podman_are_vnodes() {
    isolated(|| {
        let _lab = Lab;
        let _file = loaded();
        let Some(podman) = Podman::new() else { return };
        podman.start("one", "emu");
        let inside = podman.good("exec one ip -o -4 addr show dev eth0");
        assert!(inside.contains("10.2.0.1/32"), "{inside}");
        assert_is_vnode("10.2.0.1");
        podman.start("two", "none");
        let attached = podman.configured(&mut emu_command("attach two b/1"));
        assert!(attached.status.success(), "{attached:?}");
        assert_is_vnode("10.2.0.2");
        // From one container to the other: a group of its own, 40 ms apart.
        let said = podman.good("exec one ping -n -c 1 -W 2 10.2.0.2");
        assert!(
            said.contains("1 received") && said.contains("time=40."),
            "{said}"
        );
        podman.good("rm -f -t 0 one");
        // The plugin gave the line back to the machine.
        assert_eq!(emu_json("status")["ok"], true);
        assert_is_vnode("10.2.0.1");
    });
}
