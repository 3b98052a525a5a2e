//! A Slurm cluster of network namespaces, with the configuration that an administrator
//! would write, set up in a few seconds.
use std::{
    env,
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use integration::{
    command::{emu, run},
    netns::{Host, isolated},
};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Variable with the folder of Slurm's files, set by the tool that starts the tests.
const VARIABLE: &str = "EMU_SLURM";
/// Address of the controller; nodes have 192.0.2.1 and following.
const CONTROLLER: &str = "192.0.2.254";
/// Timeout for all nodes to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a test with a cluster of N nodes, in namespaces of its own. Without Slurm the test
/// is skipped with a message.
pub fn with_cluster(test: &str, nodes: usize, work: impl FnOnce(&mut Cluster) + Send + 'static) {
    let Some(root) = env::var_os(VARIABLE).map(PathBuf::from) else {
        println!("SKIPPED {test}: no {VARIABLE}, which `cargo xtask test-slurm` sets");
        return;
    };
    isolated(move || {
        let start = Instant::now();
        let mut cluster = Cluster::new(&root, nodes);
        println!(
            "a controller and {nodes} nodes: ready after {:.1} s",
            start.elapsed().as_secs_f64()
        );
        work(&mut cluster);
        // A node without power leaves what it had loaded.
        drop(cluster);
        emu("unload --stale");
    });
}

/// A daemon of the cluster; killed on drop.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A controller and its nodes, with their daemons.
pub struct Cluster {
    slurm: Slurm,
    nodes: Vec<Host>,
    slurmds: Vec<Option<Daemon>>,
    controllers: Vec<Daemon>,
}

/// Slurm's programs and this cluster's folder.
struct Slurm {
    root: PathBuf,
    libraries: PathBuf,
    folder: tempfile::TempDir,
}

impl Slurm {
    fn new(root: &Path) -> Self {
        let libraries = fs::read_dir(root.join("usr/lib")).unwrap().flatten();
        let libraries = libraries.map(|entry| entry.path());
        let libraries = libraries
            .into_iter()
            .find(|path| path.join("slurm-wlm").exists() || path.join("slurm").exists())
            .expect("Slurm's libraries");
        Self {
            root: root.to_owned(),
            libraries,
            folder: tempfile::Builder::new()
                .prefix("emu-slurm-")
                .tempdir_in("/run")
                .unwrap(),
        }
    }

    fn plugins(&self) -> PathBuf {
        let debian = self.libraries.join("slurm-wlm");
        if debian.exists() {
            debian
        } else {
            self.libraries.join("slurm")
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Path of a daemon; Debian's Slurm 22 appends a suffix to the names.
    fn daemon(&self, name: &str) -> PathBuf {
        let folder = self.root.join("usr/sbin");
        let debian = folder.join(format!("{name}-wlm"));
        if debian.exists() {
            debian
        } else {
            folder.join(name)
        }
    }

    /// A command whose environment selects Slurm's programs, libraries and this
    /// configuration.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let folders = [self.root.join("usr/bin"), self.root.join("usr/sbin")];
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(folders.into_iter().chain(env::split_paths(&path))).unwrap();
        let libraries = env::join_paths([&self.libraries, &self.plugins()]).unwrap();
        command
            .env("PATH", path)
            .env("LD_LIBRARY_PATH", libraries)
            .env("SLURM_CONF", self.path("slurm.conf"))
            .stdin(Stdio::null());
        command
    }

    fn spawn(&self, log: &str, mut command: Command) -> Daemon {
        let log = File::create(self.path(log)).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Daemon(
            command
                .spawn()
                .unwrap_or_else(|e| panic!("{command:?}: {e}")),
        )
    }

    fn configure(&self, nodes: usize) {
        let folder = self.folder.path().display();
        let last = nodes - 1;
        let text = format!(
            "ClusterName=emu
SlurmctldHost=controller({CONTROLLER})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
PluginDir={}
PlugStackConfig={folder}/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/linear
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=30
ReturnToService=2
NodeName=h[0-{last}] NodeAddr=192.0.2.[1-{nodes}] CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
",
            self.plugins().display()
        );
        fs::write(self.path("slurm.conf"), text).unwrap();
        fs::write(self.path("plugstack.conf"), "").unwrap();
        fs::create_dir(self.path("state")).unwrap();
    }

    fn munged(&self) -> Daemon {
        let mut key = vec![0; 64];
        File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut key)
            .unwrap();
        let path = self.path("munge.key");
        fs::write(&path, key).unwrap();
        run(&format!("chmod 600 {path}"));
        // The folder of munge's socket must be accessible to all users.
        run(&format!("chmod 755 {}", self.folder.path().display()));
        let mut command = self.command(self.root.join("usr/sbin/munged"));
        command.args(["--foreground", "--num-threads=2"]);
        for (option, file) in [
            ("socket", "munge.sock"),
            ("key-file", "munge.key"),
            ("pid-file", "munged.pid"),
            ("log-file", "munged.log"),
            ("seed-file", "munged.seed"),
        ] {
            command.arg(format!("--{option}={}", self.path(file)));
        }
        self.spawn("munged.out", command)
    }
}

/// Gives the calling thread and its children a host name of their own.
fn be_called(name: &str) {
    unshare(CloneFlags::CLONE_NEWUTS).unwrap();
    nix::unistd::sethostname(name).unwrap();
}

impl Cluster {
    fn new(root: &Path, count: usize) -> Self {
        let slurm = Slurm::new(root);
        be_called("controller");
        run("ip link add bridge0 type bridge");
        run(&format!("ip addr add {CONTROLLER}/24 dev bridge0"));
        run("ip link set bridge0 up");
        let nodes: Vec<Host> = (0..count).map(node).collect();
        slurm.configure(count);
        let munged = slurm.munged();
        let mut controller = slurm.command(slurm.daemon("slurmctld"));
        controller.arg("-D");
        let controller = slurm.spawn("slurmctld.log", controller);
        let mut cluster = Self {
            slurm,
            nodes,
            slurmds: Vec::new(),
            controllers: vec![controller, munged],
        };
        cluster.slurmds = (0..count).map(|n| Some(cluster.slurmd(n))).collect();
        cluster.wait_ready(count);
        cluster
    }

    /// Starts the daemon of a node in the node's namespaces.
    fn slurmd(&self, node: usize) -> Daemon {
        let name = format!("h{node}");
        let _ = fs::create_dir(self.slurm.path(&format!("spool-{name}")));
        let mut command = self.slurm.command(self.slurm.daemon("slurmd"));
        command.args(["-D", "-N", &name, "-d"]);
        command.arg(self.slurm.daemon("slurmstepd"));
        let log = File::create(self.slurm.path(&format!("slurmd-{name}.log"))).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.nodes[node].enter(move || {
            be_called(&name);
            Daemon(
                command
                    .spawn()
                    .unwrap_or_else(|e| panic!("{command:?}: {e}")),
            )
        })
    }

    fn wait_ready(&self, count: usize) {
        let start = Instant::now();
        loop {
            let idle = self.output("sinfo", &["-h", "-t", "idle", "-o", "%D"]);
            if idle.trim() == count.to_string() {
                return;
            }
            if start.elapsed() > READY_TIMEOUT {
                let sinfo = self.output("sinfo", &["-R", "-N", "-l"]);
                panic!("the nodes are not ready: {idle}\n{sinfo}\n{}", self.logs());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Log text of all daemons, for a failing test.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let mut paths: Vec<PathBuf> = fs::read_dir(self.slurm.folder.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .collect();
        paths.sort();
        for path in paths {
            let log = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            text += &format!("{}:\n{tail}\n", path.display());
        }
        text
    }

    /// A command of Slurm that has not been started: `srun`, `sbatch`.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.slurm.command(program);
        command.args(arguments);
        command
    }

    /// Standard output of a Slurm command, whatever its exit status.
    pub fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command on every node to completion; it must succeed.
    pub fn run_on_all(&self, argv: &[&str]) -> String {
        let count = self.nodes.len().to_string();
        let mut command = self.command("srun", &["-N", &count]);
        let output = command.args(argv).output().unwrap();
        assert!(
            output.status.success(),
            "srun {argv:?}: {}\n{}{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.logs()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A process on a node.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub line: String,
}

impl Cluster {
    /// The processes in a node's network namespace.
    pub fn processes(&self, node: usize) -> Vec<Process> {
        let inode = |path: &Path| fs::metadata(path).ok().map(|m| m.ino());
        let own = inode(&Path::new("/run/netns").join(self.nodes[node].name()));
        assert!(own.is_some(), "no namespace of node {node}");
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let numbers = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        numbers
            .filter(|pid| inode(Path::new(&format!("/proc/{pid}/ns/net"))) == own)
            .map(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                Process { pid, line }
            })
            .collect()
    }

    /// The processes of a node whose command line contains a text.
    pub fn named(&self, node: usize, text: &str) -> Vec<Process> {
        let mut found = self.processes(node);
        found.retain(|p| p.line.contains(text));
        found
    }

    /// Kills a process by its PID.
    pub fn kill(&self, process: &Process) {
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }

    /// Kills only the Slurm daemon of a node.
    pub fn kill_slurmd(&mut self, node: usize) {
        self.slurmds[node] = None;
    }

    /// Simulates a power failure of a node: kills all its processes and takes its link
    /// down.
    pub fn power_off(&mut self, node: usize) {
        run(&format!("ip link set node{node} down"));
        self.slurmds[node] = None;
        while let found @ [_, ..] = &self.processes(node)[..] {
            found.iter().for_each(|process| self.kill(process));
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a closure in a node's network namespace.
    pub fn on<T: Send + 'static>(
        &self,
        node: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.nodes[node].enter(work)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Jobs are cancelled first, because their steps are not children of this process.
        let _ = self
            .command("scancel", &["--signal=KILL", "--user=root"])
            .output();
        self.slurmds.clear();
        self.controllers.clear();
    }
}

/// Creates a node's namespace, with `eth0` on the bridge.
fn node(number: usize) -> Host {
    let host = Host::new(&format!("slurm{number}"));
    let (name, peer) = (host.name(), format!("node{number}"));
    run(&format!(
        "ip link add {peer} type veth peer name eth0 netns {name}"
    ));
    run(&format!("ip link set {peer} master bridge0 up"));
    run(&format!(
        "ip -n {name} addr add 192.0.2.{}/24 dev eth0",
        number + 1
    ));
    run(&format!("ip -n {name} link set eth0 addrgenmode none"));
    run(&format!("ip -n {name} link set eth0 up"));
    host
}
