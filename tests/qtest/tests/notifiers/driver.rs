// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A driver of a virtio device on PCI, up to the point where its queue could be
//! used (virtio 1.2, 3.1.1 and 4.1).

use smmuv3_qtest::{pci, Machine};

/// Where the device's registers are mapped, BAR 4.
const BAR: u64 = 0x1800_0000;

/// `VIRTIO_F_VERSION_1` and `VIRTIO_F_ACCESS_PLATFORM`, in the upper half
const FEATURES: u32 = 3;

/// Offsets in the common configuration.
mod common {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const STATUS: u64 = 0x14;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
}

/// Bits of the device's status.
const ACKNOWLEDGE: u64 = 1;
const DRIVER: u64 = 2;
const DRIVER_OK: u64 = 4;
const FEATURES_OK: u64 = 8;

/// A device that is driven.
pub struct Driver<'a> {
    machine: &'a Machine,
    common: u64,
}

impl<'a> Driver<'a> {
    /// The device whose `StreamID` is `sid`.
    #[track_caller]
    pub fn new(machine: &'a Machine, sid: u32) -> Self {
        let config = pci::config(sid);
        assert_eq!(machine.read_sized(config, 2), 0x1af4, "virtio's vendor");
        machine.write32(config + 0x20, BAR as u32);
        machine.write32(config + 0x24, 0);
        // memory space, bus master
        machine.write_sized(config + 4, 6, 2);
        let common = BAR + common_offset(machine, config);
        Self { machine, common }
    }

    fn status(&self) -> u64 {
        self.machine.read_sized(self.common + common::STATUS, 1)
    }

    fn add_status(&self, bits: u64) {
        let status = self.status() | bits;
        self.machine
            .write_sized(self.common + common::STATUS, status, 1);
    }

    fn write_address(&self, offset: u64, value: u64) {
        self.machine.write32(self.common + offset, value as u32);
        self.machine
            .write32(self.common + offset + 4, (value >> 32) as u32);
    }

    /// Resets the device.
    #[track_caller]
    pub fn reset(&self) {
        self.machine.write_sized(self.common + common::STATUS, 0, 1);
        assert_eq!(self.status(), 0);
    }

    /// Sets the device up with a queue in the page at `iova`.
    #[track_caller]
    pub fn start(&self, iova: u64) {
        let machine = self.machine;
        self.reset();
        self.add_status(ACKNOWLEDGE);
        self.add_status(DRIVER);
        machine.write32(self.common + common::DEVICE_FEATURE_SELECT, 1);
        let offered = machine.read32(self.common + common::DEVICE_FEATURE);
        assert_eq!(offered & FEATURES, FEATURES, "features are missing");
        machine.write32(self.common + common::DRIVER_FEATURE_SELECT, 1);
        machine.write32(self.common + common::DRIVER_FEATURE, FEATURES);
        self.add_status(FEATURES_OK);
        assert_ne!(self.status() & FEATURES_OK, 0, "features are refused");
        machine.write_sized(self.common + common::QUEUE_SELECT, 0, 2);
        machine.write_sized(self.common + common::QUEUE_SIZE, 4, 2);
        self.write_address(common::QUEUE_DESC, iova);
        self.write_address(common::QUEUE_DRIVER, iova + 0x400);
        self.write_address(common::QUEUE_DEVICE, iova + 0x800);
        machine.write_sized(self.common + common::QUEUE_ENABLE, 1, 2);
        self.add_status(DRIVER_OK);
    }
}

/// Where in BAR 4 the common configuration is.
#[track_caller]
fn common_offset(machine: &Machine, config: u64) -> u64 {
    let mut at = machine.read_sized(config + 0x34, 1);
    while at != 0 {
        let capability = config + at;
        // vendor-specific, common configuration
        if machine.read_sized(capability, 1) == 9 && machine.read_sized(capability + 3, 1) == 1 {
            assert_eq!(machine.read_sized(capability + 4, 1), 4, "BAR");
            return u64::from(machine.read32(capability + 8));
        }
        at = machine.read_sized(capability + 1, 1);
    }
    panic!("the device has no common configuration");
}
