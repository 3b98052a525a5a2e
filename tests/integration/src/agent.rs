//! A running `emu agent`, and requests to its HTTP endpoints.
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    command::{emu_command, emu_path},
    openmetrics::{self, Scrape},
};

/// Timeout for the agent's answers and exit, sized for a slow machine.
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);

/// An agent process, which is killed on drop.
pub struct Agent {
    child: Child,
    address: String,
    token: Option<String>,
    log: tempfile::NamedTempFile,
}

impl Agent {
    /// Starts an agent that listens on a port of the loopback interface.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(arguments: &str, port: u16) -> Self {
        Self::start_at(arguments, "127.0.0.1", port)
    }

    /// Starts an agent that listens at an address.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_at(arguments: &str, ip: &str, port: u16) -> Self {
        let address = format!("{ip}:{port}");
        let command = emu_command(&format!("agent {arguments} --listen {address}"));
        Self::spawn(command, address)
    }

    /// Starts an agent that cannot raise its limit of open files above `files`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_with_files(arguments: &str, port: u16, files: u64) -> Self {
        let address = format!("127.0.0.1:{port}");
        let emu = emu_path().display().to_string();
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {files}; exec {emu} agent {arguments} --listen {address}");
        command.args(["-c", &script]);
        Self::spawn(command, address)
    }

    fn spawn(mut command: Command, address: String) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            address,
            log,
            token: None,
        }
    }

    /// Sends this token with the requests that follow.
    pub fn set_token(&mut self, token: Option<&str>) {
        self.token = token.map(str::to_owned);
    }

    /// Waits until an agent that fails has ended; returns its exit code and its log.
    ///
    /// # Panics
    /// If the kernel does not tell.
    pub fn wait_end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.log())
    }

    /// Identifier of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Status code and body of a response; `None` without a response.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(AGENT_TIMEOUT)).ok()?;
        let authorization = match &self.token {
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        // In one piece: a client whose request is complete is not displaced by another.
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: emu\r\n{authorization}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Status code and body of `/readyz`.
    pub fn readiness(&self) -> Option<(u16, Value)> {
        let (code, body) = self.get("/readyz")?;
        Some((code, serde_json::from_str(&body).ok()?))
    }

    /// Waits until `/readyz` satisfies a condition.
    ///
    /// # Panics
    /// If the timeout expires, with the agent's log.
    pub fn wait(&self, what: &str, hoped: impl Fn(u16, &Value) -> bool) -> Value {
        let begin = Instant::now();
        let mut last = None;
        while begin.elapsed() < AGENT_TIMEOUT {
            if let Some((code, value)) = self.readiness() {
                if hoped(code, &value) {
                    return value;
                }
                last = Some(value);
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("timed out waiting for {what}: {last:?}\n{}", self.log());
    }

    /// Waits until the agent is ready and reports no problem.
    pub fn wait_good(&self) -> Value {
        self.wait("a ready agent", |code, value| {
            code == 200 && value["problem"].is_null()
        })
    }

    /// Status code of `/healthz`.
    pub fn health(&self) -> u16 {
        self.get("/healthz").map_or(0, |(code, _)| code)
    }

    /// Fetches the metrics and parses them strictly.
    ///
    /// # Panics
    /// If they violate the OpenMetrics format.
    pub fn scrape(&self) -> (Scrape, String) {
        let (code, body) = self.get("/metrics").unwrap();
        assert_eq!(code, 200, "{body}");
        (openmetrics::parse(&body), body)
    }

    /// The agent's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// Kills the agent with SIGKILL and returns its log.
    ///
    /// # Panics
    /// If it has already exited.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log()
    }

    /// Ends the agent with SIGTERM and returns its exit code.
    ///
    /// # Panics
    /// If it does not exit in time.
    pub fn terminate(mut self) -> Option<i32> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // The agent may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
