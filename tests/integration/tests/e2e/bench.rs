//! The network benches at their quick sizes, and their required results. Bounds are ratios
//! of neighbours within one run.
use integration::bench::{bench, files, held};

#[test]
fn delays_rates_and_tcp_are_as_accurate_as_netem_s() {
    let (data, folder) = bench("accuracy");
    let expected =
        1 + data["rates"].as_array().unwrap().len() + data["tcp"].as_array().unwrap().len();
    assert_eq!(data["verdicts"].as_array().unwrap().len(), expected);
    held(&data, "");
    files(folder.path(), "accuracy", &["delays", "tcp"]);
}
