//! The plugin `emu-cni` of the Container Network Interface.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    emu_cli::cni::main()
}
