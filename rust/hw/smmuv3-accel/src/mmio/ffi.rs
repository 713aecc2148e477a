// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The register file's memory region.

use std::ffi::{c_uint, c_void};

use common::Zeroable;
use qom::prelude::*;
use system::prelude::*;

use crate::device::Smmuv3;

unsafe extern "C" fn read_register(opaque: *mut c_void, offset: hwaddr, size: c_uint) -> u64 {
    // SAFETY: the device that init_registers_region was called with
    unsafe { &*opaque.cast::<Smmuv3>() }.read(offset, size)
}

unsafe extern "C" fn write_register(opaque: *mut c_void, offset: hwaddr, value: u64, size: c_uint) {
    // SAFETY: as above
    unsafe { &*opaque.cast::<Smmuv3>() }.write(offset, value, size)
}

/// Makes `region` the register file of `device`, when it is realized.
///
/// [`MemoryRegion::init_io`] works in `instance_init` only, where the region
/// would show as one more child of the object than the C device has.
pub fn init_registers_region(device: &Smmuv3, region: &MemoryRegion, size: u64) {
    static OPS: system::bindings::MemoryRegionOps = system::bindings::MemoryRegionOps {
        read: Some(read_register),
        write: Some(write_register),
        endianness: system::bindings::device_endian::DEVICE_LITTLE_ENDIAN,
        valid: system::bindings::MemoryRegionOps__bindgen_ty_1 {
            min_access_size: 4,
            max_access_size: 8,
            ..Zeroable::ZERO
        },
        impl_: system::bindings::MemoryRegionOps__bindgen_ty_2 {
            min_access_size: 4,
            max_access_size: 8,
            ..Zeroable::ZERO
        },
        ..Zeroable::ZERO
    };
    // SAFETY: `region` is a field of `device`, zeroed and not yet initialized
    // (a device is realized once); the table is static
    unsafe {
        system::bindings::memory_region_init_io(
            region.as_mut_ptr(),
            device.upcast::<Object>().as_mut_ptr(),
            &OPS,
            (device as *const Smmuv3).cast_mut().cast(),
            c"arm-smmuv3".as_ptr(),
            size,
        );
    }
}
