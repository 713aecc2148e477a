// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A driver of a virtio device on PCI with one queue (virtio 1.2, 2.7, 3.1.1 and
//! 4.1).

use std::cell::Cell;

use crate::{pci, Machine};

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
const NEEDS_RESET: u64 = 64;

/// Kinds of structures in the device's registers.
const COMMON: u64 = 1;
const NOTIFY: u64 = 2;

/// Descriptors of a queue, and where its rings are in its page.
const QUEUE_SIZE: u64 = 64;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;

/// A device that is driven.
pub struct Driver<'a> {
    machine: &'a Machine,
    common: u64,
    doorbell: u64,
}

impl<'a> Driver<'a> {
    /// Returns the device whose `StreamID` is `sid`.
    #[track_caller]
    pub fn new(machine: &'a Machine, sid: u32) -> Self {
        let config = pci::config(sid);
        assert_eq!(machine.read_sized(config, 2), 0x1af4, "virtio's vendor");
        machine.write32(config + 0x20, BAR as u32);
        machine.write32(config + 0x24, 0);
        // memory space, bus master
        machine.write_sized(config + 4, 6, 2);
        Self {
            machine,
            common: BAR + structure(machine, config, COMMON),
            // the first queue's, with any multiplier
            doorbell: BAR + structure(machine, config, NOTIFY),
        }
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

    /// Returns whether the device needs a reset after an error.
    pub fn needs_reset(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    /// Notifies the device of a request in the queue.
    pub fn notify(&self) {
        self.machine.write_sized(self.doorbell, 0, 2);
    }

    /// Returns [`notify`](Self::notify) as a request of the qtest protocol.
    pub fn notify_request(&self) -> String {
        format!("writew {:#x} 0", self.doorbell)
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
        machine.write_sized(self.common + common::QUEUE_SIZE, QUEUE_SIZE, 2);
        self.write_address(common::QUEUE_DESC, iova);
        self.write_address(common::QUEUE_DRIVER, iova + AVAILABLE);
        self.write_address(common::QUEUE_DEVICE, iova + USED);
        machine.write_sized(self.common + common::QUEUE_ENABLE, 1, 2);
        self.add_status(DRIVER_OK);
    }
}

/// Returns the offset of a structure in BAR 4.
#[track_caller]
fn structure(machine: &Machine, config: u64, kind: u64) -> u64 {
    let mut at = machine.read_sized(config + 0x34, 1);
    while at != 0 {
        let capability = config + at;
        // vendor-specific
        if machine.read_sized(capability, 1) == 9 && machine.read_sized(capability + 3, 1) == kind {
            assert_eq!(machine.read_sized(capability + 4, 1), 4, "BAR");
            return u64::from(machine.read32(capability + 8));
        }
        at = machine.read_sized(capability + 1, 1);
    }
    panic!("the device has no structure {kind}");
}

/// A buffer of a request.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    /// Its address for the device
    pub address: u64,
    /// Its length in bytes
    pub length: u32,
    /// Whether the device writes it
    pub writable: bool,
}

/// Flags in the second word of a descriptor.
const NEXT: u64 = 1 << 32;
const WRITE: u64 = 2 << 32;

impl Buffer {
    /// Returns the words of a descriptor; `next` is the number of the one that
    /// follows.
    fn descriptor(&self, next: Option<u64>) -> [u64; 2] {
        let direction = if self.writable { WRITE } else { 0 };
        let chain = next.map_or(0, |number| NEXT | (number << 48));
        [self.address, u64::from(self.length) | direction | chain]
    }
}

/// The queue in memory.
pub struct Queue<'a> {
    machine: &'a Machine,
    base: u64,
    available: Cell<u16>,
}

impl<'a> Queue<'a> {
    /// Returns an empty queue in the page at the guest physical address `base`.
    pub fn new(machine: &'a Machine, base: u64) -> Self {
        machine.fill_memory(base, 4096, 0);
        Self {
            machine,
            base,
            available: Cell::new(0),
        }
    }

    /// Makes a request available to the device, in descriptors from `first` on.
    #[track_caller]
    pub fn push(&self, first: u16, buffers: &[Buffer]) {
        let end = u64::from(first) + buffers.len() as u64;
        assert!(end <= QUEUE_SIZE, "no descriptor is left");
        for (number, buffer) in (u64::from(first)..).zip(buffers) {
            let next = Some(number + 1).filter(|next| *next < end);
            let [address, rest] = buffer.descriptor(next);
            self.machine.write64(self.base + 16 * number, address);
            self.machine.write64(self.base + 16 * number + 8, rest);
        }
        let available = self.available.get();
        let ring = self.base + AVAILABLE;
        let slot = ring + 4 + 2 * (u64::from(available) % QUEUE_SIZE);
        self.machine.write_sized(slot, first.into(), 2);
        self.available.set(available.wrapping_add(1));
        self.machine
            .write_sized(ring + 2, self.available.get().into(), 2);
    }

    /// Returns how many requests are pending.
    #[track_caller]
    pub fn pending(&self) -> u16 {
        let used = self.machine.read_sized(self.base + USED + 2, 2) as u16;
        self.available.get().wrapping_sub(used)
    }
}
