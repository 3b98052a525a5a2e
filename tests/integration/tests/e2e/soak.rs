//! A soak of some seconds; `cargo xtask soak` runs a long one.
use std::time::Duration;

use integration::{
    netns::isolated,
    soak::{self, Options},
};

#[test]
fn nothing_grows_and_nothing_is_lost_while_everything_happens_at_once() {
    let report = isolated(|| {
        soak::run(&Options {
            time: Duration::from_secs(4),
            vnodes: 20,
        })
    });
    println!("{}", report.to_text());
    assert_eq!(report.findings(), Vec::<String>::new());
}
