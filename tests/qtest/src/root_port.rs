// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A `PCIe` root port that writes to memory on request: the only emulated
//! initiator that may be behind an accelerated SMMU. It sends the MSI of its MSI-X
//! table when it has completed a command for its slot.

use crate::{pci, Machine};

/// Where the root port's MSI-X table is mapped.
const BAR: u64 = 0x1000_0000;

/// The root port `rp1` of a machine, programmed to write a number on request.
pub struct RootPort<'a> {
    machine: &'a Machine,
    config: u64,
    /// Guest physical address of its Slot Control register
    slot_control: u64,
    written: u32,
}

/// Slot Control: interrupts for hot-plug events, among them completed commands
const INTERRUPTS: u64 = 0x30;
/// Slot Status: a command is completed
const COMPLETED: u64 = 0x10;

impl<'a> RootPort<'a> {
    /// Returns the `pcie-root-port` whose id is `rp1` and whose `StreamID`, bus
    /// number and device, is `sid`.
    #[track_caller]
    pub fn new(machine: &'a Machine, sid: u32) -> Self {
        let mut port = Self {
            machine,
            config: pci::config(sid),
            slot_control: 0,
            written: 0,
        };
        assert_eq!(
            machine.read_sized(port.config, 2),
            0x1b36,
            "the root port's vendor"
        );
        port.slot_control = port.config + port.capability(0x10) + 0x18;
        port.program();
        port
    }

    /// Programs the device again after a reset.
    #[track_caller]
    pub fn program(&self) {
        let machine = self.machine;
        machine.write32(self.config + 0x10, BAR as u32);
        // memory space, bus master
        machine.write_sized(self.config + 4, 6, 2);
        let msix = self.config + self.capability(0x11);
        machine.write_sized(msix + 2, 0x8000, 2);
        // commands completed before are not reported
        machine.write_sized(self.slot_control + 2, COMPLETED, 2);
    }

    fn capability(&self, id: u64) -> u64 {
        let mut at = self.machine.read_sized(self.config + 0x34, 1);
        while at != 0 {
            if self.machine.read_sized(self.config + at, 1) == id {
                return at;
            }
            at = self.machine.read_sized(self.config + at + 1, 1);
        }
        panic!("the root port has no capability {id:#x}");
    }

    /// Writes a number that has not been used to `iova` and returns it.
    #[track_caller]
    pub fn write(&mut self, iova: u64) -> u32 {
        self.written += 1;
        let machine = self.machine;
        machine.write32(BAR, iova as u32);
        machine.write32(BAR + 4, (iova >> 32) as u32);
        machine.write32(BAR + 8, self.written);
        machine.write32(BAR + 12, 0);
        let slot = machine.read_sized(self.slot_control, 2);
        machine.write_sized(self.slot_control, slot | INTERRUPTS, 2);
        machine.write_sized(self.slot_control + 2, COMPLETED, 2);
        self.written
    }

    /// Checks that a write to `iova` arrives at `address`.
    #[track_caller]
    pub fn arrives(&mut self, iova: u64, address: u64) {
        let number = self.write(iova);
        assert_eq!(
            self.machine.read32(address),
            number,
            "{iova:#x} does not reach {address:#x}"
        );
    }

    /// Checks that a write to `iova` does not arrive at any of `addresses`.
    #[track_caller]
    pub fn is_aborted(&mut self, iova: u64, addresses: &[u64]) {
        let machine = self.machine;
        let read = || addresses.iter().map(|at| machine.read32(*at));
        let before: Vec<u32> = read().collect();
        self.write(iova);
        assert!(read().eq(before), "{iova:#x} arrives");
    }
}
