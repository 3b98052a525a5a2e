//! The guest kernel's code page for all programs (vDSO), and writing to it.
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
};

use anyhow::{Context, bail, ensure};

use crate::code::{Code, Parameters};

const PAGE: usize = 4096;
/// Offset of our code in the page: behind the 2,344 bytes of the vDSO's image of Linux 6.1.
/// The last of them are its section headers, which no program needs.
const PLACE: usize = 2560;
/// Bits of an entry of `/proc/*/pagemap` (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// The vDSO page, written through the guest's physical memory.
#[derive(Debug)]
pub struct Page {
    memory: File,
    address: u64,
}

impl Page {
    /// Finds the page, and appends our functions to the existing ones, which jump to ours
    /// from then on. Ours make system calls, as the existing ones did, until there are
    /// parameters.
    pub fn patch(code: &Code) -> anyhow::Result<Self> {
        let page = Self::find()?;
        let mut bytes = [0; PAGE];
        page.memory
            .read_exact_at(&mut bytes, page.address)
            .context("read the vDSO's page")?;
        ensure!(bytes.starts_with(b"\x7fELF"), "the vDSO's page is none");
        ensure!(PLACE + code.bytes.len() <= PAGE, "no room for the code");
        let mut jumps = Vec::new();
        for (call, entry) in code.entries {
            let at = stub(&bytes, call).with_context(|| format!("no stub of call {call}"))?;
            jumps.push((at, jump(at, PLACE + entry)?));
        }
        page.write(PLACE, code.bytes)?;
        for (at, jump) in jumps {
            page.write(at, &jump)?;
        }
        Ok(page)
    }

    /// Publishes parameters to the functions. The sequence number is odd during the write.
    pub fn set(&self, parameters: Parameters) -> anyhow::Result<()> {
        let bytes = parameters.bytes();
        let (sequence, rest) = bytes.split_at(8);
        self.stop()?;
        self.write(PLACE + sequence.len(), rest)?;
        self.write(PLACE, sequence)
    }

    /// Invalidates the parameters, so that the functions make system calls from now on.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.write(PLACE, &u64::MAX.to_ne_bytes())
    }

    fn find() -> anyhow::Result<Self> {
        // SAFETY: the call reads a value that the kernel gave this process at its start.
        let address = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
        if address == 0 {
            bail!("the kernel gives no vDSO");
        }
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap")
            .and_then(|map| map.read_exact_at(&mut entry, address / PAGE as u64 * 8))
            .context("read /proc/self/pagemap")?;
        let entry = u64::from_ne_bytes(entry);
        ensure!(
            entry & PRESENT != 0 && entry & FRAME != 0,
            "the vDSO has no page frame"
        );
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/mem")
            .context("open /dev/mem")?;
        Ok(Self {
            memory,
            address: (entry & FRAME) * PAGE as u64,
        })
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> anyhow::Result<()> {
        self.memory
            .write_all_at(bytes, self.address + offset as u64)
            .context("write to the vDSO's page")
    }
}

/// Offset of the function that only makes this system call (arch/x86/um/vdso/um_vdso.c,
/// compiled).
fn stub(page: &[u8], call: i64) -> Option<usize> {
    let number = i32::try_from(call).ok()?.to_ne_bytes();
    // mov eax, number; syscall; ret
    let code = [&[0xb8], &number[..], &[0x0f, 0x05, 0xc3]].concat();
    page[..PLACE].windows(code.len()).position(|w| w == code)
}

/// Machine code of a `jmp` between two offsets.
fn jump(from: usize, to: usize) -> anyhow::Result<[u8; 5]> {
    const LENGTH: usize = 5;
    let [a, b, c, d] = u32::try_from(to - from - LENGTH)?.to_ne_bytes();
    Ok([0xe9, a, b, c, d])
}
