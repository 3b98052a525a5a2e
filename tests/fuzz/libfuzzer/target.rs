//! A target under libFuzzer; its name is that of the program.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| match env!("CARGO_BIN_NAME") {
    "packet" => integration::packet_fuzz::run(data),
    name => fuzzing::run(name, data),
});
