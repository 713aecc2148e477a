// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Accesses of a device to address spaces.
//!
//! ```no_run
//! use qemu_ext::dma::{AddressSpace, MemTxError};
//! use system::MEMTXATTRS_UNSPECIFIED;
//!
//! /// Copies a descriptor of 16 bytes to the address that is in its first word.
//! fn copy_descriptor(address: u64) -> Result<(), MemTxError> {
//!     let memory = AddressSpace::memory();
//!     let mut descriptor = [0; 16];
//!     memory.read(address, MEMTXATTRS_UNSPECIFIED, &mut descriptor)?;
//!     let target = memory.read_u64_le(address, MEMTXATTRS_UNSPECIFIED)?;
//!     memory.write(target, MEMTXATTRS_UNSPECIFIED, &descriptor)
//! }
//! ```

use std::{
    ffi::{c_void, CStr},
    marker::PhantomData,
    mem::size_of,
    ptr::{self, addr_of_mut},
    sync::atomic::{fence, AtomicBool, AtomicPtr, AtomicU64, AtomicU8, Ordering},
};

use common::Opaque;
use system::{MemTxAttrs, MEMTXATTRS_UNSPECIFIED};

use crate::bindings;

/// An access that failed, as `MemTxResult` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemTxError(pub u32);

/// Nothing is at the address (`MEMTX_DECODE_ERROR`).
const MEMTX_DECODE_ERROR: u32 = 1 << 1;

const fn check(result: u32) -> Result<(), MemTxError> {
    if result == 0 {
        Ok(())
    } else {
        Err(MemTxError(result))
    }
}

/// An address space.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct AddressSpace(Opaque<bindings::AddressSpace>);

// SAFETY: the memory core synchronizes accesses to it
unsafe impl Send for AddressSpace {}
// SAFETY: the memory core synchronizes accesses to it
unsafe impl Sync for AddressSpace {}

impl AddressSpace {
    /// Returns the physical memory of the machine, devices included.
    #[inline]
    pub fn memory() -> &'static Self {
        let space = addr_of_mut!(system::bindings::address_space_memory);
        // SAFETY: a variable that lives as long as the process; `Self` is transparent
        unsafe { &*space.cast::<Self>() }
    }

    /// Returns a new address space that shows the physical memory of the machine, devices
    /// included. It lives as long as the process. `alias` names the memory region in it.
    pub fn alias_of_memory(name: &CStr, alias: &CStr) -> &'static Self {
        assert!(bql::is_locked());
        // SAFETY: the three objects are never freed, and all-zeroes is what C initializes
        // them from; the names are copied
        unsafe {
            let root: *mut bindings::MemoryRegion = zeroed_leaked();
            let region: *mut bindings::MemoryRegion = zeroed_leaked();
            let space: *mut bindings::AddressSpace = zeroed_leaked();
            let memory = system::bindings::get_system_memory();
            system::bindings::memory_region_init(root, ptr::null_mut(), c"root".as_ptr(), u64::MAX);
            system::bindings::memory_region_init_alias(
                region,
                ptr::null_mut(),
                alias.as_ptr(),
                memory,
                0,
                system::bindings::memory_region_size(memory),
            );
            system::bindings::memory_region_add_subregion(root, 0, region);
            system::bindings::address_space_init(space, root, name.as_ptr());
            &*space.cast::<Self>()
        }
    }

    /// Reads `buffer.len()` bytes. Everything that the guest wrote before it rang the doorbell is
    /// visible.
    #[inline]
    pub fn read(
        &self,
        address: u64,
        attributes: MemTxAttrs,
        buffer: &mut [u8],
    ) -> Result<(), MemTxError> {
        let length = buffer.len();
        // SAFETY: `buffer` has `length` bytes, which the callee may write
        unsafe { self.access(address, attributes, buffer.as_mut_ptr(), length, false) }
    }

    /// Reads a little-endian doubleword in one access.
    #[inline]
    pub fn read_u64_le(&self, address: u64, attributes: MemTxAttrs) -> Result<u64, MemTxError> {
        fence(Ordering::SeqCst);
        let mut result = 0;
        // SAFETY: a valid address space; the callee writes `result`
        let value = unsafe {
            system::bindings::address_space_ldq_le(
                self.as_mut_ptr(),
                address,
                attributes,
                &mut result,
            )
        };
        check(result).map(|()| value)
    }

    /// Writes `data`. It becomes visible after all earlier accesses of the device.
    #[inline]
    pub fn write(
        &self,
        address: u64,
        attributes: MemTxAttrs,
        data: &[u8],
    ) -> Result<(), MemTxError> {
        let pointer = data.as_ptr().cast_mut();
        // SAFETY: `data` has as many bytes as is said, which the callee only reads
        unsafe { self.access(address, attributes, pointer, data.len(), true) }
    }

    /// Writes a little-endian word in one store. It becomes visible after all earlier accesses of
    /// the device.
    ///
    /// [`Self::write`] may store a part of the data more than once, because it ends in
    /// `memmove()`. A word by which software learns that its place is free again must be stored
    /// once; otherwise the second store could overwrite what software has put there.
    #[inline]
    pub fn write_u32_le(
        &self,
        address: u64,
        attributes: MemTxAttrs,
        value: u32,
    ) -> Result<(), MemTxError> {
        fence(Ordering::SeqCst);
        let mut result = 0;
        // SAFETY: a valid address space; the callee writes `result`
        unsafe {
            system::bindings::address_space_stl_le(
                self.as_mut_ptr(),
                address,
                value,
                attributes,
                &mut result,
            );
        }
        check(result)
    }

    /// # Safety
    ///
    /// `data` must point to `length` bytes, which may be written unless `is_write`.
    #[inline]
    unsafe fn access(
        &self,
        address: u64,
        attributes: MemTxAttrs,
        data: *mut u8,
        length: usize,
        is_write: bool,
    ) -> Result<(), MemTxError> {
        // C's dma_barrier()
        fence(Ordering::SeqCst);
        // SAFETY: a valid address space; the caller promises the rest
        check(unsafe {
            system::bindings::address_space_rw(
                self.as_mut_ptr(),
                address,
                attributes,
                data.cast::<c_void>(),
                length as u64,
                is_write,
            )
        })
    }
}

