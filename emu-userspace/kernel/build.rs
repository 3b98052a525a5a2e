//! Picks the BPF object that is built into the library: the committed one, or
//! the one named by `EMU_BPF_OBJECT` (the tests use a freshly built one).
use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=EMU_BPF_OBJECT");
    let committed = PathBuf::from("bpf/emu.bpf.o");
    let object = env::var_os("EMU_BPF_OBJECT").map_or(committed, PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("emu.bpf.o");
    if let Err(error) = fs::copy(&object, &out) {
        panic!(
            "copy the BPF object {}: {error}; `cargo xtask build-ebpf` builds it",
            object.display()
        );
    }
}
