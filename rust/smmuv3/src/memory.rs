// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Guest memory, which holds the queues and tables of an SMMU.

/// An access to guest memory was answered with an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusAbort;

/// The memory that the SMMU reads its queue and its tables from.
pub trait GuestMemory {
    /// Fills `buffer` from `address` on.
    ///
    /// # Errors
    ///
    /// [`BusAbort`] if any byte of it cannot be read.
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort>;

    /// Returns the little-endian doubleword at `address`, a multiple of 8, in one
    /// access: software may write it at the same time.
    ///
    /// # Errors
    ///
    /// [`BusAbort`] if it cannot be read.
    fn read_u64(&mut self, address: u64) -> Result<u64, BusAbort> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores `data` from `address` on.
    ///
    /// # Errors
    ///
    /// [`BusAbort`] if any byte of it was not stored.
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort>;

    /// Stores `value` at `address`, little-endian, in one access: it may be a signal to
    /// software, which can reuse the place at once.
    ///
    /// # Errors
    ///
    /// [`BusAbort`] if it was not stored.
    fn write_u32(&mut self, address: u64, value: u32) -> Result<(), BusAbort> {
        self.write(address, &value.to_le_bytes())
    }
}
