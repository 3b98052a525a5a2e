//! The ready-made experiment about CPU fairness.
use integration::{experiment::run, netns::isolated};

#[test]
fn fairness_counters_share_the_processor() {
    isolated(|| {
        let results = run("fairness");
        let busy = results.summary["host_health"]["busy"].as_f64().unwrap();
        assert!(busy > 0.8, "ten counters made the processors {busy} busy");
        let limits = results.summary["host_health"]["limits"].to_string();
        assert!(limits.contains("CPU saturated for"), "{limits}");
        let share = &results.summary["cpu_shares"][0];
        assert_eq!(share["vnodes"].as_u64(), Some(10), "{share}");
        // All programs had the same work, and completed it.
        let jain_index = share["jain_index"].as_f64().unwrap();
        assert!((0.9..=1.0 + 1e-9).contains(&jain_index), "{share}");
    });
}
