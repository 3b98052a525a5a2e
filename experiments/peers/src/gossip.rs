//! A member of a gossip cluster, which waits until it knows all other members.
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::bail;
use chitchat::{
    ChitchatConfig, ChitchatId, FailureDetectorConfig, ProtocolVersion, spawn_chitchat,
    transport::UdpTransport,
};
use clap::Args;

/// Arguments of `peers gossip`.
#[derive(Args)]
pub struct Gossip {
    /// Address at which the other members reach this one.
    #[arg(long)]
    address: IpAddr,
    /// UDP port of this member.
    #[arg(long, default_value_t = 7946)]
    port: u16,
    /// Address of a running member.
    #[arg(long, value_name = "IP:PORT")]
    seed: Vec<String>,
    /// Number of members of the cluster, including this one.
    #[arg(long)]
    members: usize,
    /// Time between two rounds of gossip.
    #[arg(long, default_value = "500", value_name = "MILLISECONDS")]
    interval: u64,
    /// Timeout for all members to appear.
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    patience: u64,
    /// Time for which the member stays afterwards.
    #[arg(long, default_value = "10", value_name = "SECONDS")]
    stay: u64,
}

impl Gossip {
    pub fn run(self) -> anyhow::Result<()> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(self.take_part())
    }

    async fn take_part(self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let own = SocketAddr::new(self.address, self.port);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(own.to_string(), 0, own),
            cluster_id: "experiment".to_owned(),
            gossip_interval: Duration::from_millis(self.interval),
            listen_addr: SocketAddr::new(any(self.address), self.port),
            seed_nodes: self.seed,
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: Duration::from_secs(3600),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V0,
        };
        let member = spawn_chitchat(config, Vec::new(), &UdpTransport).await?;
        let mut most = 0;
        while most < self.members {
            if begin.elapsed() > Duration::from_secs(self.patience) {
                bail!("{most} of {} members known", self.members);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let live = member
                .with_chitchat(|chitchat| chitchat.live_nodes().count())
                .await;
            most = most.max(live);
        }
        say(begin, most);
        tokio::time::sleep(Duration::from_secs(self.stay)).await;
        member.shutdown().await
    }
}

/// The wildcard address of the same family.
fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::from([0, 0, 0, 0]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

#[expect(clippy::print_stdout, reason = "what an experiment reads")]
fn say(begin: Instant, members: usize) {
    println!("members {members} {:.3}", begin.elapsed().as_secs_f64());
}
