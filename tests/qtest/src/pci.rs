// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Functions of PCI devices, as much of them as a driver needs.

use crate::Machine;

/// Configuration space of the `virt` machine.
const ECAM: u64 = 0x40_1000_0000;

/// A window for BARs that has nothing of the machine's own in it.
pub const MEMORY: u64 = 0x1000_0000;

/// The `StreamID` of a function: its bus, device and function numbers.
pub const fn sid(bus: u32, device: u32) -> u32 {
    (bus << 8) | (device << 3)
}

/// Where the configuration space of the function `sid` is.
pub const fn config(sid: u32) -> u64 {
    ECAM + ((sid as u64) << 12)
}

/// Gives the function `sid` of `machine` a BAR 0 at `bar`, and lets it answer
/// and do DMA.
///
/// # Panics
///
/// If no function of this vendor and device is there.
#[track_caller]
pub fn enable(machine: &Machine, sid: u32, identity: u32, bar: u64) {
    let config = config(sid);
    assert_eq!(machine.read32(config), identity, "the function {sid:#x}");
    machine.write32(config + 0x10, bar as u32);
    // memory space, bus master
    machine.write_sized(config + 4, 6, 2);
}
