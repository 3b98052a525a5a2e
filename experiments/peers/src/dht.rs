//! A node of the BitTorrent DHT, which puts a value and gets that of an earlier node.
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

/// Read timeout of a node that is still looking for a value.
const SEARCH_READ_TIMEOUT: Duration = Duration::from_millis(250);
/// Read timeout of a node that only serves; a request wakes it up earlier.
const SERVE_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Distance, in numbers, to the node whose value a node looks for, so that the other node had
/// time to put the value; the first nodes look for that of number 0.
const BEFORE: u32 = 16;

/// Arguments of `peers dht`.
#[derive(Args)]
pub struct Dht {
    /// UDP port of this node.
    #[arg(long, default_value_t = 6881)]
    port: u16,
    /// Address of a running node; without one, this is the first node.
    #[arg(long, value_name = "IP:PORT")]
    bootstrap: Vec<String>,
    /// Number of this node, from 0.
    #[arg(long, default_value_t = 0)]
    number: u32,
    /// Number of nodes that put values; with 0 this node only serves.
    #[arg(long, default_value_t = 0)]
    of: u32,
    /// Timeout for finding the other node's value.
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    patience: u64,
    /// Time for which the node serves others afterwards.
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
        wakeups::every(self.port, SEARCH_READ_TIMEOUT)?;
        if !self.bootstrap.is_empty() {
            while !dht.bootstrapped().await {
                let patience = Duration::from_secs(self.patience);
                ensure!(begin.elapsed() < patience, "no node answered");
                sleep(Duration::from_secs(1)).await;
            }
            say(begin, "bootstrapped");
        }
        if self.of == 0 {
            wakeups::every(self.port, SERVE_READ_TIMEOUT)?;
            return future::pending().await;
        }
        self.exchange(&dht, begin).await?;
        wakeups::every(self.port, SERVE_READ_TIMEOUT)?;
        sleep(Duration::from_secs(self.stay)).await;
        Ok(())
    }

    /// Puts a value, then gets that of a node that was started some time earlier.
    async fn exchange(&self, dht: &AsyncDht, begin: Instant) -> anyhow::Result<()> {
        let deadline = begin + Duration::from_secs(self.patience);
        // The put fails while no other node knows this one, so it is retried.
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

/// The value that a node puts.
fn value(number: u32) -> Vec<u8> {
    format!("value of node {number}").into_bytes()
}

/// The key under which the DHT stores a value: the SHA-1 of its bencoded form (BEP 44).
fn target(value: &[u8]) -> anyhow::Result<Id> {
    let mut encoded = format!("{}:", value.len()).into_bytes();
    encoded.extend_from_slice(value);
    Ok(Id::from_bytes(Sha1::digest(&encoded))?)
}

#[expect(clippy::print_stdout, reason = "what an experiment reads")]
fn say(begin: Instant, what: &str) {
    println!("{what} {:.3}", begin.elapsed().as_secs_f64());
}
