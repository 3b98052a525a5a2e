//! Servers of Debian start in several vnodes at a time with the settings of their packages.
use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use integration::{command::emu_command, netns::isolated};

use crate::exec::{TOPOLOGY, as_vnode, at};
use integration::command::{TopologyFile, emu};

const VNODES: [&str; 3] = ["10.1.0.7", "10.1.0.8", "fd10::7"];
/// Time for a server to listen, on a slow machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A program on the search path, and the folder `/` that its package was unpacked to.
fn installed(name: &str) -> Option<(PathBuf, PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name));
    let Some(program) = found.into_iter().find(|program| program.is_file()) else {
        println!("SKIPPED {name}: not on the search path (`cargo xtask test` unpacks it)");
        return None;
    };
    let root = program.ancestors().nth(3).unwrap().to_owned();
    Some((program, root))
}

/// A server that runs as a vnode; killed on drop.
struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    fn start(vnode: &str, folder: &Path, argv: &[&str]) -> Self {
        let log = folder.join("log");
        let file = fs::File::create(&log).unwrap();
        let child = emu_command(&format!("exec {vnode} --"))
            .args(argv)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Waits until the server answers at an address.
    fn wait(&mut self, address: &str) {
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = self.child.try_wait().unwrap();
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            assert!(ended.is_none(), "{address}: {log}");
            assert!(begin.elapsed() < START_TIMEOUT, "{address}: {log}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server in each vnode, while those before it run, and waits until it answers at the
/// vnode's address and, if it listens there, on loopback as its programs see it.
fn in_each_vnode(port: u16, vnodes: &[&str], argv: impl Fn(&Path) -> Vec<String> + Send + 'static) {
    let vnodes: Vec<String> = vnodes.iter().map(|v| (*v).to_owned()).collect();
    isolated(move || {
        let file = TopologyFile::new(TOPOLOGY);
        file.load();
        let folder = tempfile::tempdir().unwrap();
        let mut servers = Vec::new();
        for (i, vnode) in vnodes.iter().enumerate() {
            let place = folder.path().join(i.to_string());
            fs::create_dir(&place).unwrap();
            let argv = argv(&place);
            let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
            let mut server = Server::start(vnode, &place, &argv);
            server.wait(&at(vnode, port));
            servers.push(server);
        }
        drop(servers);
        emu("unload --kill");
    });
}

/// `listen 80 default_server` and `listen [::]:80 default_server`, of which nginx makes a socket
/// for IPv6 alone.
#[test]
fn nginx_starts_as_debian_configures_it() {
    let Some((nginx, root)) = installed("nginx") else {
        return;
    };
    let site = root.join("etc/nginx/sites-available/default");
    let site = fs::read_to_string(site).unwrap();
    let listen: Vec<&str> = site
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("listen "))
        .collect();
    assert!(listen.iter().any(|l| l.contains("[::]:80")), "{listen:?}");
    let listen = listen.join("\n");
    in_each_vnode(80, &VNODES, move |folder| {
        let place = folder.display();
        let text = format!(
            "daemon off; pid {place}/pid; error_log {place}/error;\nevents {{}}\nhttp {{\n\
             access_log off; client_body_temp_path {place}/b; proxy_temp_path {place}/p;\n\
             fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
             server {{\n{listen}\nreturn 200;\n}}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).unwrap();
        [nginx.to_str().unwrap(), "-c", file.to_str().unwrap()]
            .map(str::to_owned)
            .to_vec()
    });
}

/// `bind * -::*`.
#[test]
fn redis_starts_with_its_defaults() {
    let Some((redis, _)) = installed("redis-server") else {
        return;
    };
    in_each_vnode(6379, &VNODES, move |folder| {
        let place = folder.display().to_string();
        let argv = [
            redis.to_str().unwrap(),
            "--protected-mode",
            "no",
            "--dir",
            &place,
        ];
        argv.map(str::to_owned).to_vec()
    });
}

/// `bind 127.0.0.1 -::1`, as in Debian's file: each vnode's client reaches its own server.
#[test]
fn redis_on_loopback_is_one_for_each_vnode() {
    let (Some((redis, root)), Some((client, _))) =
        (installed("redis-server"), installed("redis-cli"))
    else {
        return;
    };
    let config = fs::read_to_string(root.join("etc/redis/redis.conf")).unwrap();
    let bind = config.lines().find(|l| l.starts_with("bind "));
    let bind = bind.unwrap().to_owned();
    assert_eq!(bind, "bind 127.0.0.1 -::1");
    isolated(move || {
        let file = TopologyFile::new(TOPOLOGY);
        file.load();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("redis.conf");
        fs::write(&config, format!("{bind}\nsave \"\"\n")).unwrap();
        let argv = [redis.to_str().unwrap(), config.to_str().unwrap()];
        let servers = VNODES.map(|vnode| Server::start(vnode, folder.path(), &argv));
        let ask = |vnode: &str, address: &str, command: &[&str]| {
            let begin = Instant::now();
            loop {
                let argv = [&[client.to_str().unwrap(), "-h", address], command].concat();
                let output = as_vnode(vnode, &argv);
                if output.status.success() {
                    return String::from_utf8(output.stdout).unwrap().trim().to_owned();
                }
                assert!(begin.elapsed() < START_TIMEOUT, "{output:?}");
                thread::sleep(Duration::from_millis(50));
            }
        };
        for vnode in VNODES {
            assert_eq!(ask(vnode, "127.0.0.1", &["set", "vnode", vnode]), "OK");
        }
        for vnode in VNODES {
            assert_eq!(ask(vnode, "127.0.0.1", &["get", "vnode"]), vnode);
            assert_eq!(ask(vnode, "::1", &["get", "vnode"]), vnode);
        }
        drop(servers);
        emu("unload --kill");
    });
}

/// A plain `ORPort`, which Tor opens for IPv4 and for IPv6 alone.
#[test]
fn tor_starts_with_a_plain_port() {
    let Some((tor, _)) = installed("tor") else {
        return;
    };
    in_each_vnode(9001, &VNODES[..2], move |folder| {
        let place = folder.display();
        let file = folder.join("torrc");
        let text = format!(
            "DataDirectory {place}/data\nORPort 9001\nSocksPort 9050\nNickname emu\n\
             ExitRelay 0\nAssumeReachable 1\nPublishServerDescriptor 0\n\
             TestingTorNetwork 0\nAddress 192.0.2.1\n"
        );
        fs::write(&file, text).unwrap();
        let none = folder.join("none");
        let argv = [
            tor.to_str().unwrap(),
            "-f",
            file.to_str().unwrap(),
            "--defaults-torrc",
            none.to_str().unwrap(),
            "--ignore-missing-torrc",
        ];
        argv.map(str::to_owned).to_vec()
    });
}
