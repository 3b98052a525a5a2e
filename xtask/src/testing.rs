//! Packages of Debian's next release, unpacked without installing them.
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use crate::{
    build::{on_path, succeed},
    install::{extract, quiet},
};

/// Fetches a package of Debian testing from this machine's own mirror, and unpacks it into a
/// folder. Neither the package nor its release becomes known to the machine's apt.
pub fn unpack(package: &str, root: &Path) -> anyhow::Result<()> {
    let mirror = mirror()?;
    eprintln!(
        "xtask: fetching {package} of Debian testing (apt-get) and unpacking into {}; nothing \
         is installed",
        root.display()
    );
    let archives = root.with_extension("archives");
    download(package, &mirror, &archives).with_context(|| format!("fetch {package}"))?;
    extract(&archives, root)?;
    fs::remove_dir_all(&archives).context("remove the fetched package")
}

/// The mirror from which this machine's apt fetches Debian.
fn mirror() -> anyhow::Result<String> {
    if !on_path("apt-get") || !on_path("dpkg") {
        bail!("packages of Debian testing cannot be fetched without apt-get and dpkg");
    }
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(URI)"])
        .args(["Created-By: Packages", "Origin: Debian"])
        .stderr(Stdio::null())
        .output()
        .context("start apt-get")?;
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    first_mirror(&list)
        .map(str::to_owned)
        .context("apt knows no Debian mirror; as root: apt-get update")
}

/// The part before `dists` of the first index that is not of the security archive.
fn first_mirror(list: &str) -> Option<&str> {
    list.lines()
        .filter(|uri| !uri.contains("security"))
        .find_map(|uri| uri.split_once("/dists/"))
        .map(|(mirror, _)| mirror)
}

/// Fetches the package with lists and settings of its own, which the machine's apt does not see.
fn download(package: &str, mirror: &str, folder: &Path) -> anyhow::Result<()> {
    let (lists, cache) = (folder.join("lists"), folder.join("cache"));
    for folder in [lists.join("partial"), cache.join("archives/partial")] {
        fs::create_dir_all(folder)?;
    }
    let sources = folder.join("testing.list");
    fs::write(&sources, format!("deb {mirror} testing main\n"))?;
    let apt = |verb: &str| {
        let mut apt = quiet("apt-get");
        apt.args(["-qq", verb])
            .args(["-o", &format!("Dir::Etc::SourceList={}", sources.display())])
            .args(["-o", "Dir::Etc::SourceParts=/dev/null"])
            .args(["-o", &format!("Dir::State::Lists={}", lists.display())])
            .args(["-o", &format!("Dir::Cache={}", cache.display())])
            .args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User="])
            .current_dir(folder);
        apt
    };
    succeed(&mut apt("update"))?;
    succeed(apt("download").arg(package))
}

#[cfg(test)]
mod tests {
    use super::first_mirror;

    #[test]
    fn the_mirror_is_the_machines_own() {
        let list = "http://a.example/debian-security/dists/x-security/main/P\n\
                    http://b.example/debian/dists/x/main/binary-amd64/Packages\n";
        assert_eq!(first_mirror(list), Some("http://b.example/debian"));
        assert_eq!(first_mirror(""), None);
    }
}
