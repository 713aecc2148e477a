// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! I/O regions of a device that is being realized.
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
    ffi::CStr,
    mem::size_of,
    ptr::{self, addr_of},
};

use hwcore::prelude::*;
use qom::prelude::*;
use system::{MemoryRegion, MemoryRegionOps};

use crate::bindings;

/// Makes `region`, a field of `device` that was all-zeroes before it was realized, an I/O
/// region. One that is realized again has it already.
pub fn init_io<T: IsA<DeviceState> + IsA<Object>>(
    device: &T,
    region: &MemoryRegion,
    ops: &'static MemoryRegionOps<T>,
    name: &CStr,
    size: u64,
) {
    assert!(bql::is_locked());
    let owner: *const T = device;
    let offset = (ptr::from_ref(region) as usize).checked_sub(owner as usize);
    assert!(
        offset.is_some_and(|offset| offset < size_of::<T>()),
        "a region must be part of its device, or it could go before its users"
    );
    let region = region.as_mut_ptr();
    // SAFETY: a field of the device, all-zeroes or initialized
    if !unsafe { addr_of!((*region).parent_obj.class).read() }.is_null() {
        return;
    }
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
