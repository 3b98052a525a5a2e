//! One run: a tracker, its seeders and its clients on a fleet of hosts.
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write,
    net::{IpAddr, Ipv4Addr},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Child,
    thread,
    time::{Duration, Instant, SystemTime},
};

use emu_common::layout::Direction;
use emu_kernel::health::Monitor;

use super::{Run, Settings, store};
use crate::{
    BenchError, Observer,
    bittorrent::{CLIENT_PORT, Shared, TRACKER_PORT},
    fleet::{Fleet, FleetProgram},
};

/// Poll interval of the loop that starts programs.
const START_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Timeout for tracker and seeders to listen.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum number of restarts of a program that crashes.
const CRASHES: u32 = 2;

/// Address of client number `index`, from 0.
pub fn client_address(index: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a08_0001 + index))
}

/// Address of the tracker (index 0) and of the seeders.
fn server_address(index: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a09_0001 + index))
}

/// Runs the swarm once. All results are written to the folder before the hosts are torn
/// down.
pub fn run(
    settings: &Settings,
    (ratio, again): (u32, u32),
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<(), BenchError> {
    observer.text(&format!(
        "{} hosts: making and loading them",
        settings.hosts(ratio)
    ));
    let begin = Instant::now();
    let fleet = Fleet::new(&settings.topology(ratio), folder)?;
    let load_s = begin.elapsed().as_secs_f64();
    let mut swarm = Swarm::new(settings, &fleet, folder)?;
    let mut run = swarm.download(ratio, observer)?;
    run.load_s = load_s;
    run.again = again;
    run.equal_files = swarm.equal_files()?;
    store::write(folder, settings, &run).map_err(BenchError::system("write the results"))
}

struct Swarm<'a> {
    settings: &'a Settings,
    fleet: &'a Fleet,
    folder: PathBuf,
    shared: Shared,
    /// One row per sample, written at once, so that an interrupted run loses nothing.
    table: File,
    /// The tracker and the seeders first, then the clients.
    processes: Vec<ClientProcess>,
}

/// A program that was started, and its restarts.
struct ClientProcess {
    name: String,
    vnode: IpAddr,
    argv: Vec<String>,
    child: Child,
    /// Number of crashes, each followed by a restart.
    crashes: u32,
}

impl<'a> Swarm<'a> {
    /// Starts the tracker and the seeders.
    fn new(settings: &'a Settings, fleet: &'a Fleet, folder: &Path) -> Result<Self, BenchError> {
        let size = (settings.file_bytes, settings.piece_bytes);
        let shared = Shared::create(folder, size, server_address(0))?;
        let mut table =
            File::create(folder.join(store::TABLE)).map_err(BenchError::system("make a table"))?;
        let clients: String = (0..settings.clients)
            .map(|i| format!(",client_{i}_bytes"))
            .collect();
        writeln!(table, "time_s,received_bytes{clients}")
            .map_err(BenchError::system("write a table"))?;
        let mut swarm = Self {
            settings,
            fleet,
            folder: folder.to_owned(),
            shared,
            table,
            processes: Vec::new(),
        };
        swarm.tracker()?;
        for index in 1..=settings.seeders {
            let name = format!("seeder-{index}");
            let own = swarm.folder_of(&name)?;
            fs::copy(&swarm.shared.torrent.file, own.join("file"))
                .map_err(BenchError::system("give a seeder its file"))?;
            swarm.client(name, server_address(index), true)?;
        }
        // The clients start after all seeders have: otherwise the first clients would run
        // later where the machine is busier or the program's files are not yet in the page
        // cache.
        let seeders = settings.seeders as usize;
        swarm.wait_listening(CLIENT_PORT, seeders, &folder.join("seeder-1"))?;
        Ok(swarm)
    }

    fn tracker(&mut self) -> Result<(), BenchError> {
        let own = self.folder_of("tracker")?;
        let argv = self.shared.tracker(&own)?;
        self.start("tracker".into(), server_address(0), &argv)?;
        self.wait_listening(TRACKER_PORT, 1, &own)
    }

