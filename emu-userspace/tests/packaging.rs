//! What is shipped beside the program: checked by the tools of those who read it.
#![expect(clippy::print_stdout, reason = "what a test leaves out")]
use std::{fs, path::PathBuf, process::Command};

fn packaging(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging")
        .join(name)
}

/// Largest exposure that `systemd-analyze security` may find, in tenths; a unit without
/// any hardening has 96.
const MOST_EXPOSED: &str = "35";

#[test]
fn the_systemd_unit_is_good_and_hardened() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("SKIPPED: no systemd-analyze (Debian: systemd)");
        return;
    }
    let unit = fs::read_to_string(packaging("systemd/emu-agent.service")).unwrap();
    // The command must exist for the check.
    assert!(unit.contains("ExecStart=/usr/bin/emu agent"));
    let unit = unit.replace("/usr/bin/emu", env!("CARGO_BIN_EXE_emu"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("emu-agent.service");
    fs::write(&file, unit).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(&file)
            .output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        // It complains of other units of the machine too.
        let ours: Vec<&str> = error.lines().filter(|l| l.contains("emu-agent")).collect();
        assert!(ours.is_empty(), "{error}");
        assert!(
            output.status.success(),
            "{}{error}",
            String::from_utf8_lossy(&output.stdout)
        );
    };
    analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    let threshold = format!("--threshold={MOST_EXPOSED}");
    analyze(&["security", "--offline=true", "--no-pager", &threshold]);
}
