//! stub
#![allow(missing_docs)]
use ipnet::IpNet;
use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};
pub type GroupId = usize;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    Alias,
    AnyIp,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accounting;
impl Accounting {
    pub fn overhead_bytes(&self) -> i32 {
        0
    }
}
#[derive(Debug, Clone, Default)]
pub struct FqSettings {
    pub limit_packets: Option<u32>,
    pub flow_limit_packets: Option<u32>,
    pub horizon: Option<Duration>,
    pub buckets: Option<u32>,
    pub orphan_mask: Option<u32>,
}
#[derive(Clone, Copy)]
pub struct Rate(pub u64);
pub enum Queue {
    Packets(u32),
    Bytes(u64),
    Time(Duration),
}
pub struct Pipe {
    pub rate: Option<Rate>,
    pub latency: Duration,
    pub queue: Queue,
    pub burst_bytes: u64,
}
pub struct Group {
    pub name: String,
    pub parent: Option<GroupId>,
    pub prefix: IpNet,
    pub n: u32,
    pub up: Pipe,
    pub down: Pipe,
}
pub struct Host {
    pub name: String,
    pub interface: String,
    pub address: Option<IpAddr>,
}
pub struct Topology {
    pub name: String,
    pub addressing: Addressing,
    pub accounting: Accounting,
    pub mtu_bytes: u32,
    pub fq: FqSettings,
    pub groups: Vec<Group>,
    pub hosts: Vec<Host>,
    pub lat: Vec<(usize, usize, u64)>,
}
impl Topology {
    pub fn vnode_count(&self, g: GroupId) -> u32 {
        self.groups[g].n
    }
    pub fn vnode_addresses(&self, g: GroupId) -> impl Iterator<Item = IpAddr> + '_ {
        let IpNet::V4(p) = self.groups[g].prefix else {
            panic!()
        };
        p.hosts()
            .take(self.groups[g].n as usize)
            .map(|a: Ipv4Addr| IpAddr::V4(a))
    }
    pub fn host_vnodes(&self, _h: &str) -> Vec<IpAddr> {
        vec![]
    }
    pub fn group_of(&self, _a: IpAddr) -> Option<GroupId> {
        None
    }
    pub fn pair_latency(&self, s: GroupId, d: GroupId) -> Duration {
        for (a, b, l) in &self.lat {
            if (*a, *b) == (s, d) || (*a, *b) == (d, s) {
                return Duration::from_millis(*l);
            }
        }
        Duration::ZERO
    }
}
pub fn p2p() -> Topology {
    let g = |n: &str, p: &str, c: u32, d: u64, u: u64, l: u64| Group {
        name: n.into(),
        parent: None,
        prefix: p.parse().unwrap(),
        n: c,
        up: Pipe {
            rate: Some(Rate(u)),
            latency: Duration::from_millis(l),
            queue: Queue::Packets(50),
            burst_bytes: 0,
        },
        down: Pipe {
            rate: Some(Rate(d)),
            latency: Duration::from_millis(l),
            queue: Queue::Packets(50),
            burst_bytes: 0,
        },
    };
    Topology {
        name: "p2p".into(),
        addressing: Addressing::Alias,
        accounting: Accounting,
        mtu_bytes: 1500,
        fq: FqSettings::default(),
        hosts: vec![],
        groups: vec![
            g("modem", "10.1.1.0/24", 250, 56000, 33600, 100),
            g("adsl", "10.1.2.0/24", 250, 512000, 128000, 40),
            g("cable", "10.1.3.0/24", 250, 8000000, 1000000, 20),
            g("lan", "10.2.0.0/16", 1000, 10000000, 10000000, 5),
            g("far", "10.3.0.0/16", 1000, 1000000, 1000000, 10),
        ],
        lat: vec![
            (0, 1, 100),
            (0, 2, 100),
            (1, 2, 100),
            (0, 3, 400),
            (1, 3, 400),
            (2, 3, 400),
            (0, 4, 600),
            (1, 4, 600),
            (2, 4, 600),
            (3, 4, 1000),
        ],
    }
}
pub fn load(_p: &Path) -> Topology {
    p2p()
}
