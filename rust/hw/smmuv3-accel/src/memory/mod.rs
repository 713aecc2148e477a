// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Guest memory.

use smmuv3::cmdq::{BusAbort, GuestMemory};

mod ffi;

pub use ffi::zeroed_leaked;

/// Guest physical memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestRam;

impl GuestMemory for GuestRam {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        ffi::dma_read(address, buffer)
    }

    fn read_u64(&mut self, address: u64) -> Result<u64, BusAbort> {
        ffi::dma_read_u64(address)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
        ffi::dma_write(address, data)
    }
}
