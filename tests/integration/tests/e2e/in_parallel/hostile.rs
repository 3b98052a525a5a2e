//! Hostile programs, hosts and users that try to read or change root's files, or to make a
//! command of root hang.
//!
//! The tests vary the traps and not the commands of emu: each trap is planted in every place
//! where root reads, writes, creates or removes a file. No file of root may change or be
//! disclosed, and no command may hang.
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use integration::{
    command::{TopologyFile, emu, emu_command, emu_path, run, try_emu},
    netns::isolated,
};

use crate::run::{Lab, everything, no_residue};

const NOBODY: u32 = 65534;
const SECRET: &str = "root:$6$secret:19000";
/// Timeout of a command that meets a trap.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(90);

/// Files of root, one of each kind that an attack targets, and their original listing.
struct Canary {
    place: PathBuf,
    before: String,
}

impl Canary {
    /// Creates the files in a folder that every user may traverse, so that names and hard
    /// links work.
    fn new(place: PathBuf) -> Self {
        fs::create_dir_all(place.join("folder")).unwrap();
        for name in ["secret", "folder/secret", "folder/payload"] {
            let file = place.join(name);
            fs::write(&file, SECRET).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let before = listing(&place);
        Self { place, before }
    }

    fn check(&self, trap: &str) {
        assert_eq!(listing(&self.place), self.before, "{trap}");
    }
}

/// Names, owners, permissions and contents of all files below a folder.
fn listing(folder: &Path) -> String {
    let mut text = String::new();
    for path in below(folder) {
        let m = fs::symlink_metadata(&path).unwrap();
        let content = match m.is_file() && m.len() < 1 << 20 {
            true => fs::read_to_string(&path).unwrap(),
            false => String::new(),
        };
        let path = path.display();
        text += &format!("{path} {}:{} {:o} {content}\n", m.uid(), m.gid(), m.mode());
    }
    text
}

/// All paths below a folder; symbolic links are not followed.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                left.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort();
    all
}

/// Checks that no regular file of the results contains the secret or occupies much disk space.
fn tells_nothing(folder: &Path, trap: &str) {
    for path in below(folder) {
        let m = fs::symlink_metadata(&path).unwrap();
        if !m.is_file() {
            continue;
        }
        assert!(
            m.blocks() < 40_000,
            "{trap}: {} has {} blocks",
            path.display(),
            m.blocks()
        );
        if m.len() < 1 << 20 {
            let bytes = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(
                !text.contains(SECRET),
                "{trap}: {} tells it",
                path.display()
            );
        }
    }
}

/// Runs a command to completion within [`COMMAND_TIMEOUT`].
fn ends(mut command: Command, trap: &str) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > COMMAND_TIMEOUT {
            let _ = child.kill();
            panic!("{trap}: emu hangs");
        }
        thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!said.contains(SECRET), "{trap}: emu tells it: {said}");
    output
}

/// Names of the traps, and the shell commands that create them at `$1`.
const TRAPS: [(&str, &str); 9] = [
    ("link to a file", "ln -s $CANARY/secret $1"),
    ("link to what is not there", "ln -s $CANARY/new $1"),
    ("link to a folder", "ln -s $CANARY/folder $1"),
    ("hard link", "ln $CANARY/secret $1"),
    ("fifo", "mkfifo $1"),
    (
        "socket",
        "python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' $1",
    ),
    ("sparse file", "truncate -s 1T $1"),
    ("folder", "mkdir -p $1/payload"),
    (
        "names that change",
        "(mkdir $1.d; ln -s $CANARY/folder $1.l; while :; do mv -T $1.d $1; mv -T $1 $1.d; \
         mv -T $1.l $1; mv -T $1 $1.l; sleep 0.02; done) >/dev/null 2>&1 &",
    ),
];

/// A program that plants a trap in every place where root works, inside and outside its own
/// folder; it fails, so that emu reads the last line of its standard error.
const PROGRAM: &str = "
exec 2>/dev/null
cd {dir}
out=../../..
own=$out/vnodes/$EMU_VNODE/evil
trap_at() { TRAP; }
echo hello > payload
for place in $own/stdout $own/stderr $own/payload $own/link $own/session-1 \\
    $out/summary.json $out/environment.json $out/counters.csv $out/processes.csv \\
    $out/events.csv $out/plan.json $out/.summary.json.new; do
  rm -rf $place
  trap_at $place
