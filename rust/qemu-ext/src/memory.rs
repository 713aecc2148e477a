// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Regions of a device's memory.
//!
//! [`MemoryRegion::init_io`] is for `INSTANCE_INIT`. There, a region becomes a child of every
//! object of the type, and a user who lists the properties of the type sees it. A
//! device that replaces one in C must show the same properties.
//!
//! ```no_run
//! use hwcore::prelude::*;
//! use qom::prelude::*;
//! use system::{prelude::*, MemoryRegion};
//!
//! fn realize<T: IsA<SysBusDevice> + IsA<DeviceState> + IsA<Object>>(
//!     device: &T,
//!     region: &MemoryRegion,
//!     ops: &'static MemoryRegionOps<T>,
//! ) {
//!     qemu_ext::memory::init_io(device, region, ops, c"my-device", 0x1000);
//!     device.init_mmio(region);
//! }
//! ```

use std::{
    ffi::{c_uint, c_void, CStr},
    mem::size_of,
    ptr::{self, addr_of},
};

use common::callbacks::FnCall;
use hwcore::prelude::*;
use qom::prelude::*;
use system::{MemoryRegion, MemoryRegionOps};

use crate::{bindings, object::ObjectExt, page_window::PageWindow};

/// Makes `region`, a field of `device` that was all-zeroes before it was realized, an I/O
/// region. One that is realized again has it already.
pub fn init_io<T: IsA<DeviceState> + IsA<Object>>(
    device: &T,
    region: &MemoryRegion,
    ops: &'static MemoryRegionOps<T>,
    name: &CStr,
    size: u64,
) {
    let Some(region) = uninitialized(device, region) else {
        return;
    };
    let owner: *const T = device;
    // SAFETY: `MemoryRegionOps` is transparent. The region lives as long as its owner, of
    // which users of the region keep a reference. The name is copied.
    unsafe {
        system::bindings::memory_region_init_io(
            region,
            device.upcast::<Object>().as_mut_ptr(),
            ptr::from_ref(ops).cast::<bindings::MemoryRegionOps>(),
            owner.cast_mut().cast(),
            name.as_ptr(),
            size,
        );
    }
}

/// Makes `region`, a field of `device` that was all-zeroes before it was realized, an I/O region. An
/// access aborts if `accepts` returns false, which is asked first, in the same thread.
pub fn init_checked_io<T, A>(
    device: &T,
    region: &MemoryRegion,
    ops: &'static MemoryRegionOps<T>,
    _accepts: &A,
    name: &CStr,
    size: u64,
) where
    T: IsA<DeviceState> + IsA<Object> + Sync,
    A: for<'a> FnCall<(&'a T,), bool>,
{
    unsafe extern "C" fn accepts<T, A: for<'a> FnCall<(&'a T,), bool>>(
        opaque: *mut c_void,
        _address: u64,
        _size: c_uint,
        _is_write: bool,
        _attributes: bindings::MemTxAttrs,
    ) -> bool {
        // SAFETY: the region's owner, which outlives it
        A::call((unsafe { &*opaque.cast::<T>() },))
    }
    const { assert!(A::IS_SOME) };
    let Some(region) = uninitialized(device, region) else {
        return;
    };
    let owner: *const T = device;
    // SAFETY: `MemoryRegionOps` is transparent, and its C struct is plain data. The copy is never
    // freed. The region lives as long as its owner, of which users of the region keep a
    // reference. The name is copied.
    unsafe {
        let mut copy = Box::new(
            ptr::from_ref(ops)
                .cast::<bindings::MemoryRegionOps>()
                .read(),
        );
        copy.valid.accepts = Some(accepts::<T, A>);
        system::bindings::memory_region_init_io(
            region,
            device.upcast::<Object>().as_mut_ptr(),
            Box::leak(copy),
            owner.cast_mut().cast(),
            name.as_ptr(),
            size,
        );
    }
}

/// Has the callbacks of an I/O region called with or without the Big QEMU Lock: whether the
/// thread has it already decides. To be called before the region is mapped.
///
/// QEMU's guard against re-entrant I/O does not cover such a region, because it would refuse one
/// thread's access for another's: [`init_checked_io`] can have one in its place.
pub fn enable_lockless_io(region: &MemoryRegion) {
    assert!(bql::is_locked());
    // SAFETY: an initialized region
    unsafe { system::bindings::memory_region_enable_lockless_io(region.as_mut_ptr()) }
}

