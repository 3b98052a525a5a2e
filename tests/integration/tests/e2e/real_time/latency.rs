//! Latencies with the machine's clock.
use crate::latency;

#[test]
fn p2plab_shows_the_table_of_the_design() {
    latency::p2plab_shows_the_table_of_the_design();
}

#[test]
fn the_error_is_not_larger_than_that_of_netem() {
    latency::the_error_is_not_larger_than_that_of_netem();
}
