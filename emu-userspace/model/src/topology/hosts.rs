//! The `hosts` section of a file.
use std::net::IpAddr;

use crate::name::{self, NameTemplate};

use super::{
    Host, HostTemplate, Placement,
    reader::{Field, Record, resolve},
    sections::Groups,
    units,
};

/// Keys of a host.
pub(super) const HOST_KEYS: &[&str] = &["name", "interface", "address", "link", "groups", "nodes"];
/// Keys of hosts that share a template.
pub(super) const ALIKE_KEYS: &[&str] = &["count", "name", "interface", "address", "link"];
/// Largest number of hosts in a file.
const MOST_HOSTS: i64 = 4_096;

pub(super) struct ReadHost<'a> {
    pub host: Host,
    pub field: Field<'a>,
}

/// Content of the section.
#[derive(Default)]
pub(super) struct Hosts<'a> {
    pub list: Vec<ReadHost<'a>>,
    pub template: Option<HostTemplate>,
    pub placement: Option<Placement>,
}

pub(super) fn hosts<'a>(record: &Record<'a>, groups: &Groups<'a>) -> Hosts<'a> {
    let placement = record.get("placement").and_then(|field| {
        let names = Placement::NAMES.iter().map(|(name, _)| *name);
        resolve(&field, "placement", names).map(|i| Placement::NAMES[i].1)
    });
    let mut hosts = Hosts {
        placement,
        ..Hosts::default()
    };
    let Some(section) = record.get("hosts") else {
        return hosts;
    };
    if section.is_map() {
        let Some((template, count)) = alike(&section) else {
            return hosts;
        };
        hosts.placement = hosts.placement.or(Some(Placement::Block));
        let field = |host| ReadHost {
            host,
            field: section.clone(),
        };
        hosts.list = template.hosts(count).into_iter().map(field).collect();
        hosts.template = Some(template);
    } else {
        hosts.list = listed(&section, groups);
    }
    hosts
}

/// Reads hosts that share a template.
fn alike(field: &Field<'_>) -> Option<(HostTemplate, usize)> {
    let record = field.record(ALIKE_KEYS)?;
    let count = record
        .need("count", "4")
        .and_then(|f| f.number(1, MOST_HOSTS));
    let interface = record.need("interface", "eth0").and_then(|f| interface(&f));
    let name = record.get("name").and_then(|f| {
        let text = f.text()?;
        let template = NameTemplate::new(text).ok();
        if template.is_none() {
            let problem = if text.contains("{rank}") {
                f.problem(format!("`{text}` does not make names"))
                    .expected(name::RULE)
            } else {
                f.problem(format!("`{text}` gives all hosts the same name"))
                    .expected("a name with `{rank}`, as in `node-{rank}`")
            };
            f.report(problem);
        }
        template
    });
    let template = HostTemplate {
        name: name.unwrap_or_default(),
        interface: interface?.to_owned(),
        addresses: host_addresses(&record),
        link: record.get("link").and_then(|f| f.unit(units::rate)),
    };
    Some((template, count? as usize))
}

fn listed<'a>(section: &Field<'a>, groups: &Groups<'a>) -> Vec<ReadHost<'a>> {
    let Some(list) = section.list() else {
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
    let name = record.need("name", "h1").and_then(|f| {
        let name = f.name()?;
        if name == "auto" {
            f.report(f.problem(
                "`auto` is not a valid name of a host: `--host auto` selects the host by itself",
            ));
        }
        Some(name)
    });
    let interface = record.need("interface", "eth0").and_then(|f| interface(&f));
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
        name: name?,
        interface: interface?.to_owned(),
        addresses,
        link: record.get("link").and_then(|f| f.unit(units::rate)),
        groups: carried.iter().filter_map(|f| groups.resolve(f)).collect(),
        nodes: nodes.iter().filter_map(run).collect(),
    })
}

fn interface<'a>(field: &Field<'a>) -> Option<&'a str> {
    let text = field.text()?;
    let fits = (1..=15).contains(&text.len()) && !text.contains(['/', ' ']);
    if !fits {
        field.report(
            field
                .problem(format!("`{text}` is not a name of an interface"))
                .expected("at most 15 characters without `/` and spaces"),
        );
    }
    fits.then_some(text)
}

/// One address, or a list with one address of each family.
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

/// An address, or the first and last address of a range: `10.1.0.1-10.1.0.80`.
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
                    .problem(format!(
                        "`{text}` is not an address or a range of addresses"
                    ))
                    .expected("10.1.0.1, or 10.1.0.1-10.1.0.80"),
            );
            None
        }
    }
}
