//! Hosts with an sshd each: namespaces on a bridge, and their own keys.
use std::{
    env,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use integration::{
    command::run,
    netns::{Host, bridged_hosts, isolated},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::sethostname,
};

/// Variable with the folder of sshd's and clush's files, set by the tool that starts the
/// tests.
const VARIABLE: &str = "EMU_SSH";
/// Address of the machine from which ssh and clush connect.
const HOME: &str = "192.0.2.254";
/// Timeout for all hosts to answer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A site with the hosts `node1` and following.
pub struct Site {
    root: PathBuf,
    folder: tempfile::TempDir,
    count: usize,
    daemons: Vec<Child>,
    _hosts: Vec<Host>,
}

/// Runs a test with a site of `count` hosts, in namespaces of its own. Without sshd the
/// test is skipped with a message.
pub fn with_site(test: &str, count: usize, work: impl FnOnce(&Site) + Send + 'static) {
    let Some(root) = env::var_os(VARIABLE).map(PathBuf::from) else {
        println!("SKIPPED {test}: no {VARIABLE}, which `cargo xtask test` sets");
        return;
    };
    isolated(move || {
        let begin = Instant::now();
        let site = Site::new(&root, count);
        println!(
            "{count} hosts answer by ssh after {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        work(&site);
    });
}

impl Site {
    fn new(root: &Path, count: usize) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("emu-ssh-")
            .tempdir_in("/run")
            .unwrap();
        let hosts = bridged_hosts("ssh", count);
        run(&format!("ip addr add {HOME}/24 dev emu-br"));
        let mut site = Self {
            root: root.to_owned(),
            folder,
            count,
            daemons: Vec::new(),
            _hosts: Vec::new(),
        };
        site.configure();
        site.daemons = (1..=count)
            .map(|number| site.sshd(&hosts[number - 1], number))
            .collect();
        site._hosts = hosts;
        site.wait_ready();
        site
    }

    /// Path of a file in the folder that all hosts share.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Writes a shared file and returns its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Reads a shared file.
    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Writes keys and the configuration of ssh and sshd.
    fn configure(&self) {
        for name in ["key", "host_key"] {
            let path = self.path(name);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &path])
                .status();
            assert!(made.unwrap().success(), "{path}");
        }
        fs::copy(self.path("key.pub"), self.path("authorized_keys")).unwrap();
        let folder = self.folder.path().display();
        self.write(
            "sshd_config",
            &format!(
                "HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n\
                 PermitRootLogin prohibit-password\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n\
                 MaxStartups 64\n"
            ),
        );
        let hosts: String = (1..=self.count)
            .map(|n| format!("Host node{n}\n  HostName 192.0.2.{n}\n"))
            .collect();
        let options = "Host *\n  User root\n  BatchMode yes\n  LogLevel ERROR\n  \
                       StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n";
        self.write(
            "ssh_config",
            &format!("{hosts}{options}  IdentityFile {folder}/key\n"),
        );
        // sshd drops root privileges to a user that may be missing on this machine; and the
        // start-up files of root's own shell take seconds in a VM.
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let others = passwd
            .lines()
            .filter(|line| !line.starts_with("root:") && !line.starts_with("sshd:"));
        let ours = [
            "root:x:0:0:root:/root:/bin/sh",
            "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin",
        ];
        let users: Vec<&str> = ours.into_iter().chain(others).collect();
        self.write("passwd", &(users.join("\n") + "\n"));
        fs::create_dir_all("/run/sshd").unwrap();
        fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Path of a program in the unpacked packages, or else on this machine.
    fn program(&self, name: &str) -> PathBuf {
        let unpacked = ["usr/sbin", "usr/bin"].map(|folder| self.root.join(folder).join(name));
        unpacked
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| name.into())
    }

    fn libraries(&self) -> String {
        let folders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let paths = folders.map(|folder| self.root.join(folder));
        env::join_paths(paths).unwrap().into_string().unwrap()
    }

    /// Starts the sshd of a host: with the host's network, a name of its own, and a user
    /// list that contains sshd's user.
    fn sshd(&self, host: &Host, number: usize) -> Child {
        let (passwd, log) = (
            self.path("passwd"),
            self.path(&format!("sshd-{number}.log")),
        );
        let mut command = Command::new(self.program("sshd"));
        command
            .env("LD_LIBRARY_PATH", self.libraries())
            .args(["-D", "-e", "-f", &self.path("sshd_config")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log).unwrap());
        host.enter(move || {
            unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS).unwrap();
            sethostname(format!("node{number}")).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).unwrap();
            mount(
                Some(passwd.as_str()),
                "/etc/passwd",
                none,
                MsFlags::MS_BIND,
                none,
            )
            .unwrap();
            command
                .spawn()
                .unwrap_or_else(|e| panic!("{command:?}: {e}"))
        })
    }

    fn wait_ready(&self) {
        let begin = Instant::now();
        for number in 1..=self.count {
            loop {
                let output = self.ssh(number, "hostname").wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                if said.trim() == format!("node{number}") {
                    break;
                }
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                let log = self.read(&format!("sshd-{number}.log"));
                assert!(
                    begin.elapsed() < READY_TIMEOUT,
                    "node{number}: {said}{error}\n{log}"
                );
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// Starts a command on a host.
    pub fn ssh(&self, number: usize, line: &str) -> Child {
        Command::new("ssh")
            .args([
                "-F",
                &self.path("ssh_config"),
                &format!("node{number}"),
                line,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a command on all hosts to completion; it must succeed. Returns the output, with
    /// each line behind the host's name.
    pub fn clush(&self, line: &str) -> String {
        let modules = self.root.join("usr/lib/python3/dist-packages");
        let output = Command::new("/usr/bin/python3")
            .arg(self.program("clush"))
            .env("PYTHONPATH", modules)
            .args(["-S", "-o", &format!("-F {}", self.path("ssh_config"))])
            .args(["-w", &format!("node[1-{}]", self.count), line])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "clush {line}: {said}{error}");
        said
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