done
for folder in $own $out/vnodes/$EMU_VNODE $out/vnodes $out/work/$EMU_VNODE/evil $out/work $out; do
  mv -T $folder $folder.away && trap_at $folder
done
for place in ./collected ./link ./deep-link; do trap_at $place; done
mkdir -p tree/x; (cd tree; trap_at ./x/collected; trap_at ./y)
mkdir -p $(printf 'deep/%.0s' $(seq 300))
exit 1
";

#[test]
fn a_hostile_program_gets_nothing_of_roots() {
    // The worst case: the protections of links, which a distribution may not enable, are off.
    let settings = ["hardlinks", "symlinks", "fifos", "regular"].map(|name| {
        let path = format!("/proc/sys/fs/protected_{name}");
        let before = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::write(&path, "0");
        (path, before)
    });
    for (trap, make) in TRAPS {
        isolated(move || hostile_run(trap, make));
    }
    for (path, before) in settings {
        let _ = fs::write(path, before);
    }
}

fn hostile_run(trap: &str, make: &str) {
    let before = everything();
    let lab = Lab::new(
        "
name: hostile
duration: 20s
programs:
  - name: evil
    on: adsl/0-1
    run: [sh, '{here}/evil.sh']
    collect: ['payload', 'collected', 'link/*', '*/secret', 'tree/**', '**/payload']
  - name: churn
    on: adsl/2
    run: [sh, '{here}/evil.sh']
    churn: {up: {constant: 1s}, down: {constant: 300ms}, leave: kill, state: lose}
    for: 4s
    collect: ['collected', '*']
  - {name: honest, on: adsl/3, shell: 'echo well > a.txt', collect: ['a.txt']}
",
    );
    let canary = Canary::new(lab.path("canary"));
    let program = PROGRAM.replace("TRAP", make);
    let program = program.replace("{dir}", ".").replace("$CANARY", "{canary}");
    let place = canary.place.display().to_string();
    fs::write(lab.path("evil.sh"), program.replace("{canary}", &place)).unwrap();
    fs::set_permissions(lab.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = emu_command(&lab.command_line("out"));
    command.args(["--user", "nobody"]);
    let output = ends(command, trap);
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    canary.check(trap);
    assert_eq!(output.status.code(), Some(1), "{trap}: {said}");
    assert!(said.contains("FAILED: evil"), "{trap}: {said}");
    tells_nothing(&lab.path("out"), trap);
    // The honest program has its results, and all results belong to the user.
    let honest = fs::read_to_string(lab.path("out/vnodes/10.1.0.4/honest/a.txt"));
    assert_eq!(honest.ok().as_deref(), Some("well\n"), "{trap}: {said}");
    assert!(
        lab.read("out/summary.json").contains("\"failed\""),
        "{trap}"
    );
    assert!(!lab.path("out/work").exists(), "{trap}");
    for path in below(&lab.path("out")) {
        let owner = fs::symlink_metadata(&path).unwrap().uid();
        assert_eq!(owner, NOBODY, "{trap}: {}", path.display());
    }
    no_residue(&before);
}

/// Another user or host plants traps in the folder that the hosts share.
#[test]
fn a_hostile_shared_folder_gets_nothing_of_roots() {
    isolated(|| {
        run("ip link add eth0 type veth peer name eth1");
        run("ip addr add 192.0.2.1/24 dev eth0");
        run("ip link set eth0 addrgenmode none");
        run("ip link set eth1 up");
        run("ip link set eth0 up");
        for trap in [
            "meet",
            "meet/.0.json.new",
            "hosts",
            "hosts/h0",
            "vnodes",
            "report",
            "summary.json",
            "counters.csv",
        ] {
            for target in ["secret", "folder", "new"] {
                shared_run(&format!("{trap} to {target}"), "h0", |out, canary| {
                    let path = out.join(trap);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    symlink(canary.join(target), path).unwrap();
                });
            }
        }
        for name in ["ABSOLUTE", "../../../canary/climbed", "../x"] {
            shared_run(name, name, |_, _| {});
        }
    });
}

fn shared_run(trap: &str, host: &str, plant: impl Fn(&Path, &Path)) {
    let lab = Lab::with(
        "",
        "name: shared\nseed: 4\nprograms:\n  - {name: p, on: a/0, shell: 'echo hi > f', collect: [f]}\n",
    );
    let canary = Canary::new(lab.path("canary"));
    let host = host.replace("ABSOLUTE", &lab.path("canary/taken").display().to_string());
    let topology = format!(
        "version: 1\nseed: 4\ngroups:\n  a: {{prefix: 10.1.0.0/24, nodes: 4, latency: 1ms}}\n\
         hosts: [{{name: \"{host}\", interface: eth0, address: 192.0.2.1, groups: [a]}}]\n"
    );
    fs::write(lab.path("topology.yaml"), topology).unwrap();
    let out = lab.path("out");
    fs::create_dir(&out).unwrap();
    plant(&out, &canary.place);
    for path in below(&out).iter().chain([&out]) {
        lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(lab.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = emu_command(&lab.command_line("out"));
    command.args("--rank 0 --size 1 --user nobody --meet-within 5s".split(' '));
    ends(command, trap);
    canary.check(trap);
    tells_nothing(&out, trap);
    let _ = try_emu("unload --kill");
}

/// Root merges results that another user has prepared.
#[test]
fn a_hostile_part_of_results_gets_nothing_of_roots() {
    for name in [
        "plan.json",
        "summary.json",
        "environment.json",
        "counters.csv",
        "experiment.yaml",
        "vnodes",
        "vnodes/10.1.0.1/p/f",
    ] {
        for (trap, make) in TRAPS
            .iter()
            .filter(|(trap, _)| *trap != "names that change")
        {
            let what = format!("{name} is a {trap}");
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            let canary = Canary::new(at("canary"));
            for file in ["h/plan.json", "h/summary.json", "h/environment.json"] {
                fs::create_dir_all(at("h/vnodes/10.1.0.1/p")).unwrap();
                fs::write(
                    at(file),
                    "{\"host\": \"h1\", \"seed\": 1, \"processes\": []}",
                )
                .unwrap();
            }
            let path = at("h").join(name);
            let _ = fs::remove_dir_all(&path);
            let _ = fs::remove_file(&path);
            let line = make
                .replace("$CANARY", &canary.place.display().to_string())
                .replace("$1", &path.display().to_string());
            run_shell(&line);
            for path in below(&at("h")).iter().chain([&at("h")]) {
                // The file behind a hard link keeps its owner.
                if fs::symlink_metadata(path).unwrap().nlink() == 1 || path.is_dir() {
                    lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
                }
            }
            let mut command = Command::new(emu_path());
            command.args(["results", "merge"]).arg(at("h"));
            command.arg("--out").arg(at("out"));
            ends(command, &what);
            canary.check(&what);
            tells_nothing(&at("out"), &what);
        }
    }
}

fn run_shell(line: &str) {
    let done = Command::new("sh").args(["-c", line]).status().unwrap();
    assert!(done.success(), "{line}");
}

/// A topology from elsewhere names a file that the caller may not read, or that never
/// ends.
#[test]
fn files_that_a_topology_names_are_read_with_the_callers_rights() {
    isolated(|| {
        let lab = Lab::with("", "programs: []\n");
        let canary = Canary::new(lab.path("canary"));
        let secret = canary.place.join("secret").display().to_string();
        let fifo = lab.path("fifo").display().to_string();
        run(&format!("mkfifo {fifo}"));
        run(&format!("chmod 755 {}", lab.path("").display()));
        for file in [&secret, &fifo, "/dev/zero"] {
            let topology = |text: &str| {
                format!(
                    "version: 1\ngroups:\n  a: {{prefix: 10.1.0.0/24, nodes: 4, latency: 10ms{text}\n"
                )
            };
            let jitter = ", jitter: {spread: 1ms, distribution: m}}";
            let texts = [
                format!("distributions: {{m: {file}}}\n{}", topology(jitter)),
                format!("{}traces:\n  - {{group: a, file: {file}}}\n", topology("}")),
            ];
            for text in texts {
                fs::write(lab.path("t.yaml"), text).unwrap();
                for verb in ["load", "check"] {
                    let mut command =
                        emu_command(&format!("{verb} {}", lab.path("t.yaml").display()));
                    command.env("SUDO_UID", "65534").env("SUDO_GID", "65534");
                    let output = ends(command, file);
                    assert!(!output.status.success(), "{verb} {file}");
                }
            }
        }
        // The secret as the topology file itself.
        for verb in ["load", "check", "run", "plan"] {
            let mut command = emu_command(&format!("{verb} {secret}"));
            command.env("SUDO_UID", "65534").env("SUDO_GID", "65534");
            let output = ends(command, verb);
            assert!(!output.status.success(), "{verb}");
        }
        // Root may read the secret, and gets the parser's error.
        assert!(!try_emu(&format!("check {secret}")).status.success());
    });
}

const SMALL: &str =
    "version: 1\ngroups: {a: {prefix: 10.1.0.0/16, nodes: 6, up: 1mbit, latency: 20ms}}\n";

/// Folder of emu's state for this network namespace.
fn state() -> PathBuf {
    let cookie = emu_kernel::state::StateDir::here().unwrap();
    Path::new("/run/emu").join(cookie.name())
}

/// The permissions hold with any umask, and with the files of an older version.
#[test]
fn nobody_but_root_opens_the_state_and_its_lock() {
    isolated(|| {
        let file = TopologyFile::new(SMALL);
        let umask = format!(
            "umask 0; {} load {} --no-verify",
            emu_path().display(),
            file.path()
        );
        run_shell(&umask);
        fs::set_permissions("/run/emu", fs::Permissions::from_mode(0o755)).unwrap();
        let lock = state().with_extension("lock");
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o666)).unwrap();
        run_shell(&format!(
            "umask 0; {} exec a/0 -- true",
            emu_path().display()
        ));
        run_shell(&format!("umask 0; {} set a up=3mbit", emu_path().display()));
        assert_eq!(fs::metadata("/run/emu").unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&lock).unwrap().mode() & 0o777, 0o600);
        for path in below(&state()) {
            assert_eq!(
                fs::metadata(&path).unwrap().mode() & 0o077,
                0,
                "{}",
                path.display()
            );
        }
        // A program of a vnode tries to take the lock and to read the state.
        for line in [
            format!("flock -x {} true", lock.display()),
            format!("flock -s {} true", lock.display()),
            format!("cat {}/topology.yaml", state().display()),
            "ls /run/emu".to_owned(),
        ] {
            let output = try_emu(&format!("exec --user nobody a/0 -- {line}"));
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("Permission denied"), "{line}: {said}");
        }
        emu("unload");
    });
}

