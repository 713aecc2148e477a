// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Guest memory, as the SMMU's own accesses see it.

use qemu_ext::dma::{AddressSpace, DirectMemory, MemTxError};
use smmuv3::memory::{BusAbort, GuestMemory};
use system::MEMTXATTRS_UNSPECIFIED;

/// Guest physical memory, devices included. Every access aborts without the Big QEMU
/// Lock, because a device's code would take it. [`DirectRam`] needs no lock.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestRam;

impl GuestRam {
    fn with_lock<R>(
        access: impl FnOnce(&AddressSpace) -> Result<R, MemTxError>,
    ) -> Result<R, BusAbort> {
        if bql::is_locked() {
            access(AddressSpace::memory()).map_err(|_| BusAbort)
        } else {
            Err(BusAbort)
        }
    }
}

impl GuestMemory for GuestRam {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        Self::with_lock(|memory| memory.read(address, MEMTXATTRS_UNSPECIFIED, buffer))
    }

    fn read_u64(&mut self, address: u64) -> Result<u64, BusAbort> {
        Self::with_lock(|memory| memory.read_u64_le(address, MEMTXATTRS_UNSPECIFIED))
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
        Self::with_lock(|memory| memory.write(address, MEMTXATTRS_UNSPECIFIED, data))
    }

    fn write_u32(&mut self, address: u64, value: u32) -> Result<(), BusAbort> {
        Self::with_lock(|memory| memory.write_u32_le(address, MEMTXATTRS_UNSPECIFIED, value))
    }
}

/// Guest physical memory, devices included, for a thread that holds no lock of this device: an
/// access to a device takes the Big QEMU Lock if that device needs it.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestBus;

impl GuestMemory for GuestBus {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        AddressSpace::memory()
            .read(address, MEMTXATTRS_UNSPECIFIED, buffer)
            .map_err(|_| BusAbort)
    }

    fn read_u64(&mut self, address: u64) -> Result<u64, BusAbort> {
        AddressSpace::memory()
            .read_u64_le(address, MEMTXATTRS_UNSPECIFIED)
            .map_err(|_| BusAbort)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
        AddressSpace::memory()
            .write(address, MEMTXATTRS_UNSPECIFIED, data)
            .map_err(|_| BusAbort)
    }

    fn write_u32(&mut self, address: u64, value: u32) -> Result<(), BusAbort> {
        AddressSpace::memory()
            .write_u32_le(address, MEMTXATTRS_UNSPECIFIED, value)
            .map_err(|_| BusAbort)
    }
}

/// The plain part of guest physical memory, which needs no lock. Accesses to the rest, and
/// writes, abort.
#[derive(Clone, Copy, Debug)]
pub struct DirectRam<'a>(pub DirectMemory<'a>);

impl GuestMemory for DirectRam<'_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        self.0.read(address, buffer).map_err(|_| BusAbort)
    }

    fn write(&mut self, _address: u64, _data: &[u8]) -> Result<(), BusAbort> {
        Err(BusAbort)
    }
}
