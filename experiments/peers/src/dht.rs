//! A node of the BitTorrent DHT that puts a value and gets that of a node before it.
use std::{
    future,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use clap::Args;
use mainline::{Id, async_dht::AsyncDht};
use sha1::{Digest, Sha1};
use tokio::time::sleep;

use crate::wakeups;

/// How often a node that looks for something wakes up when nothing comes.
const LOOKING: Duration = Duration::from_millis(250);
/// The same for one that only serves: what comes wakes it up.
const SERVING: Duration = Duration::from_secs(10);
/// A node looks for the value of the one that is so many numbers before it, which had time
/// to put it; the first ones for that of number 0.
const BEFORE: u32 = 16;

/// Arguments of `peers dht`.
#[derive(Args)]
pub struct Dht {
    /// UDP port.
    #[arg(long, default_value_t = 6881)]
    port: u16,
    /// A node that is there already; none: this is the first.
    #[arg(long, value_name = "IP:PORT")]
    bootstrap: Vec<String>,
    /// Number of this node, the first being 0.
    #[arg(long, default_value_t = 0)]
    number: u32,
    /// How many nodes put values; 0: none, this one only serves.
    #[arg(long, default_value_t = 0)]
    of: u32,
    /// How long to look for the other's value.
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    patience: u64,
    /// How long to serve others after that.
    #[arg(long, default_value = "0", value_name = "SECONDS")]
    stay: u64,
}

impl Dht {
    pub fn run(self) -> anyhow::Result<()> {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?
            .block_on(self.take_part())
    }

    async fn take_part(self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut builder = mainline::Dht::builder();
        builder.server_mode().port(self.port);
        if self.bootstrap.is_empty() {
            builder.no_bootstrap();
        } else {
            builder.bootstrap(&self.bootstrap);
        }
        let dht = builder.build()?.as_async();
        wakeups::every(self.port, LOOKING)?;
        if !self.bootstrap.is_empty() {
            while !dht.bootstrapped().await {
                let patience = Duration::from_secs(self.patience);
                ensure!(begin.elapsed() < patience, "no node answered");
                sleep(Duration::from_secs(1)).await;
            }
            say(begin, "bootstrapped");
        }
        if self.of == 0 {
            wakeups::every(self.port, SERVING)?;
            return future::pending().await;
        }
        self.exchange(&dht, begin).await?;
        wakeups::every(self.port, SERVING)?;
        sleep(Duration::from_secs(self.stay)).await;
        Ok(())
    }

    /// Puts a value, then gets that of a node that was started some time before.
    async fn exchange(&self, dht: &AsyncDht, begin: Instant) -> anyhow::Result<()> {
        let deadline = begin + Duration::from_secs(self.patience);
        // A node that everybody else forgot for a moment finds nobody: try again.
        let mut put = dht.put_immutable(&value(self.number)).await;
        while let Err(error) = &put {
            ensure!(Instant::now() < deadline, "put: {error}");
            sleep(Duration::from_secs(1)).await;
            put = dht.put_immutable(&value(self.number)).await;
        }
        say(begin, "put");
        let wanted = value(self.number.saturating_sub(BEFORE));
        let target = target(&wanted)?;
        let mut pause = Duration::from_secs(1);
        loop {
            if let Some(found) = dht.get_immutable(target).await {
                ensure!(*found == *wanted, "got another value");
                say(begin, "found");
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the other's value was not found");
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(8));
        }
    }
}

/// The value of a node.
fn value(number: u32) -> Vec<u8> {
    format!("value of node {number}").into_bytes()
}

/// Where the DHT keeps a value: BEP 44, the SHA-1 of its bencoded form.
fn target(value: &[u8]) -> anyhow::Result<Id> {
    let mut encoded = format!("{}:", value.len()).into_bytes();
    encoded.extend_from_slice(value);
    Ok(Id::from_bytes(Sha1::digest(&encoded))?)
}

#[expect(clippy::print_stdout, reason = "what an experiment reads")]
fn say(begin: Instant, what: &str) {
    println!("{what} {:.3}", begin.elapsed().as_secs_f64());
}
