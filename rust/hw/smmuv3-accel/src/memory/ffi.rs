// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Guest memory, as the SMMU's own accesses see it.

use std::{
    ffi::c_void,
    marker::PhantomData,
    ptr::addr_of_mut,
    sync::atomic::{fence, AtomicBool, AtomicPtr, AtomicU64, AtomicU8, Ordering},
};

use smmuv3::cmdq::{BusAbort, GuestMemory};
use system::MEMTXATTRS_UNSPECIFIED;

/// Reads guest memory as the SMMU's own accesses do: coherent, and after
/// everything that the guest wrote before it rang the doorbell.
pub fn dma_read(address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
    dma(address, buffer.as_mut_ptr(), buffer.len(), false)
}

/// Reads a little-endian doubleword of guest memory, all of it at once.
pub fn dma_read_u64(address: u64) -> Result<u64, BusAbort> {
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
pub fn dma_write(address: u64, data: &[u8]) -> Result<(), BusAbort> {
    dma(address, data.as_ptr().cast_mut(), data.len(), true)
}

fn dma(address: u64, data: *mut u8, len: usize, is_write: bool) -> Result<(), BusAbort> {
    fence(Ordering::SeqCst);
    // SAFETY: `data` points to `len` bytes, which are only read if `is_write`;
    // address_space_memory lives as long as the process
    let result = unsafe {
        system::bindings::address_space_rw(
            addr_of_mut!(system::bindings::address_space_memory),
            address,
            MEMTXATTRS_UNSPECIFIED,
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

/// What of guest memory is plain memory: QEMU itself reads it without calling a device
/// ([`supports_direct_access`]).
///
/// Reading it runs no device's code and takes no lock. So it never waits for the Big
/// QEMU Lock, whose owner may be waiting for this very thread, and nothing that it
/// does can come back to this device.
#[derive(Clone, Copy, Debug)]
pub struct DirectRam<'a>(PhantomData<&'a ()>);

impl DirectRam<'_> {
    /// # Safety
    ///
    /// The value must only be used in an RCU read-side critical section of this thread
    /// that it is made in, or as long as this thread has the Big QEMU Lock: then
    /// neither the memory map as it is when it is used nor the regions in it go away
    /// under an access, however the map is changed meanwhile.
    pub const unsafe fn in_critical_section() -> Self {
        Self(PhantomData)
    }
}

impl GuestMemory for DirectRam<'_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        // SAFETY: promised when the value was made
        unsafe { direct_read(address, buffer) }
    }

    fn write(&mut self, _address: u64, _data: &[u8]) -> Result<(), BusAbort> {
        Err(BusAbort)
    }
}

/// Reads plain memory; anything else aborts.
///
/// # Safety
///
/// See [`DirectRam::in_critical_section`].
unsafe fn direct_read(address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
    fence(Ordering::SeqCst);
    let mut at = address;
    let mut rest = buffer;
    while !rest.is_empty() {
        let mut offset = 0;
        let mut length = rest.len() as u64;
        // SAFETY: address_space_memory lives as long as the process. Its view is what
        // the caller's critical section protects; the callee takes a view of that
        // section, returns a region of it, and shortens `length` to what of it is
        // there from `offset` on.
        let source = unsafe {
            let space = addr_of_mut!(system::bindings::address_space_memory);
            let view = AtomicPtr::from_ptr(addr_of_mut!((*space).current_map));
            let region = system::bindings::flatview_translate(
                view.load(Ordering::Acquire),
                at,
                &mut offset,
                &mut length,
                false,
                MEMTXATTRS_UNSPECIFIED,
            );
            if !supports_direct_access(region) {
                return Err(BusAbort);
            }
            // an offset in a host's mapping
            let offset = usize::try_from(offset).map_err(|_| BusAbort)?;
            system::bindings::qemu_map_ram_ptr((*region).ram_block, offset)
        };
        let length = usize::try_from(length).unwrap_or(rest.len());
        if length == 0 || length > rest.len() {
            return Err(BusAbort);
        }
        let (run, behind) = rest.split_at_mut(length);
        // SAFETY: the region's memory has `length` bytes from `source` on, which stay
        // mapped as long as the region does
        unsafe {
            copy_guest_memory(source.cast(), run);
        }
        at = at.wrapping_add(length as u64);
        rest = behind;
    }
    Ok(())
}

/// Returns whether QEMU reads this region as memory, as its own
/// `memory_region_supports_direct_access()` says: RAM and ROM, and flash while it is
/// not being programmed.
///
/// Memory that a device maps (`ram_device`: the BAR of an assigned device, a doorbell
/// page of vhost's) is not that: accesses to it are a device's, for which QEMU takes
/// the Big QEMU Lock.
///
/// # Safety
///
/// `region` must be a memory region that stays for the length of the call.
unsafe fn supports_direct_access(region: *mut system::bindings::MemoryRegion) -> bool {
    // SAFETY: promised by the caller; what a region is does not change once it can be
    // found, but for romd_mode, which others write under the Big QEMU Lock
    unsafe {
        if (*region).rom_device {
            let romd_mode = AtomicBool::from_ptr(addr_of_mut!((*region).romd_mode));
            return romd_mode.load(Ordering::Relaxed);
        }
        (*region).ram && !(*region).ram_device
    }
}

/// Copies from memory that the guest may write at the same time: in whole aligned
/// doublewords, so that each of them is what it was at some moment.
///
/// # Safety
///
/// `source` must point to as many mapped bytes as `target` has.
unsafe fn copy_guest_memory(source: *mut u8, target: &mut [u8]) {
    let before = source.align_offset(size_of::<u64>()).min(target.len());
    let (head, rest) = target.split_at_mut(before);
    let mut doublewords = rest.chunks_exact_mut(size_of::<u64>());
    // SAFETY: all addresses are within what the caller promised; those of doublewords
    // are aligned, and the guest's stores are atomic to this thread
    unsafe {
        let mut at = source;
        for byte in head {
            *byte = AtomicU8::from_ptr(at).load(Ordering::Relaxed);
            at = at.add(1);
        }
        for bytes in &mut doublewords {
            let value = AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed);
            bytes.copy_from_slice(&value.to_ne_bytes());
            at = at.add(bytes.len());
        }
        for byte in doublewords.into_remainder() {
            *byte = AtomicU8::from_ptr(at).load(Ordering::Relaxed);
            at = at.add(1);
        }
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
