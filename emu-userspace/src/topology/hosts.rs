//! The `hosts` section of a file.
use std::net::IpAddr;

use super::{
    Host,
    reader::{Field, Record},
    sections::Groups,
};

/// Keys of a host.
pub(super) const HOST_KEYS: &[&str] = &["name", "interface", "address", "groups", "nodes"];

pub(super) struct ReadHost<'a> {
    pub host: Host,
    pub field: Field<'a>,
}

pub(super) fn hosts<'a>(record: &Record<'a>, groups: &Groups<'a>) -> Vec<ReadHost<'a>> {
    let Some(list) = record.get("hosts").and_then(|f| f.list()) else {
        return Vec::new();
    };
    list.into_iter()
        .filter_map(|field| {
            let host = read_host(&field, groups)?;
            Some(ReadHost { host, field })
        })
        .collect()
}

fn read_host(field: &Field<'_>, groups: &Groups<'_>) -> Option<Host> {
    let record = field.record(HOST_KEYS)?;
    let name = record.need("name", "h1").and_then(|f| f.text());
    let interface = record.need("interface", "eth0").and_then(|f| {
        let text = f.text()?;
        let fits = (1..=15).contains(&text.len()) && !text.contains(['/', ' ']);
        if !fits {
            f.report(
                f.problem(format!("`{text}` is no name of an interface"))
                    .expected("at most 15 characters without `/` and blanks"),
            );
        }
        fits.then_some(text)
    });
    let addresses = host_addresses(&record);
    let carried = record
        .get("groups")
        .and_then(|f| f.list())
        .unwrap_or_default();
    let nodes = record
        .get("nodes")
        .and_then(|f| f.list())
        .unwrap_or_default();
    Some(Host {
        name: name?.to_owned(),
        interface: interface?.to_owned(),
        addresses,
        groups: carried.iter().filter_map(|f| groups.resolve(f)).collect(),
        nodes: nodes.iter().filter_map(run).collect(),
    })
}

/// One address, or a list with one of each family.
fn host_addresses(record: &Record<'_>) -> Vec<IpAddr> {
    let Some(field) = record.get("address") else {
        return Vec::new();
    };
    if !field.is_list() {
        return field.address().into_iter().collect();
    }
    let addresses: Vec<IpAddr> = field
        .list()
        .unwrap_or_default()
        .iter()
        .filter_map(Field::address)
        .collect();
    let v4 = addresses.iter().filter(|a| a.is_ipv4()).count();
    if v4 > 1 || addresses.len() - v4 > 1 {
        field.report(
            field
                .problem("a host has one address of each family")
                .expected("`address: 192.168.7.1` or `address: [192.168.7.1, fd07::1]`"),
        );
    }
    addresses
}

/// An address, or the first and last of a run: `10.1.0.1-10.1.0.80`.
fn run(field: &Field<'_>) -> Option<(IpAddr, IpAddr)> {
    let text = field.text()?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (
        first.trim().parse::<IpAddr>(),
        last.trim().parse::<IpAddr>(),
    ) {
        (Ok(first), Ok(last)) if first.is_ipv4() == last.is_ipv4() && first <= last => {
            Some((first, last))
        }
        _ => {
            field.report(
                field
                    .problem(format!("`{text}` is no address or run of addresses"))
                    .expected("10.1.0.1, or 10.1.0.1-10.1.0.80"),
            );
            None
        }
    }
}
