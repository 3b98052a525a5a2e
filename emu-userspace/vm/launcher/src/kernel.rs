//! Kernels that a VM can boot: User-Mode Linux, Debian's kernels, or the file of a kernel.
use std::{
    fmt, fs,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, bail};

use crate::{
    Request,
    provider::{Need, Provider},
    qemu, testing, uml,
};

const UML: &str = "/usr/bin/linux.uml";
const TESTING: &str = "uml-testing";
/// Kernel series and their Debian packages.
const SERIES: [(&str, &str); 2] = [
    ("6.1", "linux-image-amd64"),
    ("6.12", "linux-image-6.12-amd64"),
];

/// A kernel as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kernel {
    /// Debian's User-Mode Linux.
    Uml,
    /// User-Mode Linux of Debian's next release.
    Testing,
    /// A series of Debian's kernels.
    Series(&'static str, &'static str),
    /// A User-Mode Linux binary or a bootable image.
    File(PathBuf),
}

/// A bootable image for QEMU.
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// The kernel's release, as of `uname -r`.
    pub release: String,
    /// The folder of its modules.
    pub modules: PathBuf,
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "uml" {
            return Ok(Self::Uml);
        }
        if text == TESTING {
            return Ok(Self::Testing);
        }
        if let Some((series, package)) = SERIES.iter().find(|(series, _)| *series == text) {
            return Ok(Self::Series(series, package));
        }
        if text.contains('/') {
            let path = Path::new(text).canonicalize().map_err(|e| e.to_string())?;
            let program = fs::metadata(&path)
                .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
            return if program || release(&path).is_ok() {
                Ok(Self::File(path))
            } else {
                Err("it is no kernel: neither an image that boots nor a program".to_owned())
            };
        }
        Err("it is none of uml, uml-testing, 6.1, 6.12, and no path of a kernel".to_owned())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uml => write!(f, "uml"),
            Self::Testing => write!(f, "{TESTING}"),
            Self::Series(series, _) => write!(f, "{series}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Kernel {
    /// Every kernel with a name.
    pub fn named() -> Vec<Self> {
        let series = SERIES.iter().map(|(s, p)| Self::Series(s, p));
        [Self::Uml, Self::Testing]
            .into_iter()
            .chain(series)
            .collect()
    }

    /// The User-Mode Linux that runs commands: the newer one if it can be fetched and works,
    /// which is tried once; otherwise the installed one.
    pub fn quick(provider: &dyn Provider) -> Self {
        let trial = || Self::Testing.run(provider, &Request::trial());
        match testing::works(provider, trial) {
            Ok(()) => Self::Testing,
            Err(error) => {
                provider.notice(&format!("taking the installed User-Mode Linux: {error:#}"));
                Self::Uml
            }
        }
    }

    /// The kernel's name in names of files.
    pub fn file_name(&self) -> String {
        self.to_string().replace('/', "-")
    }

    /// Whether the kernel can run without an installation.
    pub fn at_hand(&self, provider: &dyn Provider) -> bool {
        match self {
            Self::Uml => Path::new(UML).exists(),
            Self::Testing => testing::at_hand(provider).is_some(),
            Self::Series(series, _) => qemu::installed() && installed(series).is_some(),
            Self::File(_) => true,
        }
    }

    /// Whether the kernel runs on an emulated processor, which is slow.
    pub fn is_emulated(&self) -> bool {
        match self {
            Self::Uml | Self::Testing => false,
            Self::Series(..) => true,
            Self::File(path) => release(path).is_ok(),
        }
    }

    /// Runs a command in a VM with this kernel and returns the command's exit status; 124 if
    /// the VM was stopped at a limit of time, 125 if the VM failed.
    ///
    /// # Errors
    /// A package, program or file is missing, or the VM cannot be started.
    pub fn run(&self, provider: &dyn Provider, request: &Request) -> anyhow::Result<u8> {
        match self {
            Self::Uml => {
                let need = Need {
                    file: UML,
                    package: "user-mode-linux",
                };
                provider.install("the VM", &[need])?;
                uml::run(provider, request, Path::new(UML), None)
            }
            Self::Testing => {
                let unpacked = testing::fetched(provider)?;
                uml::run(provider, request, &unpacked.kernel, Some(&unpacked.modules))
            }
            Self::Series(series, package) => {
                if installed(series).is_none() {
                    // The file's name has a version that only the package knows.
                    let need = Need {
                        file: "/nonexistent",
                        package,
                    };
                    provider.install("the QEMU VM", &[need])?;
                }
                let path = installed(series)
                    .with_context(|| format!("{package} has no kernel {series} in /boot"))?;
                qemu::run(provider, request, &Image::new(path)?)
            }
            Self::File(path) if self.is_emulated() => {
                qemu::run(provider, request, &Image::new(path.clone())?)
            }
            Self::File(path) => uml::run(provider, request, path, None),
        }
    }
}

