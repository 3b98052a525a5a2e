//! Arrays shared with the kernel by memory-mapping.
use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use emu_common::layout::{ImpairmentState, PairLink, Pipe, Schedule};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{BpfError, map_error};

/// An array map whose values this process reads and writes in place.
///
/// The kernel writes the same memory: values are copied in and out in whole machine words,
/// never borrowed.
pub struct Mapped<T> {
    address: NonNull<T>,
    length: usize,
}

impl<T: aya::Pod> Mapped<T> {
    pub(super) fn new(map: &MapData, name: &'static str) -> Result<Self, BpfError> {
        let info = map.info().map_err(map_error("look at", name))?;
        let length = info.max_entries() as usize;
        let io_error = |source: io::Error| BpfError::Mmap { map: name, source };
        let bytes = NonZeroUsize::new(length * size_of::<T>())
            .ok_or_else(|| io_error(io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: a fresh shared mapping of the map's own memory at an address
        // that the kernel picks; it does not touch existing memory.
        let address = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        }
        .map_err(|errno| io_error(errno.into()))?;
        Ok(Self {
            address: address.cast(),
            length,
        })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A copy of one value.
    pub fn get(&self, index: usize) -> Option<T> {
        // SAFETY: the index is inside the mapping; T is plain data, so any
        // bytes that the kernel writes meanwhile are a valid value.
        (index < self.length).then(|| unsafe { self.address.add(index).read_volatile() })
    }

    /// Copies of all values.
    pub fn copy(&self) -> Vec<T> {
        (0..self.length).filter_map(|i| self.get(i)).collect()
    }

    /// Stores one value; indexes beyond the end are ignored.
    pub fn set(&mut self, index: usize, value: T) {
        if index < self.length {
            // SAFETY: inside the mapping (checked above), aligned by the
            // kernel's page alignment and the asserted layouts.
            unsafe { self.address.add(index).write_volatile(value) }
        }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was created with this address and length and is
        // not used after the drop. A failure leaves only address space behind.
        let _ = unsafe { munmap(self.address.cast(), self.length * size_of::<T>()) };
    }
}

/// Bytes at the start of an entry that only user space writes.
const PIPE_SETTINGS: usize = 64;
const STAGE_SETTINGS: usize = 128;

impl<T: aya::Pod> Mapped<T> {
    /// Stores the first `bytes` of a value, one machine word at a time, if they differ. A
    /// program that runs meanwhile sees each machine word old or new; the bytes after `bytes`
    /// are not touched.
    fn store_words(&self, index: usize, value: &T, words: impl Iterator<Item = usize>) {
        const { assert!(align_of::<T>() == 8 && size_of::<T>().is_multiple_of(8)) };
        if index >= self.length {
            return;
        }
        for word in words.filter(|word| (word + 1) * 8 <= size_of::<T>()) {
            // SAFETY: `value` is plain data of a multiple of 8 bytes, aligned to 8, and the
            // filter above keeps the machine word inside it.
            let new = unsafe { std::ptr::from_ref(value).cast::<u64>().add(word).read() };
            // SAFETY: the index is inside the mapping (checked above), the machine word
            // inside the entry (the filter), aligned as asserted; the kernel and this process
            // write the memory only in whole aligned machine words.
            let there = unsafe {
                AtomicU64::from_ptr(self.address.add(index).cast::<u64>().add(word).as_ptr())
            };
            if there.load(Ordering::Relaxed) != new {
                there.store(new, Ordering::Release);
            }
        }
    }
}

impl Mapped<Pipe> {
    /// Stores the settings of a pipe; state and counters belong to the kernel.
    pub fn store_settings(&mut self, index: usize, pipe: &Pipe) {
        const LIMIT: usize = std::mem::offset_of!(Pipe, limit_ns) / 8;
        let Some(before) = self.get(index) else {
            return;
        };
        let others = (0..PIPE_SETTINGS / 8).filter(|word| *word != LIMIT);
        // A slower rate with the queue limit of the faster one, or the reverse, would drop a
        // packet that neither configuration would drop.
        if pipe.limit_ns > before.limit_ns {
            self.store_words(index, pipe, std::iter::once(LIMIT).chain(others));
        } else {
            self.store_words(index, pipe, others.chain(std::iter::once(LIMIT)));
        }
    }
}

impl Mapped<Pipe> {
    /// Changes when a pipe is free again, which the kernel changes at the same time, by
    /// compare-and-swap.
    pub fn update_next_free(&self, index: usize, change: impl Fn(u64) -> u64) {
        const WORD: usize = std::mem::offset_of!(Pipe, next_free_ns) / 8;
        if index >= self.length {
            return;
        }
        // SAFETY: the index is inside the mapping, the machine word inside the entry and
        // aligned as asserted; the kernel changes it only by atomic instructions.
        let clock = unsafe {
            AtomicU64::from_ptr(self.address.add(index).cast::<u64>().add(WORD).as_ptr())
        };
        let _ = clock.fetch_update(Ordering::AcqRel, Ordering::Acquire, |ns| Some(change(ns)));
    }
}

impl Mapped<Schedule> {
    /// Stores what differs of a schedule.
    pub fn store(&mut self, index: usize, schedule: &Schedule) {
        self.store_words(index, schedule, 0..size_of::<Schedule>() / 8);
    }

    /// Stores a schedule, its start last: without a start, no program reads the rest.
    pub fn start(&mut self, index: usize, schedule: &Schedule) {
        const START: usize = std::mem::offset_of!(Schedule, start_ns) / 8;
        let words = size_of::<Schedule>() / 8;
        self.store_words(index, &Schedule::default(), std::iter::once(START));
        self.store_words(index, schedule, (0..words).filter(|word| *word != START));
        self.store_words(index, schedule, std::iter::once(START));
    }
}

impl Mapped<ImpairmentState> {
    /// Stores the settings of a stage; state and counters belong to the kernel.
    pub fn store_settings(&mut self, index: usize, stage: &ImpairmentState) {
        self.store_words(index, stage, 0..STAGE_SETTINGS / 8);
    }
}

impl Mapped<PairLink> {
    /// Stores a link as two machine words, each atomically.
    pub fn store(&mut self, index: usize, link: &PairLink) {
        self.store_words(index, link, 0..2);
    }
}

const _: () = {
    assert!(std::mem::offset_of!(Pipe, next_free_ns) == PIPE_SETTINGS);
    assert!(std::mem::offset_of!(ImpairmentState, sequence) == STAGE_SETTINGS);
};
