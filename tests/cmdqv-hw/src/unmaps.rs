// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Unmaps as Linux issues them: a TLBI and a `CMD_SYNC`, published by one of the vCPUs that share a
//! Command queue for all that have queued theirs, each of which waits for a word of memory.

use std::{
    collections::BTreeMap,
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc, Mutex, MutexGuard, PoisonError,
    },
    thread,
    time::Duration,
};

use qemu_ext::dma::AddressSpace;
use system::MEMTXATTRS_UNSPECIFIED;

/// Offset of `CMDQ_PROD` in the registers of an SMMU.
const CMDQ_PROD: u64 = 0x98;

/// Time between two looks at what another vCPU does: there may be more vCPUs than CPUs.
const POLL: Duration = Duration::from_micros(20);

/// Commands of one unmap.
const COMMANDS: u32 = 2;
const COMMAND_BYTES: u64 = 16;

/// `CMD_TLBI_NH_VA` of ASID 1, and `CMD_SYNC` with `CS` = `SIG_IRQ`: the MSI is 0.
const TLBI: u64 = 0x12 | (1 << 48);
const SYNC: u64 = 0x46 | (1 << 12);

/// A Command queue that vCPUs share.
pub struct Queue {
    registers: u64,
    base: u64,
    log2size: u32,
    gathered: Mutex<Gathered>,
    /// `CMDQ_PROD` of the last doorbell that has returned
    published: AtomicU32,
}

#[derive(Default)]
struct Gathered {
    prod: u32,
    /// A vCPU is going to publish what the others queue
    has_owner: bool,
}

fn store(address: u64, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    // an address that is no memory is the test's error, which the guest notices
    let _ = AddressSpace::memory().write(address, MEMTXATTRS_UNSPECIFIED, &bytes);
}

fn word(address: u64) -> u32 {
    let mut bytes = [0xff; 4];
    let _ = AddressSpace::memory().read(address, MEMTXATTRS_UNSPECIFIED, &mut bytes);
    u32::from_le_bytes(bytes)
}

/// Writes a register of 32 bits.
pub fn write_register(address: u64, value: u32) {
    let _ = AddressSpace::memory().write(address, MEMTXATTRS_UNSPECIFIED, &value.to_le_bytes());
}

/// Reads a register of 32 bits.
pub fn read_register(address: u64) -> u32 {
    word(address)
}

impl Queue {
    /// Returns the queue of the SMMU whose registers are at an address: empty and enabled, with
    /// index 0.
    pub fn of(registers: u64, base: u64, log2size: u32) -> Arc<Self> {
        static QUEUES: Mutex<BTreeMap<u64, Arc<Queue>>> = Mutex::new(BTreeMap::new());

        let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = Arc::clone(queues.entry(registers).or_insert_with(|| {
            Arc::new(Self {
                registers,
                base,
                log2size,
                gathered: Mutex::default(),
                published: AtomicU32::new(0),
            })
        }));
        drop(queues);
        queue
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    const fn pointer_mask(&self) -> u32 {
        (2 << self.log2size) - 1
    }

    const fn slot(&self, pointer: u32) -> u64 {
        let index = pointer & ((1 << self.log2size) - 1);
        self.base + index as u64 * COMMAND_BYTES
    }

    /// Invalidates a page, and returns when that is complete.
    pub fn unmap(&self, page: u64) {
        let (first, is_owner) = {
            let mut gathered = self.gathered();
            let first = gathered.prod;
            let sync = self.slot(first + 1);
            store(self.slot(first), &[TLBI, (page << 12) | 1]);
            store(sync, &[SYNC, sync]);
            gathered.prod = (first + COMMANDS) & self.pointer_mask();
            let is_owner = !std::mem::replace(&mut gathered.has_owner, true);
            drop(gathered);
            (first, is_owner)
        };
        if is_owner {
            while self.published.load(Ordering::Acquire) != first {
                thread::sleep(POLL);
            }
            let prod = {
                let mut gathered = self.gathered();
                gathered.has_owner = false;
                gathered.prod
            };
            write_register(self.registers + CMDQ_PROD, prod);
            self.published.store(prod, Ordering::Release);
        }
        while word(self.slot(first + 1)) != 0 {
            thread::sleep(POLL);
        }
    }
}
