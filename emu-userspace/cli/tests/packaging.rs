//! Checks the files that are shipped with the program, with the tools of their users.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]
#![expect(clippy::print_stdout, reason = "what a test leaves out")]
use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

fn packaging(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../packaging")
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
        // It also reports other units of the machine.
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

/// A manifest.
fn manifest(name: &str) -> Value {
    let text = fs::read_to_string(packaging(&format!("kubernetes/{name}"))).unwrap();
    serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn list(value: &Value) -> Vec<String> {
    let list = value.as_array().unwrap();
    list.iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn the_manifests_fit_together() {
    let kustomization = manifest("kustomization.yaml");
    let namespace = &kustomization["namespace"];
    for name in &list(&kustomization["resources"]) {
        let of = &manifest(name)["metadata"];
        let key = if name == "namespace.yaml" {
            "name"
        } else {
            "namespace"
        };
        assert_eq!(&of[key], namespace, "{name}");
    }
    let map = &kustomization["configMapGenerator"][0];
    assert_eq!(
        kustomization["generatorOptions"]["disableNameSuffixHash"],
        true
    );
    let (daemons, service) = (manifest("daemonset.yaml"), manifest("service.yaml"));
    let (account, monitor) = (
        manifest("serviceaccount.yaml"),
        manifest("servicemonitor.yaml"),
    );
    let pod = &daemons["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let labels = &pod["metadata"]["labels"];
    for (one, other) in [
        (&daemons["spec"]["selector"]["matchLabels"], labels),
        (&service["spec"]["selector"], labels),
        (
            &monitor["spec"]["selector"]["matchLabels"],
            &service["metadata"]["labels"],
        ),
        (
            &monitor["spec"]["endpoints"][0]["port"],
            &service["spec"]["ports"][0]["name"],
        ),
        (
            &service["spec"]["ports"][0]["targetPort"],
            &container["ports"][0]["name"],
        ),
        (
            &pod["spec"]["volumes"][0]["configMap"]["name"],
            &map["name"],
        ),
        (&pod["spec"]["volumes"][0]["name"], &mounts[0]["name"]),
        (
            &pod["spec"]["serviceAccountName"],
            &account["metadata"]["name"],
        ),
        (&container["image"], &kustomization["images"][0]["name"]),
    ] {
        assert!(!one.is_null() && one == other, "{one} and {other}");
    }
    the_token_fits(&kustomization, pod, &monitor);
    let probes = ["readinessProbe", "livenessProbe"].map(|p| &container[p]["httpGet"]["path"]);
    assert_eq!(probes, ["/readyz", "/healthz"]);
    // Its own state must outlive the pod.
    assert!(
        mounts
            .iter()
            .any(|m| m["mountPath"] == "/run/emu" && m["name"] == "state")
    );
    the_command_exists(container, map, mounts[0]["mountPath"].as_str().unwrap());
}

/// The agent's token is the one that Prometheus sends, in a file that only root can read.
fn the_token_fits(kustomization: &Value, pod: &Value, monitor: &Value) {
    let generated = &kustomization["secretGenerator"][0];
    let container = &pod["spec"]["containers"][0];
    let named = |list: &Value, key: &str, name: &Value| {
        let items = list.as_array().unwrap();
        let found = items.iter().find(|item| &item[key] == name);
        found.unwrap_or_else(|| panic!("{name} in {list}")).clone()
    };
    let token = Value::from("token");
    let secret = &named(&pod["spec"]["volumes"], "name", &token)["secret"];
    let credentials = &monitor["spec"]["endpoints"][0]["authorization"]["credentials"];
    assert_eq!(secret["secretName"], generated["name"]);
    assert_eq!(secret["defaultMode"], 0o400);
    assert_eq!(credentials["name"], generated["name"]);
    assert_eq!(credentials["key"], generated["files"][0]);
    let mount = &named(&container["volumeMounts"], "name", &token)["mountPath"];
    let file = format!(
        "--token-file={}/{}",
        mount.as_str().unwrap(),
        list(&generated["files"])[0]
    );
    assert!(list(&container["args"]).contains(&file), "{file}");
}

/// The command line is valid, and its file is in the ConfigMap.
fn the_command_exists(container: &Value, map: &Value, folder: &str) {
    let help = Command::new(env!("CARGO_BIN_EXE_emu"))
        .args(["agent", "--help"])
        .output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let arguments = list(&container["args"]);
    for option in arguments.iter().filter(|a| a.starts_with("--")) {
        let name = option.split('=').next().unwrap();
        assert!(help.contains(&format!("{name} ")), "{option}");
    }
    let file = &list(&map["files"])[0];
    assert_eq!(
        arguments[..2],
        ["agent".to_owned(), format!("{folder}/{file}")]
    );
    let text = fs::read_to_string(packaging(&format!("kubernetes/{file}"))).unwrap();
    emu_model::topology::parse(&text, file).unwrap_or_else(|e| panic!("{e}"));
}

/// The public schemas of the API, without that of the Prometheus operator.
#[test]
fn the_api_takes_the_manifests() {
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/kubernetes-validate/bin/kubernetes-validate");
    let program = if installed.exists() {
        installed
    } else {
        PathBuf::from("kubernetes-validate")
    };
    if Command::new(&program).arg("--version").output().is_err() {
        println!("SKIPPED: no kubernetes-validate (PyPI; `cargo xtask test` installs it)");
        return;
    }
    let validate = |file: &std::path::Path| {
        let mut command = Command::new(&program);
        command.arg("--strict").arg(file).output().unwrap()
    };
    for name in ["namespace", "serviceaccount", "daemonset", "service"] {
        let output = validate(&packaging(&format!("kubernetes/{name}.yaml")));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {error}");
    }
    // The check detects an error.
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(packaging("kubernetes/daemonset.yaml")).unwrap();
    let bad = folder.path().join("bad.yaml");
    fs::write(
        &bad,
        text.replace("hostNetwork: true", "hostNetworking: true"),
    )
    .unwrap();
    assert!(!validate(&bad).status.success());
}
