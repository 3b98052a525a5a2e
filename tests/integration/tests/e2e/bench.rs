//! The benches at their quick sizes, and what they must show. Bounds are ratios of one
//! run's neighbours.
use std::path::Path;

use integration::command::try_emu;
use serde_json::Value;

/// What `emu bench …` found, and the folder of its report.
fn bench(arguments: &str) -> (Value, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    let output = try_emu(&format!("bench {arguments} --quick --json --out {out}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    let data = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{words}"));
    (data, folder)
}

/// Verdicts: what fails is an error, and a machine too busy to tell is said so. Those
/// that begin with `except` are about a time, which depends on the machine.
fn held(data: &Value, except: &str) {
    for verdict in data["verdicts"].as_array().unwrap() {
        let (word, text) = (verdict[0].as_str().unwrap(), verdict[1].as_str().unwrap());
        println!("{word}: {text}");
        if word == "undecided" {
            println!("SKIPPED: {text}");
        }
        let is_time = !except.is_empty() && text.starts_with(except);
        assert!(word != "fails" || is_time, "{text}");
    }
}

fn files(folder: &Path, name: &str, figures: &[&str]) {
    let html = std::fs::read_to_string(folder.join(format!("{name}.html"))).unwrap();
    assert_eq!(html.matches("<svg").count(), figures.len(), "{name}");
    for figure in figures {
        let png = std::fs::read(folder.join(format!("{name}-{figure}.png"))).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 5_000, "{figure}");
    }
}

#[test]
fn emu_is_flat_where_rules_rise() {
    let (data, folder) = bench("vnodes");
    assert_eq!(data["verdicts"].as_array().unwrap().len(), 4, "{data}");
    held(&data, "loading ");
    let rows = data["rows"].as_array().unwrap();
    let per_vnode = |system: &str| {
        let most = rows.iter().rfind(|r| r["system"] == system).unwrap();
        most["load_s"].as_f64().unwrap() / most["vnodes"].as_f64().unwrap()
    };
    // Measured: some 80 times less than a class, a qdisc and a rule for each.
    let (ours, rules) = (per_vnode("emu"), per_vnode("u32"));
    assert!(
        ours < rules / 10.0,
        "{ours} s a vnode, {rules} s with rules"
    );
    files(folder.path(), "vnodes", &["rtt", "tcp", "load"]);
}

#[test]
fn a_packet_costs_little_more_among_many_vnodes() {
    let (data, folder) = bench("packet");
    assert_eq!(data["verdicts"].as_array().unwrap().len(), 2, "{data}");
    held(&data, "");
    files(folder.path(), "packet", &["by-vnodes", "by-feature"]);
    let filling = data["filling"].as_array().unwrap();
    assert_eq!(
        filling.len(),
        data["sizes"]["vnodes"].as_array().unwrap().len()
    );
}

#[test]
fn delays_rates_and_tcp_are_as_accurate_as_netem_s() {
    let (data, folder) = bench("accuracy");
    let expected =
        1 + data["rates"].as_array().unwrap().len() + data["tcp"].as_array().unwrap().len();
    assert_eq!(data["verdicts"].as_array().unwrap().len(), expected);
    held(&data, "");
    files(folder.path(), "accuracy", &["delays", "tcp"]);
}
