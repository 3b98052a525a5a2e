//! Installs the tools that check the packaging: Debian's systemd and the parser of
//! Prometheus' client, and a validator of Kubernetes manifests from PyPI. Each is optional: a
//! test without its tool is skipped with a message.
use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::install::{Need, debian};

const NEEDS: [Need; 3] = [
    Need {
        file: "/usr/bin/systemd-analyze",
        package: "systemd",
    },
    Need {
        file: "/usr/lib/python3/dist-packages/prometheus_client/__init__.py",
        package: "python3-prometheus-client",
    },
    Need {
        file: "/usr/lib/python3.11/ensurepip/__init__.py",
        package: "python3-venv",
    },
];
/// Folder of the validator, where the test looks for it.
const VALIDATOR: &str = "target/kubernetes-validate";

/// Installs the tools that are available.
pub fn prepare() {
    if let Err(error) = debian("the checks of the packaging", &NEEDS) {
        eprintln!("xtask: {error:#}");
    }
    if Path::new(VALIDATOR)
        .join("bin/kubernetes-validate")
        .exists()
    {
        return;
    }
    let quiet = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let pip = format!("{VALIDATOR}/bin/pip");
    let install = ["install", "--quiet", "kubernetes-validate"];
    if !(quiet("python3", &["-m", "venv", VALIDATOR]) && quiet(&pip, &install)) {
        eprintln!("xtask: kubernetes-validate cannot be installed from PyPI");
    }
}
