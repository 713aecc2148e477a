// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Functions of PCI devices, as much of them as a driver needs.

use crate::{machine::RAM, Machine};

/// Addresses of a machine that drivers of PCI devices need.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// Configuration space, 4 KiB for each function
    pub ecam: u64,
    /// A window for BARs that the machine does not use
    pub window: u64,
    /// RAM
    pub ram: u64,
}

/// The addresses of `virt`.
pub const VIRT: Board = Board {
    ecam: 0x40_1000_0000,
    window: 0x1000_0000,
    ram: RAM,
};

/// The addresses of `sbsa-ref`.
pub const SBSA_REF: Board = Board {
    ecam: 0xf000_0000,
    window: 0x9000_0000,
    ram: 1 << 40,
};

/// Returns the `StreamID` of a function: its bus, device and function numbers.
pub const fn sid(bus: u32, device: u32) -> u32 {
    (bus << 8) | (device << 3)
}

/// Returns where the configuration space of the function `sid` of `virt` is.
pub const fn config(sid: u32) -> u64 {
    VIRT.config(sid)
}

impl Board {
    /// Returns where the configuration space of the function `sid` is.
    pub const fn config(&self, sid: u32) -> u64 {
        self.ecam + ((sid as u64) << 12)
    }

    /// Gives the function `sid` of `machine` a BAR 0 at `bar`, and enables
    /// memory decoding and bus mastering.
    ///
    /// # Panics
    ///
    /// If no function of this vendor and device is there.
    #[track_caller]
    pub fn enable(&self, machine: &Machine, sid: u32, identity: u32, bar: u64) {
        let config = self.config(sid);
        assert_eq!(machine.read32(config), identity, "the function {sid:#x}");
        machine.write32(config + 0x10, bar as u32);
        // memory space, bus master
        machine.write_sized(config + 4, 6, 2);
    }
}
