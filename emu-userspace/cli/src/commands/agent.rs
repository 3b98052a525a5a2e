//! `emu agent`.
use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::agent::{self, Config, OnExit, StartAt, Token};
use clap::{Args, ValueEnum};
use emu_model::topology;
use tracing::Level;

use super::{OK, Outcome, host_args::HostArgs};
use crate::commands::error::{CommandError, failure};

/// Arguments of `emu agent`.
#[derive(Args)]
#[command(after_help = "\
An invalid file leaves the loaded topology as it is; the log, /readyz and the metric
emu_agent_in_sync report it. A new agent takes over from one that was killed.

Examples:
  emu agent /etc/emu/topology.yaml --host auto
  emu agent topo.yaml --start-at 2026-11-21T12:00:00Z     events begin then, on all hosts
  emu agent topo.yaml --on-exit unload --drain 30s
  curl -s http://127.0.0.1:9750/metrics | grep emu_drops")]
pub(super) struct Agent {
    /// The topology.
    file: PathBuf,
    #[command(flatten)]
    host: HostArgs,
    /// Address for /metrics, /healthz and /readyz. Everybody who reaches it can read them,
    /// unless there is a token.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "EMU_LISTEN",
        default_value = "127.0.0.1:9750"
    )]
    listen: SocketAddr,
    /// File with a token. Clients must send it (Authorization: Bearer TOKEN) for /metrics and
    /// for the text of /readyz. Only its owner may have access to the file.
    #[arg(long, value_name = "FILE", env = "EMU_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// What happens to the network on SIGTERM.
    #[arg(long, value_enum, default_value = "leave")]
    on_exit: AtExit,
    /// With `--on-exit unload`: longest wait for processes of vnodes to end.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    drain: String,
    /// Time origin of the file's events: a time (2026-11-21T12:00:00Z), seconds since 1970
    /// (@1795262400), or `now`, the first load. Without it no events run.
    #[arg(long, value_name = "TIME", env = "EMU_START_AT")]
    start_at: Option<String>,
    /// Time between two checks for drift.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    interval: String,
    /// Also export metrics of each vnode, in addition to those of groups.
    #[arg(long)]
    per_vnode: bool,
    /// Format of the log on standard error.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Lowest level that is logged: error, warn, info, debug.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Level,
}

#[derive(Clone, Copy, ValueEnum)]
enum AtExit {
    /// It stays loaded, for another agent.
    Leave,
    /// It is unloaded.
    Unload,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Parses a time of the command line.
fn time(option: &str, text: &str) -> Result<Duration, CommandError> {
    topology::time(text).map_err(|e| failure!("{option}: {}; expected {}", e.message, e.expected))
}

fn start_at(text: &str) -> Result<StartAt, CommandError> {
    if text == "now" {
        return Ok(StartAt::FirstLoad);
    }
    let seconds = text.strip_prefix('@').and_then(|s| s.parse::<f64>().ok());
    let seconds = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let time: Option<SystemTime> = seconds
        .and_then(|s| UNIX_EPOCH.checked_add(s))
        .or_else(|| humantime::parse_rfc3339_weak(text).ok());
    time.map(StartAt::At).ok_or_else(|| {
        failure!(
            "--start-at: `{text}` is not a time; expected 2026-11-21T12:00:00Z, @1795262400 \
             (seconds since 1970) or now"
        )
    })
}

impl Agent {
    fn config(&self) -> Result<Config, CommandError> {
        let interval = time("--interval", &self.interval)?;
        Ok(Config {
            file: self.file.clone(),
            which: self.host.which()?,
            listen: self.listen,
            on_exit: match self.on_exit {
                AtExit::Leave => OnExit::Leave,
                AtExit::Unload => OnExit::Unload {
                    drain: time("--drain", &self.drain)?,
                },
            },
            start_at: self
                .start_at
                .as_deref()
                .map_or(Ok(StartAt::Never), start_at)?,
            // A shorter interval would only load the machine.
            interval: interval.max(Duration::from_millis(100)),
            per_vnode: self.per_vnode,
            token: self
                .token_file
                .as_deref()
                .map(Token::read)
                .transpose()
                .map_err(|e| failure!("{e}"))?,
        })
    }

    pub(super) fn run(self) -> Outcome {
        let config = match self.config() {
            Ok(config) => config,
            Err(error) => {
                eprintln!("{error}");
                return Ok(super::USAGE);
            }
        };
        let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let log = tracing_subscriber::fmt()
            .with_max_level(self.log_level)
            .with_writer(io::stderr)
            .with_ansi(color)
            .with_target(false);
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
        agent::run(config)?;
        Ok(OK)
    }
}
