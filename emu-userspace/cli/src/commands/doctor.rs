//! `emu doctor`.
use emu_kernel::probe;

use serde_json::json;

use super::{FAILED, OK, Outcome, print, print_json, table};

/// Tries what a load needs; reports what is missing and how to get it.
pub(super) fn run(as_json: bool) -> Outcome {
    let checks = probe::run();
    let usable = probe::usable(&checks);
    if as_json {
        print_json(&json!({"ok": usable, "checks": checks}))?;
    } else {
        let mut table = table(&["", "", "", "answer of the kernel"], &[]);
        for check in &checks {
            let verdict = match (check.ok, check.needed) {
                (true, _) => "ok",
                (false, true) => "MISSING",
                (false, false) => "absent",
            };
            let need = if check.needed { "needed" } else { "optional" };
            table.add_row([check.name, need, verdict, check.detail.as_str()]);
        }
        print(&table.to_string())?;
        for check in checks.iter().filter(|c| !c.ok) {
            if let Some(remedy) = check.remedy {
                print(&format!("{}: {remedy}", check.name))?;
            }
        }
        print(if usable {
            "emu can run here"
        } else {
            "emu cannot run here directly; `cargo xtask run -- ...` runs it in a VM"
        })?;
    }
    Ok(if usable { OK } else { FAILED })
}
