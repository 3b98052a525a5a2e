//! Description of the machine of a measurement.
use std::{fs, time::SystemTime};

use serde::Serialize;

/// Machine, kernel and program version of a measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// Version of emu, and whether it was built with debug assertions.
    pub emu: String,
    /// Kernel release and architecture.
    pub kernel: String,
    /// Whether the kernel compiles BPF programs (JIT) or interprets them.
    pub bpf: String,
    /// Number and name of the CPUs.
    pub machine: String,
    /// Main memory in mebibytes.
    pub memory_mib: u64,
    /// Time of the measurement in UTC.
    pub time: String,
    /// Command line of the measurement.
    pub command: String,
}

impl Environment {
    /// The environment of this process, at the time of the call.
    pub fn here() -> Self {
        let build = if cfg!(debug_assertions) {
            " (debug build)"
        } else {
            ""
        };
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Self {
            emu: format!("{}{build}", env!("CARGO_PKG_VERSION")),
            kernel: kernel(),
            bpf: bpf().to_owned(),
            machine: machine(),
            memory_mib: memory_mib(),
            time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: format!("emu {}", arguments.join(" ")),
        }
    }

    /// Labels and text of all fields.
    pub fn lines(&self) -> [(&'static str, String); 7] {
        [
            ("command", self.command.clone()),
            ("emu", self.emu.clone()),
            ("kernel", self.kernel.clone()),
            ("BPF programs", self.bpf.clone()),
            ("machine", self.machine.clone()),
            ("memory", format!("{} MiB", self.memory_mib)),
            ("time", self.time.clone()),
        ]
    }
}

/// Kernel release and architecture from uname(2).
fn kernel() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| "unknown".to_owned(),
        |u| {
            [u.sysname(), u.release(), u.machine()]
                .map(|part| part.to_string_lossy().into_owned())
                .join(" ")
        },
    )
}

fn bpf() -> &'static str {
    // If the JIT is always on, the file is missing or contains 1; a kernel without a JIT
    // has no such file.
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(text) if text.trim() == "0" => "interpreted",
        Ok(_) => "compiled (JIT)",
        Err(_) => "interpreted: the kernel has no compiler",
    }
}

fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let values = |key: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    };
    let (processors, models) = (values("processor").len(), values("model name"));
    let model = models.first().map_or("unknown", String::as_str);
    format!("{processors} x {model}")
}

fn memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib / 1024)
}
