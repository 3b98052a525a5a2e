//! `emu unload --stale`.
use emu_kernel::{session::Session, stale, user};
use serde_json::json;

use super::{FAILED, OK, Outcome, error::failure, print, print_json};

/// Lists what is left of other namespaces and, unless `dry_run`, removes it, with what no
/// journal tells of in this one.
pub(super) fn run(dry_run: bool, as_json: bool) -> Outcome {
    if !user::is_root() {
        return Err(failure!("unload needs root: sudo emu unload --stale"));
    }
    let found = stale::find()?;
    let (here, failures) = if dry_run {
        (Vec::new(), Vec::new())
    } else {
        (Session::open()?.sweep()?, stale::remove(&found))
    };
    let code = if failures.is_empty() { OK } else { FAILED };
    if as_json {
        print_json(&json!({
            "ok": failures.is_empty(), "removed": !dry_run, "stale": found, "here": here,
            "failures": failures,
        }))?;
        return Ok(code);
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    for one in &found {
        for path in &one.paths {
            print(&format!("{verb} {}", path.display()))?;
        }
    }
    for what in &here {
        print(&format!("removed {what}"))?;
    }
    for failure in &failures {
        print(&format!("FAILED: {failure}"))?;
    }
    if found.is_empty() && here.is_empty() {
        print("nothing is left of other network namespaces")?;
    }
    Ok(code)
}
