//! Every input of the corpus through its target, with stable Rust.
#![expect(clippy::print_stdout, reason = "the input that a panic does not name")]
use fuzzing::{TARGETS, inputs};

/// Replays a target; the number of its inputs is at least one.
fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("a target of this name");
    let paths = inputs(target);
    assert!(!paths.is_empty(), "{name} has no inputs");
    for path in paths {
        let data = std::fs::read(&path).expect("a file of the corpus");
        // A panic does not name the input, so the test does.
        println!("{}", path.display());
        (target.body)(&data);
        // A file that was cut off at any place is an input, too.
        for length in [data.len() / 3, data.len() * 2 / 3] {
            (target.body)(&data[..length]);
        }
    }
}

macro_rules! replays {
    ($($name:ident),+) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })+

        #[test]
        fn every_target_is_replayed() {
            assert_eq!(TARGETS.map(|target| target.name), [$(stringify!($name)),+]);
        }
    };
}

replays!(
    topology,
    experiment,
    change,
    quantity,
    selector,
    recording,
    distribution,
    state,
    results,
    cni,
    vm
);
