//! The inputs of the fuzz target of packets.
use std::{fs, path::Path};

use integration::{netns::isolated, packet_fuzz};

#[test]
fn packets_of_the_corpus_keep_the_properties() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/packet");
    let paths = fs::read_dir(folder).unwrap();
    let frames: Vec<Vec<u8>> = paths
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(frames.len() >= 4, "{} frames", frames.len());
    isolated(move || {
        for frame in frames {
            // Cut off at each length: headers that end too early.
            for length in (0..=frame.len().min(120)).chain([frame.len()]) {
                packet_fuzz::run(&frame[..length]);
            }
        }
    });
}