    /// Waits until `count` sockets of the first host listen on a port; the error contains
    /// the last line of a program's log.
    fn wait_listening(&self, port: u16, count: usize, folder: &Path) -> Result<(), BenchError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        // The local port in hexadecimal digits, and the state LISTEN.
        let local_port = format!(":{port:04X} ");
        let listening = || {
            self.fleet.host(0).enter(|| {
                let text = fs::read_to_string("/proc/thread-self/net/tcp")
                    .map_err(BenchError::system("read the sockets"))?;
                let is_one = |line: &&str| line.contains(&local_port) && line.contains(" 0A ");
                Ok(text.lines().filter(is_one).count())
            })
        };
        while listening()? < count {
            if Instant::now() > deadline {
                return Err(BenchError::Program {
                    line: format!("a program on port {port}"),
                    message: last_log_line(folder),
                });
            }
            thread::sleep(START_POLL_INTERVAL);
        }
        Ok(())
    }

    fn folder_of(&self, name: &str) -> Result<PathBuf, BenchError> {
        let own = self.folder.join(name);
        crate::make_folder(&own)?;
        Ok(own)
    }

    fn client(&mut self, name: String, vnode: IpAddr, has_file: bool) -> Result<(), BenchError> {
        let argv = self
            .settings
            .client
            .argv(&self.shared.files, vnode, has_file);
        self.start(name, vnode, &argv)
    }

    fn start(&mut self, name: String, vnode: IpAddr, argv: &[String]) -> Result<(), BenchError> {
        let child = self.spawn(&name, vnode, argv)?;
        self.processes.push(ClientProcess {
            name,
            vnode,
            argv: argv.to_vec(),
            child,
            crashes: 0,
        });
        Ok(())
    }

    fn spawn(&self, name: &str, vnode: IpAddr, argv: &[String]) -> Result<Child, BenchError> {
        let host = self.fleet.host_of(vnode).unwrap_or(self.fleet.host(0));
        host.start(&FleetProgram {
            vnode,
            argv,
            folder: self.folder_of(name)?,
        })
    }

    /// Starts the clients one after another and polls them until all have the file.
    fn download(&mut self, ratio: u32, observer: &mut dyn Observer) -> Result<Run, BenchError> {
        let count = self.settings.clients;
        let (begin, began) = (Instant::now(), SystemTime::now());
        let mut monitor = Monitor::new();
        let mut run = Run::new(self.settings, ratio);
        let (mut started, mut sampled) = (0, 0);
        while run.done_s.contains(&None) && begin.elapsed() < self.settings.limit {
            let elapsed = begin.elapsed();
            if started < count && elapsed >= self.settings.interval * started {
                let name = client_name(started);
                self.client(name, client_address(started), false)?;
                started += 1;
                continue;
            }
            if elapsed >= self.settings.sample * sampled {
                sampled += 1;
                monitor.sample();
                self.look(&mut run, elapsed, began)?;
                let done = run.done_s.iter().flatten().count();
                observer.text(&format!(
                    "{ratio} on a host: {:.0} s, {started} of {count} started, {done} have the file",
                    elapsed.as_secs_f64()
                ));
                if observer.is_cancelled() {
                    return Err(BenchError::Interrupted);
                }
                self.ended(&mut run)?;
                if !run.failed.is_empty() {
                    break;
                }
            }
            thread::sleep(START_POLL_INTERVAL);
        }
        run.run_s = begin.elapsed().as_secs_f64();
        run.host_health = monitor.report();
        run.drops = self.drops();
        Ok(run)
    }

    /// Samples the counters and the clients' completion.
    fn look(
        &mut self,
        run: &mut Run,
        elapsed: Duration,
        began: SystemTime,
    ) -> Result<(), BenchError> {
        let time_s = elapsed.as_secs_f64();
        let (mut sum, mut cells) = (0, String::new());
        for (index, done_s) in run.done_s.iter_mut().enumerate() {
            let vnode = client_address(index as u32);
            let host = self.fleet.host_of(vnode);
            let bytes = host.map_or(0, |host| host.pipe(vnode, Direction::Down).bytes);
            sum += bytes;
            let _ = write!(cells, ",{bytes}");
            if done_s.is_none() {
                let own = self.folder.join(client_name(index as u32));
                let at = fs::metadata(own.join("done")).and_then(|m| m.modified());
                *done_s = at.ok().map(|at| {
                    at.duration_since(began)
                        .map_or(time_s, |after| after.as_secs_f64())
                });
            }
        }
        run.received.push((time_s, sum as f64));
        writeln!(self.table, "{time_s:.3},{sum}{cells}")
            .map_err(BenchError::system("write a table"))
    }

    /// Records programs that exited. A crashed program is restarted with the files on its
    /// disk, as its user would do.
    fn ended(&mut self, run: &mut Run) -> Result<(), BenchError> {
        for index in 0..self.processes.len() {
            let process = &mut self.processes[index];
            let Ok(Some(status)) = process.child.try_wait() else {
                continue;
            };
            let line = last_log_line(&self.folder.join(&process.name));
            let message = format!("{}: {status}: {line}", process.name);
            if status.signal().is_none() || process.crashes == CRASHES {
                run.failed.push(message);
                continue;
            }
            run.crashed.push(message);
            let ClientProcess {
                name, vnode, argv, ..
            } = &self.processes[index];
            let child = self.spawn(name, *vnode, argv)?;
            let process = &mut self.processes[index];
            process.child = child;
            process.crashes += 1;
        }
        Ok(())
    }

    fn drops(&self) -> u64 {
        let clients = (0..self.settings.clients).map(client_address);
        let seeders = (0..=self.settings.seeders).map(server_address);
        clients
            .chain(seeders)
            .filter_map(|vnode| Some((vnode, self.fleet.host_of(vnode)?)))
            .flat_map(|(vnode, host)| [Direction::Up, Direction::Down].map(|d| host.pipe(vnode, d)))
            .map(|pipe| pipe.drops_packets + pipe.drops_bytes)
            .sum()
    }

    /// Number of clients whose file equals the seeders' file.
    fn equal_files(&self) -> Result<usize, BenchError> {
        let original = fs::read(&self.shared.torrent.file)
            .map_err(BenchError::system("read the shared file"))?;
        let names = (0..self.settings.clients).map(client_name);
        let equal = names.filter(|name| {
            fs::read(self.folder.join(name).join("file")).is_ok_and(|copy| copy == original)
        });
        Ok(equal.count())
    }
}

impl Drop for Swarm<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

fn client_name(index: u32) -> String {
    format!("client-{index}")
}

/// Last line of a program's log.
fn last_log_line(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    line.unwrap_or("it said nothing").trim().to_owned()
}
