//! QEMU in software emulation, for the kernels that users run: slow, but with
//! several processors and a JIT. It shares this machine's files by 9p.
use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::bail;

use crate::{
    Request, guest, initramfs,
    kernel::Image,
    provider::{Need, Provider},
};

const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
const NEEDS: [Need; 1] = [Need {
    file: PROGRAM,
    package: "qemu-system-x86",
}];

/// Whether QEMU is installed.
pub fn installed() -> bool {
    Path::new(PROGRAM).exists()
}

/// Runs a command in a VM with a bootable image and returns its exit status.
pub fn run(provider: &dyn Provider, request: &Request, image: &Image) -> anyhow::Result<u8> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("kernels for QEMU are those of x86_64, and this machine is none; use --kernel uml");
    }
    provider.install("the QEMU VM", &NEEDS)?;
    let init = provider.static_init()?;
    let archive = initramfs::pack(&init, &image.modules, &image.release)?;
    guest::run(provider, request, None, |folder, streams| {
        folder.write("initramfs", archive)?;
        let path = folder.path().display();
        // Looking a file up again takes a process of an emulated processor longer than
        // its work. Nobody changes files under a command; under a shell somebody may.
        let cache = if request.interactive { "mmap" } else { "loose" };
        let words = [
            // Every processor reads the one counter of this machine; a kernel that
            // does not trust it would ask QEMU for the time, microseconds each.
            "console=ttyS0 quiet panic=-1 tsc=reliable".to_owned(),
            format!("EMU_VM={path} EMU_MODULES={}", image.modules.display()),
            format!("EMU_ROOT={cache} EMU_OUT=/dev/hvc0 EMU_ERR=/dev/hvc1"),
        ];
        let file = |name: &str, number: i32| format!("file,id={name},path=/proc/self/fd/{number}");
        let out = if request.interactive {
            "stdio,id=out,signal=off".to_owned()
        } else {
            file("out", streams.out)
        };
        let mut command = Command::new(PROGRAM);
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-machine", "q35"])
            // Two processors in one thread. In two, one of them now and then still runs an
            // instruction that the other one has patched (the int3 of a static key), and the
            // guest panics.
            .args(["-accel", "tcg,thread=single", "-smp", "2"])
            // QEMU 7.2 sometimes loses the flags in cmpxchg16b, and the kernel's allocator
            // with them; a kernel that finds no such instruction does without.
            .args(["-cpu", "max,-cx16"])
            .args(["-m", &request.memory])
            .arg("-kernel")
            .arg(&image.path)
            .arg("-initrd")
            .arg(folder.path().join("initramfs"))
            .args(["-append", &words.join(" ")])
            .args([
                "-fsdev",
                "local,id=root,path=/,security_model=none,multidevs=remap",
            ])
            .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=emu-root"])
            // The kernel's messages go to a log, the command's streams to this process's.
            .args([
                "-chardev",
                &file("log", streams.log),
                "-serial",
                "chardev:log",
            ])
            .args(["-device", "virtio-serial-pci"])
            .args(["-chardev", &out, "-device", "virtconsole,chardev=out"])
            .args(["-chardev", &file("error", streams.error)])
            .args(["-device", "virtconsole,chardev=error"]);
        if !request.interactive {
            command.stdout(Stdio::null());
        }
        Ok(command)
    })
}
