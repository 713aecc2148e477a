// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Guest memory.

use smmuv3::cmdq::{BusAbort, GuestMemory};

mod ffi;

pub use ffi::{zeroed_leaked, DirectRam};

/// Guest physical memory, devices included. Every access aborts without the Big QEMU
/// Lock: a device's code would take it. [`DirectRam`] needs no lock.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestRam;

impl GuestRam {
    fn with_lock<R>(access: impl FnOnce() -> Result<R, BusAbort>) -> Result<R, BusAbort> {
        if bql::is_locked() {
            access()
        } else {
            Err(BusAbort)
        }
    }
}

impl GuestMemory for GuestRam {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        Self::with_lock(|| ffi::dma_read(address, buffer))
    }

    fn read_u64(&mut self, address: u64) -> Result<u64, BusAbort> {
        Self::with_lock(|| ffi::dma_read_u64(address))
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
        Self::with_lock(|| ffi::dma_write(address, data))
    }
}
