//! A running `emu agent`, asked over HTTP.
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    command::emu_command,
    openmetrics::{self, Scrape},
};

/// Longest wait for an agent on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that is killed when dropped.
pub struct Agent {
    child: Child,
    address: String,
    log: tempfile::NamedTempFile,
}

impl Agent {
    /// Starts one; it answers on the port of the loopback.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(arguments: &str, port: u16) -> Self {
        let address = format!("127.0.0.1:{port}");
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = emu_command(&format!("agent {arguments} --listen {address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            address,
            log,
        }
    }

    /// Status and body of an answer; none if there is no answer.
    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: emu\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// What `/readyz` says.
    pub fn readiness(&self) -> Option<(u16, Value)> {
        let (code, body) = self.get("/readyz")?;
        Some((code, serde_json::from_str(&body).ok()?))
    }

    /// Waits until `/readyz` says what is hoped for.
    ///
    /// # Panics
    /// If it never does, with the log.
    pub fn wait(&self, what: &str, hoped: impl Fn(u16, &Value) -> bool) -> Value {
        let begin = Instant::now();
        let mut last = None;
        while begin.elapsed() < PATIENCE {
            if let Some((code, value)) = self.readiness() {
                if hoped(code, &value) {
                    return value;
                }
                last = Some(value);
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("never {what}: {last:?}\n{}", self.log());
    }

    /// Waits until it is ready and has nothing to complain of.
    pub fn wait_good(&self) -> Value {
        self.wait("ready", |code, value| {
            code == 200 && value["problem"].is_null()
        })
    }

    /// Health's status code.
    pub fn health(&self) -> u16 {
        self.get("/healthz").map_or(0, |(code, _)| code)
    }

    /// Metrics, read strictly.
    ///
    /// # Panics
    /// If they are not as the form asks.
    pub fn scrape(&self) -> (Scrape, String) {
        let (code, body) = self.get("/metrics").unwrap();
        assert_eq!(code, 200, "{body}");
        (openmetrics::parse(&body), body)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// SIGKILL; its log.
    ///
    /// # Panics
    /// If it is gone already.
    pub fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.log()
    }

    /// SIGTERM; its exit code.
    ///
    /// # Panics
    /// If it does not end.
    pub fn terminate(mut self) -> Option<i32> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
