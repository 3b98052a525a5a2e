//! User-Mode Linux: a kernel that runs as an ordinary process of any user.
use std::{
    env,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use vm_protocol::settings;

use crate::{Request, guest, processor::Processor, provider::Provider, virtual_time::SEGMENT_FD};

/// Runs a command in a VM with a User-Mode Linux binary and returns its exit status. The
/// kernel's modules are in the folder, if one is given, or where they are installed.
pub fn run(
    provider: &dyn Provider,
    request: &Request,
    kernel: &Path,
    modules: Option<&Path>,
) -> anyhow::Result<u8> {
    let binaries = provider.helpers()?;
    let processor = Processor::take();
    guest::run(provider, request, processor.as_ref(), |folder, streams| {
        let input = if request.interactive { "fd:0" } else { "null" };
        let mut command = Command::new(kernel);
        command
            .args([
                "root=/dev/root",
                "rootfstype=hostfs",
                "rootflags=/",
                "rw",
                "quiet",
                // Since Linux 6.16; programs in it are those of this user anyway.
                "seccomp=auto",
            ])
            .arg(format!("mem={}", request.memory))
            .arg(format!("init={}", binaries.join("vm-init").display()))
            // Its folder is the kernel's working folder: a name that changes from run to
            // run must not stand in the command line, which the guest's random bytes
            // depend on (`random_init_early` in drivers/char/random.c).
            .current_dir(folder.path())
            .args(["uml_dir=./", "umid=emu"])
            // The kernel's messages go to a log, the command's streams to this process's.
            .arg("con=null")
            .arg(format!("con0=null,fd:{}", streams.log))
            .arg(format!("con1={input},fd:{}", streams.out))
            .arg(format!("con2=null,fd:{}", streams.error))
            .env("TMPDIR", "/dev/shm")
            .stdout(Stdio::null())
            .stderr(File::create(folder.process_log())?);
        let plug = request.plug.as_ref();
        let mut preloaded = vec![binaries.join("libvm_xstate.so")];
        if let Some(clock) = &request.clock {
            preloaded.push(binaries.join("libvm_time.so"));
            clock.configure(&mut command, folder.path(), request.interactive, plug);
            if clock.seed.is_some() {
                let library = binaries.join(settings::RANDOM_LIBRARY);
                command.arg(format!("{}={}", settings::GUEST_RANDOM, library.display()));
            }
        } else {
            command.arg(format!("EMU_CLOCK={}", clock_source()));
        }
        command.env("LD_PRELOAD", env::join_paths(preloaded)?);
        if let Some(plug) = plug {
            // A device of the vector driver (arch/um/drivers/vector_kern.c) on a socket.
            let address = plug.address();
            let number = if request.clock.is_some() {
                SEGMENT_FD
            } else {
                plug.number()
            };
            command.arg(format!("vec0:transport=fd,fd={number},mac={address}"));
        }
        if let Some(modules) = modules {
            command.arg(format!("EMU_MODULES={}", modules.display()));
        }
        Ok(command)
    })
}

/// The clock source of this machine's kernel; empty if it is unknown.
fn clock_source() -> String {
    fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .map(|source| source.trim().to_owned())
        .unwrap_or_default()
}
