//! Why a run stops on all hosts before its end.
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{RendezvousError, names};

/// Why one host stops the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopCause {
    /// As many processes failed as the experiment allows.
    TooManyFailures,
    /// A signal.
    Interrupted,
    /// The run cannot go on; the text says why.
    Broken(String),
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyFailures => f.write_str("too many failures"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

/// Why all hosts must stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// A host has failed.
    HostFailed {
        #[serde(deserialize_with = "emu_model::name::text")]
        host: String,
        error: String,
    },
    /// A host stops the run.
    HostStopped {
        #[serde(deserialize_with = "emu_model::name::text")]
        host: String,
        cause: StopCause,
    },
    /// Hosts missed their heartbeats.
    HostsLost { hosts: Vec<String> },
    /// The other hosts consider this host lost.
    GivenUp,
    /// This host cannot write its status.
    NotWritten { error: String },
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostFailed { host, error } => write!(f, "{host}: {error}"),
            Self::HostStopped { host, cause } => write!(f, "{host}: {cause}"),
            Self::HostsLost { hosts } => f.write_str(&missed_heartbeats(hosts)),
            Self::GivenUp => f.write_str("the other hosts have given this one up"),
            Self::NotWritten { error } => f.write_str(error),
        }
    }
}

impl From<StopReason> for RendezvousError {
    /// The error of a run that stops before its start.
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::HostFailed { host, error } => Self::Failed { host, error },
            StopReason::HostStopped { host, cause } => Self::Failed {
                host,
                error: cause.to_string(),
            },
            StopReason::HostsLost { hosts } => Self::Lost { lost: hosts },
            reason @ (StopReason::GivenUp | StopReason::NotWritten { .. }) => Self::Stopped(reason),
        }
    }
}

/// Says which hosts missed their heartbeats.
pub(super) fn missed_heartbeats(hosts: &[String]) -> String {
    let whose = if hosts.len() == 1 { "its" } else { "their" };
    format!("{} missed {whose} heartbeats", names(hosts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: usize) -> Vec<String> {
        (0..count).map(|rank| format!("h{rank}")).collect()
    }

    #[test]
    fn reasons_name_their_hosts() {
        let host = || "h1".to_owned();
        let failed = StopReason::HostFailed {
            host: host(),
            error: "load: no fq: missing".to_owned(),
        };
        assert_eq!(failed.to_string(), "h1: load: no fq: missing");
        let stopped = StopReason::HostStopped {
            host: host(),
            cause: StopCause::TooManyFailures,
        };
        assert_eq!(stopped.to_string(), "h1: too many failures");
        let lost = |count| StopReason::HostsLost {
            hosts: hosts(count),
        };
        assert_eq!(lost(1).to_string(), "h0 missed its heartbeats");
        assert_eq!(lost(2).to_string(), "h0, h1 missed their heartbeats");
        let many = lost(12).to_string();
        assert!(
            many.ends_with("h9 and 2 more missed their heartbeats"),
            "{many}"
        );
    }

    #[test]
    fn before_the_start_a_reason_is_an_error_that_names_the_same_hosts() {
        let error = |reason: StopReason| RendezvousError::from(reason).to_string();
        let failed = StopReason::HostFailed {
            host: "h1".to_owned(),
            error: "no fq: missing".to_owned(),
        };
        assert_eq!(error(failed.clone()), failed.to_string());
        let lost = StopReason::HostsLost { hosts: hosts(1) };
        assert_eq!(error(lost), "h0 missed its heartbeats before the start");
        let not_written = StopReason::NotWritten {
            error: "write x: no space".to_owned(),
        };
        assert_eq!(error(not_written.clone()), not_written.to_string());
    }

    #[test]
    fn a_reason_passes_through_a_status_file() {
        for reason in [
            StopReason::HostStopped {
                host: "h1".to_owned(),
                cause: StopCause::Broken("a: b".to_owned()),
            },
            StopReason::HostsLost { hosts: hosts(2) },
            StopReason::GivenUp,
        ] {
            let text = serde_json::to_string(&reason).unwrap();
            assert_eq!(serde_json::from_str::<StopReason>(&text).unwrap(), reason);
        }
    }
}