impl Image {
    fn new(path: PathBuf) -> anyhow::Result<Self> {
        let release = release(&path)?;
        // An unpacked package has its modules next to its boot folder.
        let beside = path
            .parent()
            .and_then(Path::parent)
            .unwrap_or(Path::new("/"));
        let modules = [beside.join("lib/modules"), "/lib/modules".into()]
            .map(|base| base.join(&release))
            .into_iter()
            .find(|folder| folder.join("modules.dep").exists())
            .with_context(|| format!("no modules of kernel {release}"))?;
        Ok(Self {
            path,
            release,
            modules,
        })
    }
}

/// The release that the header of a bootable image names (Linux,
/// Documentation/arch/x86/boot.rst: `kernel_version` at 0x20e).
fn release(image: &Path) -> anyhow::Result<String> {
    let mut file = fs::File::open(image).with_context(|| format!("open {}", image.display()))?;
    let mut header = [0; 0x210];
    file.read_exact(&mut header).context("read the header")?;
    if &header[0x202..0x206] != b"HdrS" {
        bail!("{} is no kernel that QEMU boots", image.display());
    }
    let at = u64::from(u16::from_le_bytes([header[0x20e], header[0x20f]])) + 0x200;
    file.seek(SeekFrom::Start(at))?;
    let mut text = [0; 128];
    file.read_exact(&mut text).context("read the release")?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let release = text.split([' ', '\0']).next().unwrap_or_default();
    Ok(release.to_owned())
}

/// The newest installed kernel of a series.
fn installed(series: &str) -> Option<PathBuf> {
    let prefix = format!("vmlinuz-{series}.");
    let names = fs::read_dir("/boot").ok()?;
    names
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.starts_with(&prefix))
        .max_by_key(|name| numbers(name))
        .map(|name| Path::new("/boot").join(name))
}

/// The numbers in a name, which order versions as people do.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Kernel, numbers, release};

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        assert!(numbers("vmlinuz-6.1.0-56-amd64") > numbers("vmlinuz-6.1.0-9-amd64"));
        assert!(numbers("vmlinuz-6.12.117+deb12-amd64") > numbers("vmlinuz-6.12.94+deb12-amd64"));
    }

    #[test]
    fn names_are_what_is_asked_for() {
        for name in ["uml", "uml-testing", "6.1", "6.12"] {
            assert_eq!(name.parse::<Kernel>().unwrap().to_string(), name);
        }
        assert!("5.4".parse::<Kernel>().unwrap_err().contains("6.12"));
        assert!("/nonexistent/linux".parse::<Kernel>().is_err());
        let words = "/etc/passwd".parse::<Kernel>().unwrap_err();
        assert!(words.contains("no kernel"), "{words}");
    }

    #[test]
    fn an_image_names_its_release() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("vmlinuz");
        let mut bytes = vec![0; 0x400];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        bytes[0x300..0x316].copy_from_slice(b"6.6.13-amd64 (someone)");
        std::fs::write(&image, &bytes).unwrap();
        assert_eq!(release(&image).unwrap(), "6.6.13-amd64");
        bytes[0x202] = b'?';
        std::fs::write(&image, &bytes).unwrap();
        assert!(release(&image).is_err());
    }
}
