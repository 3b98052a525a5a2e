//! Texts with placeholders: `{ip}`, `{ip:tracker}`.
use std::net::IpAddr;

use crate::topology::reader::Field;

/// Placeholders without an argument.
pub(super) const PLAIN: [&str; 9] = [
    "ip", "index", "number", "vnode", "group", "host", "seed", "dir", "name",
];
/// Further placeholders, which the error about an unknown one lists.
const FURTHER: [&str; 4] = ["here", "random", "ip:PROGRAM", "ips:PROGRAM"];

/// A text with placeholders, which are filled in for each process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Hole(Hole),
}

/// A placeholder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hole {
    Ip,
    Index,
    Number,
    Vnode,
    Group,
    Host,
    Seed,
    Random,
    Dir,
    Here,
    Name,
    /// The address of a program's first vnode, or of a vnode.
    IpOf(String),
    /// The addresses of all vnodes of a program, separated by commas.
    IpsOf(String),
}

/// The values of the placeholders.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    /// Address of the vnode.
    pub ip: IpAddr,
    /// Its index in its group.
    pub index: usize,
    /// Its index among the vnodes of the program.
    pub number: usize,
    /// Name of its group.
    pub group: &'a str,
    /// Name of the host that carries it.
    pub host: &'a str,
    /// Seed of the run.
    pub seed: u64,
    /// A random number of this process, from the seed.
    pub random: u64,
    /// Working folder.
    pub dir: &'a str,
    /// Folder of the experiment's file.
    pub here: &'a str,
    /// Name of the program.
    pub name: &'a str,
}

impl Template {
    /// Reads a text, and reports unknown placeholders.
    pub(super) fn read(field: &Field<'_>) -> Option<Self> {
        if field.is_map() {
            field.report(
                field
                    .problem("found a map, expected a text")
                    .expected("a text in quotes, as in \"{ip}\": YAML reads braces as a map"),
            );
            return None;
        }
        match Self::parse(field.text()?) {
            Ok(template) => Some(template),
            Err(name) => {
                let known = PLAIN.iter().chain(&FURTHER).copied();
                let list: Vec<String> = known.clone().map(|k| format!("{{{k}}}")).collect();
                field.report(
                    field
                        .problem(format!("there is no placeholder `{{{name}}}`"))
                        .expected(format!("one of {}", list.join(" ")))
                        .hint(field.similar(&name, known).unwrap_or_else(|| {
                            "write `{{` and `}}` for braces that are meant as such".to_owned()
                        })),
                );
                None
            }
        }
    }

    /// Parses a text.
    ///
    /// # Errors
    /// The unknown placeholder.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut pieces, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            plain += before;
            if from.starts_with("{{") || from.starts_with("}}") {
                plain += &from[..1];
                rest = &from[2..];
                continue;
            }
            let Some((name, after)) = from
                .strip_prefix('{')
                .and_then(|inside| inside.split_once('}'))
            else {
                return Err(from.trim_start_matches('{').to_owned());
            };
            let hole = hole(name).ok_or_else(|| name.to_owned())?;
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
            pieces.push(Piece::Hole(hole));
            rest = after;
        }
        plain += rest;
        pieces.push(Piece::Text(plain));
        Ok(Self(pieces))
    }

    /// Names of the programs or vnodes whose addresses the text needs.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Hole(Hole::IpOf(name) | Hole::IpsOf(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Fills in the values; `addresses` returns the addresses of another program or vnode.
    pub(super) fn fill(
        &self,
        values: &Values<'_>,
        addresses: &dyn Fn(&str) -> Vec<IpAddr>,
    ) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            let Piece::Hole(hole) = piece else {
                if let Piece::Text(plain) = piece {
                    text += plain;
                }
                continue;
            };
            text += &match hole {
                Hole::Ip => values.ip.to_string(),
                Hole::Index => values.index.to_string(),
                Hole::Number => values.number.to_string(),
                Hole::Vnode => format!("{}/{}", values.group, values.index),
                Hole::Group => values.group.to_owned(),
                Hole::Host => values.host.to_owned(),
                Hole::Seed => values.seed.to_string(),
                Hole::Random => values.random.to_string(),
                Hole::Dir => values.dir.to_owned(),
                Hole::Here => values.here.to_owned(),
                Hole::Name => values.name.to_owned(),
                Hole::IpOf(name) => addresses(name)
                    .first()
                    .map_or_else(String::new, IpAddr::to_string),
                Hole::IpsOf(name) => {
                    let list: Vec<String> = addresses(name).iter().map(IpAddr::to_string).collect();
                    list.join(",")
                }
            };
        }
        text
    }
}

fn hole(name: &str) -> Option<Hole> {
    let other = |prefix: &str| Some(name.strip_prefix(prefix)?.trim().to_owned());
    Some(match name {
        "ip" => Hole::Ip,
        "index" => Hole::Index,
        "number" => Hole::Number,
        "vnode" => Hole::Vnode,
        "group" => Hole::Group,
        "host" => Hole::Host,
        "seed" => Hole::Seed,
        "random" => Hole::Random,
        "dir" => Hole::Dir,
        "here" => Hole::Here,
        "name" => Hole::Name,
        _ => match (other("ip:"), other("ips:")) {
            (Some(name), _) => Hole::IpOf(name),
            (None, Some(name)) => Hole::IpsOf(name),
            (None, None) => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(text: &str) -> String {
        let values = Values {
            ip: IpAddr::from([10, 1, 0, 3]),
            index: 2,
            number: 5,
            group: "adsl",
            host: "h1",
            seed: 7,
            random: 99,
            dir: "/w",
            here: "/e",
            name: "client",
        };
        let others = |name: &str| match name {
            "tracker" => vec![IpAddr::from([10, 2, 0, 1]), IpAddr::from([10, 2, 0, 2])],
            _ => Vec::new(),
        };
        Template::parse(text).unwrap().fill(&values, &others)
    }

    #[test]
    fn placeholders_are_filled_in() {
        assert_eq!(fill("--ip={ip}:{index}/{number}"), "--ip=10.1.0.3:2/5");
        assert_eq!(
            fill("{vnode} {group} {host} {name}"),
            "adsl/2 adsl h1 client"
        );
        assert_eq!(fill("{seed}{random}{dir}{here}"), "799/w/e");
        assert_eq!(fill("http://{ip:tracker}/"), "http://10.2.0.1/");
        assert_eq!(fill("{ips: tracker}"), "10.2.0.1,10.2.0.2");
        assert_eq!(
            fill("awk '{{print $1}}' {{{ip}}}"),
            "awk '{print $1}' {10.1.0.3}"
        );
        assert_eq!(fill(""), "");
    }

    #[test]
    fn others_are_named() {
        for (text, name) in [("{port}", "port"), ("a {b", "b"), ("}", "}"), ("{}", "")] {
            assert_eq!(Template::parse(text), Err(name.to_owned()));
        }
    }
}