/// Makes `region`, a field of `device` that was all-zeroes before, a region of RAM that is
/// the hardware's: the page that is mapped into `window`. Hardware cannot DMA to it: it is in
/// no I/O address space.
pub fn init_device_page<T: IsA<DeviceState> + IsA<Object>>(
    device: &T,
    region: &MemoryRegion,
    name: &CStr,
    window: &'static PageWindow,
) {
    let Some(region) = uninitialized(device, region) else {
        return;
    };
    // SAFETY: the window is mapped forever. The region lives as long as its owner. The name
    // is copied.
    unsafe {
        system::bindings::memory_region_init_ram_device_ptr(
            region,
            device.upcast::<Object>().as_mut_ptr(),
            name.as_ptr(),
            window.size() as u64,
            window.address(),
        );
        system::bindings::memory_region_set_skip_iommu_map(region, true);
    }
}

/// Puts `region` into `container` at `offset`, in front of what that has there.
pub fn add_overlapping(container: &MemoryRegion, region: &MemoryRegion, offset: u64) {
    assert!(bql::is_locked());
    // SAFETY: initialized regions of one device, which goes with both
    unsafe {
        system::bindings::memory_region_add_subregion_overlap(
            container.as_mut_ptr(),
            offset,
            region.as_mut_ptr(),
            1,
        );
    }
}

/// Shows `region` at its place, or hides it. With KVM no vCPU reaches a hidden region when this
/// returns; with TCG another vCPU may still be in an access to it.
pub fn set_enabled(region: &MemoryRegion, is_enabled: bool) {
    assert!(bql::is_locked());
    // SAFETY: an initialized region
    unsafe { system::bindings::memory_region_set_enabled(region.as_mut_ptr(), is_enabled) }
}

/// Returns the size in bytes of the smallest pages that back the machine's memory: in each
/// of them, guest physical addresses are contiguous in the host.
pub fn smallest_ram_page() -> u64 {
    // SAFETY: looks at the memory backends, whose list the BQL protects
    let size = unsafe { bindings::qemu_minrampagesize() };
    let size = if size == std::ffi::c_long::MAX {
        // SAFETY: no preconditions
        unsafe { libc::sysconf(libc::_SC_PAGESIZE) }
    } else {
        size
    };
    u64::try_from(size).unwrap_or(0)
}

/// The container of memory that can be plugged in and out: DIMMs, virtio-mem, and others.
const DEVICE_MEMORY: &CStr = c"device-memory";

/// Returns whether the `size` bytes at a guest physical address are RAM of the machine itself, which
/// is there as long as the machine runs. RAM of a device, which can be unplugged or
/// move to another address, is not: a DIMM, virtio-mem, or the BAR of a PCI function.
pub fn is_permanent_ram(address: u64, size: u64) -> bool {
    assert!(bql::is_locked());
    // SAFETY: the BQL protects the tree of regions. `memory_region_find` takes a reference of
    // the region that it finds, whose containers and owners stay with it.
    unsafe {
        let memory = system::bindings::get_system_memory();
        let found = system::bindings::memory_region_find(memory, address, size);
        if found.mr.is_null() {
            return false;
        }
        let mut top = found.mr;
        while !(*top).container.is_null() && (*top).container != memory {
            top = (*top).container;
        }
        let owner = (*top).owner;
        let is_of_device = (*found.mr).ram_device
            || (!owner.is_null() && Object::from_raw(owner).is_a(c"device"))
            || CStr::from_ptr((*top).name) == DEVICE_MEMORY;
        // the top of a BAR's is the space of its bus, of which the machine has an alias
        let is_in_memory = (*top).container == memory;
        let is_whole = u64::try_from(found.size).is_ok_and(|found| found >= size);
        let is_permanent = (*found.mr).ram && is_in_memory && is_whole && !is_of_device;
        system::bindings::memory_region_unref(found.mr);
        is_permanent
    }
}

/// Returns `region`, a field of `device`, unless it is initialized: a device that is realized
/// again has it already.
fn uninitialized<T>(device: &T, region: &MemoryRegion) -> Option<*mut bindings::MemoryRegion> {
    assert!(bql::is_locked());
    let owner: *const T = device;
    let offset = (ptr::from_ref(region) as usize).checked_sub(owner as usize);
    assert!(
        offset.is_some_and(|offset| offset < size_of::<T>()),
        "a region must be part of its device, or it could go before its users"
    );
    let region = region.as_mut_ptr();
    // SAFETY: a field of the device, all-zeroes or initialized
    let is_initialized = !unsafe { addr_of!((*region).parent_obj.class).read() }.is_null();
    (!is_initialized).then_some(region)
}
