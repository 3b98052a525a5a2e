//! The CPU benches at their quick sizes, and their required results. Bounds are ratios of
//! neighbours within one run.
use integration::{
    bench::{bench, files, held},
    netns::isolated,
};

use crate::workloads;

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
    // Measured: about 80 times less than a class, a qdisc and a rule per vnode.
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
fn fairness_is_near_equal_shares() {
    isolated(|| {
        let report = workloads::bench("fairness", "--programs 6 --alone 500ms");
        let outcome = &report["outcome"];
        let index = outcome["jain_index"].as_f64().unwrap();
        println!("Jain's index {index:.4}");
        assert_eq!(outcome["programs"].as_array().unwrap().len(), 6);
        assert!((0.9..=1.0).contains(&index), "{report}");
    });
}
