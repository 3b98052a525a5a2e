//! Limits of CPU time.
use std::fs;

use integration::netns::isolated;

use crate::run::Lab;

#[test]
fn run_keeps_weights_of_the_processor() {
    isolated(|| {
        let root = "/sys/fs/cgroup/cgroup.subtree_control";
        let controllers = fs::read_to_string(root).unwrap_or_default();
        let busy = "while :; do :; done";
        let lab = Lab::new(&format!(
            "
duration: 4s
programs:
  - {{name: light, on: adsl/0-1, shell: '{busy}', limits: {{cpu_weight: 50}}}}
  - {{name: heavy, on: adsl/2-3, shell: '{busy}', limits: {{cpu_weight: 200}}}}
"
        ));
        let summary = lab.good("");
        assert_eq!(fs::read_to_string(root).unwrap_or_default(), controllers);
        let limits = summary["host_health"]["limits"].to_string();
        let rows = lab.table("processes.csv", &["program", "cpu_s"]);
        let cpu = |program: &str| -> f64 {
            let of = rows.iter().filter(|r| r[0] == program);
            of.map(|r| r[1].parse::<f64>().unwrap()).sum()
        };
        println!("light {:.2} s, heavy {:.2} s", cpu("light"), cpu("heavy"));
        // With one CPU per program there is no competition.
        if std::thread::available_parallelism().is_ok_and(|n| n.get() == 1) {
            let ratio = cpu("heavy") / cpu("light");
            assert!((2.5..6.5).contains(&ratio), "{ratio}");
            assert!(limits.contains("CPU saturated for"), "{limits}");
        }
    });
}