/// A process of root holds the lock: other commands name the process after a limited time,
/// and `unload --kill` proceeds.
#[test]
fn a_holder_of_the_lock_is_named_and_can_be_ended() {
    isolated(|| {
        let before = everything();
        for inside in [false, true] {
            let file = TopologyFile::new(SMALL);
            emu(&format!("load {} --no-verify", file.path()));
            let lock = state().with_extension("lock").display().to_string();
            // `sleep` replaces the shell in its process, and inherits the lock.
            let folder = tempfile::tempdir().unwrap();
            let mark = folder.path().join("mark");
            let line = format!(
                "exec 9>>{lock}; flock -x 9; touch {}; exec sleep 600",
                mark.display()
            );
            let argv = ["sh", "-c", &line];
            let mut holder = match inside {
                true => {
                    let mut command = emu_command("exec a/0 --");
                    command.args(argv);
                    command
                }
                false => {
                    let mut command = Command::new(argv[0]);
                    command.args(&argv[1..]);
                    command
                }
            }
            .spawn()
            .unwrap();
            while !mark.exists() {
                thread::sleep(Duration::from_millis(20));
            }
            for line in [
                "set a up=2mbit",
                "unload",
                &format!("load {} --no-verify", file.path()),
            ] {
                let output = ends(emu_command(line), line);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(1), "{line}: {said}");
                assert!(said.contains("sleep 600"), "{line}: {said}");
            }
            let said = ends(emu_command("unload --kill"), "unload --kill");
            assert!(
                said.status.success(),
                "{}",
                String::from_utf8_lossy(&said.stderr)
            );
            let _ = holder.wait();
        }
        no_residue(&before);
    });
}
