// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Guest memory, as the SMMU's own accesses see it.

use std::{
    ffi::c_void,
    ptr::addr_of_mut,
    sync::atomic::{fence, Ordering},
};

use smmuv3::cmdq::BusAbort;
use system::{bindings::MemTxAttrs, MEMTXATTRS_UNSPECIFIED};

/// Of an access. One that is made without the Big QEMU Lock reaches RAM only, or what
/// an assigned device maps as such: an emulated device's region would take the lock,
/// and whoever holds it may be waiting for this very thread.
fn attributes() -> MemTxAttrs {
    let mut attributes = MEMTXATTRS_UNSPECIFIED;
    if !bql::is_locked() {
        attributes.set_memory(1);
    }
    attributes
}

/// Reads guest memory as the SMMU's own accesses do: coherent, and after
/// everything that the guest wrote before it rang the doorbell.
pub fn dma_read(address: u64, buffer: &mut [u8]) -> std::result::Result<(), BusAbort> {
    dma(address, buffer.as_mut_ptr(), buffer.len(), false)
}

/// Reads a little-endian doubleword of guest memory, all of it at once.
pub fn dma_read_u64(address: u64) -> std::result::Result<u64, BusAbort> {
    if !bql::is_locked() {
        // the function below does not look at the attributes
        let mut bytes = [0; 8];
        dma_read(address, &mut bytes)?;
        return Ok(u64::from_le_bytes(bytes));
    }
    fence(Ordering::SeqCst);
    let mut result = 0;
    // SAFETY: address_space_memory lives as long as the process
    let value = unsafe {
        system::bindings::address_space_ldq_le(
            addr_of_mut!(system::bindings::address_space_memory),
            address,
            MEMTXATTRS_UNSPECIFIED,
            &mut result,
        )
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(BusAbort)
    }
}

/// Writes guest memory.
pub fn dma_write(address: u64, data: &[u8]) -> std::result::Result<(), BusAbort> {
    dma(address, data.as_ptr().cast_mut(), data.len(), true)
}

fn dma(
    address: u64,
    data: *mut u8,
    len: usize,
    is_write: bool,
) -> std::result::Result<(), BusAbort> {
    fence(Ordering::SeqCst);
    // SAFETY: `data` points to `len` bytes, which are only read if `is_write`;
    // address_space_memory lives as long as the process
    let result = unsafe {
        system::bindings::address_space_rw(
            addr_of_mut!(system::bindings::address_space_memory),
            address,
            attributes(),
            data.cast::<c_void>(),
            len as u64,
            is_write,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(BusAbort)
    }
}

/// Zeroed memory for a C struct that stays until the process ends.
///
/// # Safety
///
/// All-zeroes must be what C code expects of a `T` that is not yet initialized.
pub unsafe fn zeroed_leaked<T>() -> *mut T {
    // SAFETY: g_malloc0 aborts rather than return NULL, and aligns for any C type
    unsafe { glib_sys::g_malloc0(std::mem::size_of::<T>()).cast() }
}
