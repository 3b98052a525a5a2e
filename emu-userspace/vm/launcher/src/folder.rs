//! A VM's folder: the command for its first process, the answers, and the logs.
use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, IsTerminal},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::Request;

/// The folder, which is removed with the value unless it is kept.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Makes the folder for a request.
    pub fn new(request: &Request) -> anyhow::Result<Self> {
        let folder = Self(tempfile::Builder::new().prefix("emu-vm-").tempdir()?);
        let joined = |parts: Vec<OsString>| {
            let mut bytes = Vec::new();
            for part in parts {
                bytes.extend_from_slice(part.as_bytes());
                bytes.push(0);
            }
            bytes
        };
        folder.write(
            "argv",
            joined(request.argv.iter().map(OsString::from).collect()),
        )?;
        let environment = env::vars_os().map(|(name, value)| {
            let mut pair = name;
            pair.push("=");
            pair.push(value);
            pair
        });
        folder.write("environ", joined(environment.collect()))?;
        folder.write("cwd", joined(vec![env::current_dir()?.into_os_string()]))?;
        let terminals = [
            ("plain-stdout", io::stdout().is_terminal()),
            ("plain-stderr", io::stderr().is_terminal()),
        ];
        // One of several VMs prints its name before each line.
        let plain = |terminal: bool| !terminal || request.name.is_some();
        for (name, _) in terminals.iter().filter(|(_, terminal)| plain(*terminal)) {
            folder.write(name, Vec::new())?;
        }
        if request.interactive {
            folder.write("interactive", Vec::new())?;
        } else if let Ok(input) = fs::read_link("/proc/self/fd/0")
            && input.is_file()
        {
            std::os::unix::fs::symlink(input, folder.path().join("stdin"))?;
        }
        Ok(folder)
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file with the kernel's messages.
    pub fn console(&self) -> PathBuf {
        self.path().join("console.log")
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
        fs::write(self.path().join(name), bytes).with_context(|| format!("write {name}"))
    }

    /// Reads a file, if it exists.
    pub fn read(&self, name: &str) -> Option<String> {
        let bytes = fs::read(self.path().join(name)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The file with the messages of the VM's own process, which come before or after those of
    /// its kernel.
    pub fn process_log(&self) -> PathBuf {
        self.path().join("process.log")
    }

    /// Keeps the folder, and returns the last lines of both logs and the path of the kernel's.
    pub fn keep_console(self) -> (String, PathBuf) {
        let logs = ["console.log", "process.log"].map(|name| self.read(name));
        let log = logs.into_iter().flatten().collect::<Vec<_>>().join("\n");
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(25)..].join("\n");
        let _ = fs::remove_file(self.path().join("initramfs"));
        (tail, self.0.keep().join("console.log"))
    }
}
