//! The signals that end a run.
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::RunError;

/// SIGINT, SIGTERM and SIGHUP, which end a run.
pub(super) struct Signals([Signal; 3]);

impl Signals {
    pub fn new() -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(RunError::system("listen to signals"));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    pub(super) async fn any(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}
