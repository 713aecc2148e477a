// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The machine around the hardware: its SMMU, its interrupt controller, and an address.
//!
//! The machine has no place for such a device, so the device finds its own.

use std::ffi::{c_int, CStr};

use hwcore::prelude::*;
use qemu_ext::object::{for_each_object, ObjectExt};
use qom::prelude::*;
use smmuv3_accel::Smmuv3;
use system::MemoryRegion;
use util::{ensure, Error, Result};

const INTERRUPT_CONTROLLER: &CStr = c"arm-gicv3";

/// Returns the machine's SMMU.
pub fn smmu() -> Result<Owned<Smmuv3>> {
    let mut found = Vec::new();
    for_each_object(|object| {
        if let Some(smmu) = object.dynamic_cast::<Smmuv3>() {
            // SAFETY: an object of the tree
            found.push(unsafe { Owned::from(smmu) });
        }
    });
    let only = found.pop().filter(|_| found.is_empty());
    only.ok_or_else(|| Error::msg("the machine must have one SMMU, by iommu=smmuv3"))
}

/// Connects a device's output line `number` to the shared peripheral interrupt `spi`.
pub fn connect<T: IsA<DeviceState>>(device: &T, number: c_int, spi: c_int) -> Result<()> {
    let mut is_connected = false;
    for_each_object(|object| {
        let controller = object.dynamic_cast::<DeviceState>();
        if let Some(controller) = controller.filter(|_| object.is_a(INTERRUPT_CONTROLLER)) {
            // SAFETY: two devices of the tree. A line that the controller does not have makes
            // the first function abort, which a test's command line may.
            unsafe {
                let input = hwcore::bindings::qdev_get_gpio_in(controller.as_mut_ptr(), spi);
                let device = device.upcast::<DeviceState>();
                hwcore::bindings::qdev_connect_gpio_out(device.as_mut_ptr(), number, input);
            }
            is_connected = true;
        }
    });
    ensure!(
        is_connected,
        "the machine must have a GICv3, by gic-version=3"
    );
    Ok(())
}

/// Shows a region, a field of its owner, in the machine's memory.
pub fn map(region: &MemoryRegion, address: u64) {
    assert!(bql::is_locked());
    // SAFETY: the region is initialized, and lives as long as its owner. That is not pluggable
    // and stays until QEMU ends.
    unsafe {
        let memory = system::bindings::get_system_memory();
        system::bindings::memory_region_add_subregion(memory, address, region.as_mut_ptr());
    }
}
