//! Development builds of the command are linked at fixed addresses.
//!
//! The tests start it thousands of times, most of them in User-Mode Linux, where a page that
//! the dynamic linker relocates costs a fault of 20 to 100 us; without relocations a start
//! takes half the time. Released builds keep addresses that vary.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
        println!("cargo:rustc-link-arg-bin=emu=-no-pie");
    }
}