/// Returns zeroed memory for a C struct, which is never freed.
///
/// # Safety
///
/// All-zeroes must be what C code expects of a `T` that it initializes.
pub(crate) unsafe fn zeroed_leaked<T>() -> *mut T {
    // SAFETY: g_malloc0 aborts rather than return NULL, and aligns for any C type
    unsafe { glib_sys::g_malloc0(size_of::<T>()).cast() }
}

/// The plain memory of an address space, which QEMU itself reads without calling a device.
///
/// Reading it runs no device's code and takes no lock. So it never waits for the BQL, whose
/// owner may be waiting for this very thread, and cannot come back to the device that
/// reads.
///
/// A value exists within one RCU read-side critical section, or within a call that has the
/// BQL from its beginning to its end. It cannot leave its thread.
#[derive(Clone, Copy, Debug)]
pub struct DirectMemory<'a> {
    space: &'a AddressSpace,
    _not_send: PhantomData<*const ()>,
}

impl<'a> DirectMemory<'a> {
    /// # Safety
    ///
    /// For all of `'a`, the calling thread must be in an RCU read-side critical section or
    /// have the BQL. Then neither the memory map as it is when it is used nor the regions
    /// in it go away under an access, however the map is changed.
    pub(crate) const unsafe fn new(space: &'a AddressSpace) -> Self {
        Self {
            space,
            _not_send: PhantomData,
        }
    }

    /// Reads plain memory in whole aligned doublewords, so that each of them is what it was
    /// at some moment even if the guest writes it concurrently.
    ///
    /// # Errors
    ///
    /// Fails if a part of the range is not plain memory.
    #[inline]
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemTxError> {
        fence(Ordering::SeqCst);
        let mut at = address;
        let mut rest = buffer;
        while !rest.is_empty() {
            let (source, length) = self.resolve(at, rest.len())?;
            let (run, behind) = rest.split_at_mut(length);
            // SAFETY: `length` bytes are mapped from `source` on, for as long as the region
            // exists
            unsafe { copy_guest_memory(source, run) }
            at = at.wrapping_add(length as u64);
            rest = behind;
        }
        Ok(())
    }

    /// Returns where `address` is mapped in this process, and how many of the `wanted` bytes
    /// are mapped from there on: at least one.
    #[inline]
    fn resolve(&self, address: u64, wanted: usize) -> Result<(*mut u8, usize), MemTxError> {
        const DECODE_ERROR: MemTxError = MemTxError(MEMTX_DECODE_ERROR);

        let mut offset = 0;
        let mut length = wanted as u64;
        // SAFETY: the critical section protects the view that is loaded here; the callee
        // returns a region of it, and shortens `length` to what of it is there from
        // `offset` on
        let source = unsafe {
            let space = self.space.as_mut_ptr();
            let view = AtomicPtr::from_ptr(addr_of_mut!((*space).current_map));
            let region = system::bindings::flatview_translate(
                view.load(Ordering::Acquire),
                address,
                &mut offset,
                &mut length,
                false,
                MEMTXATTRS_UNSPECIFIED,
            );
            if !supports_direct_access(region) {
                return Err(DECODE_ERROR);
            }
            // an offset in a host's mapping
            let offset = usize::try_from(offset).map_err(|_| DECODE_ERROR)?;
            system::bindings::qemu_map_ram_ptr((*region).ram_block, offset)
        };
        let length = usize::try_from(length).unwrap_or(wanted);
        if length == 0 || length > wanted {
            return Err(DECODE_ERROR);
        }
        Ok((source.cast(), length))
    }
}

/// Returns whether QEMU reads this region as memory, like its own
/// `memory_region_supports_direct_access()`: RAM and ROM, and flash while it is not being
/// programmed.
///
/// Memory that a device maps (`ram_device`: the BAR of an assigned device, a doorbell page
/// of vhost's) is not that: QEMU takes the BQL for accesses to it.
///
/// # Safety
///
/// `region` must be a memory region that stays for the length of the call.
unsafe fn supports_direct_access(region: *mut bindings::MemoryRegion) -> bool {
    // SAFETY: promised by the caller. Nothing changes what a region is once it can be
    // found, but romd_mode, which others write under the BQL.
    unsafe {
        if (*region).rom_device {
            let romd_mode = AtomicBool::from_ptr(addr_of_mut!((*region).romd_mode));
            return romd_mode.load(Ordering::Relaxed);
        }
        (*region).ram && !(*region).ram_device
    }
}

/// Copies from memory that the guest may write at the same time.
///
/// # Safety
///
/// `source` must point to as many mapped bytes as `target` has.
unsafe fn copy_guest_memory(source: *mut u8, target: &mut [u8]) {
    let before = source.align_offset(size_of::<u64>()).min(target.len());
    let (head, rest) = target.split_at_mut(before);
    let mut doublewords = rest.chunks_exact_mut(size_of::<u64>());
    // SAFETY: all addresses are within what the caller promises; those of doublewords are
    // aligned. Atomic loads, because the guest's stores race with them.
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
