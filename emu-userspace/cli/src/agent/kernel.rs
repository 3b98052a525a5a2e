//! Tells the reconciler when the kernel's network configuration has changed: somebody may have
//! taken away a part of what is loaded.
use std::{io, sync::mpsc::Sender, thread, time::Duration};

use emu_kernel::{changes::Changes, netlink::NetlinkError};

use super::Message;

/// How long to wait for the rest of a change, which is several notifications.
const SETTLE: Duration = Duration::from_millis(100);
/// The least time between two messages to the reconciler: somebody may change routes all the time.
const PAUSE: Duration = Duration::from_millis(400);
/// Time after which a thread that hears nothing looks whether the reconciler is still there.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Starts listening; the thread ends with the reconciler.
pub(super) fn start(tell: Sender<Message>) -> Result<(), NetlinkError> {
    let changes = Changes::open()?;
    let listen = move || {
        loop {
            match changes.wait(LONGEST_WAIT) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) => {
                    tracing::warn!(%error, "no more notifications of the kernel");
                    return;
                }
            }
            thread::sleep(SETTLE);
            // Notifications that come from here on are of later changes.
            let drained = changes.drain();
            if drained.is_err() || tell.send(Message::Changed).is_err() {
                return;
            }
            thread::sleep(PAUSE);
        }
    };
    thread::Builder::new()
        .name("kernel".to_owned())
        .spawn(listen)
        .map_err(|e: io::Error| NetlinkError::Socket(e))?;
    Ok(())
}
