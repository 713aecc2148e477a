// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! vCPUs that access devices without the Big QEMU Lock, as under KVM: the device
//! `smmuv3-test-vcpus` of `tests/cmdqv-hw`.

use std::time::Duration;

use crate::{
    assigned::{Setup, EXPLICIT},
    qemu_testbed, until, Machine,
};

/// Guest physical address of the device.
const BASE: u64 = 0x0b80_0000;
/// Size of the registers of one vCPU.
const BANK: u64 = 0x80;

const ADDRESS: u64 = 0x00;
const VALUE: u64 = 0x08;
const COUNT: u64 = 0x10;
const QUEUE: u64 = 0x18;
const START: u64 = 0x20;
const DONE: u64 = 0x28;
const DURATION: u64 = 0x30;

const WRITE: u64 = 1;
const READ: u64 = 2;
const UNMAP: u64 = 3;

/// Returns a machine with so many vCPUs and an SMMU in front of `pcie.1`, on a host whose script
/// begins with `lines`.
pub fn setup(lines: &str, vcpus: usize) -> Setup {
    with_vcpus(Setup::of(&qemu_testbed(), lines).smmu(EXPLICIT), vcpus)
}

/// Gives a machine so many vCPUs.
pub fn with_vcpus(setup: Setup, vcpus: usize) -> Setup {
    setup
        .device(&format!("smmuv3-test-vcpus,base={BASE:#x}"))
        .args(["-smp", &vcpus.to_string()])
}

/// An action of a vCPU that has begun.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct Action {
    bank: u64,
    /// Actions of this vCPU before
    before: u64,
}

/// The vCPU `number` of a machine from [`setup`].
#[derive(Clone, Copy)]
pub struct Vcpu<'a> {
    machine: &'a Machine,
    bank: u64,
}

impl<'a> Vcpu<'a> {
    /// Returns a vCPU.
    pub const fn of(machine: &'a Machine, number: usize) -> Self {
        Self {
            machine,
            bank: BASE + BANK * number as u64,
        }
    }

    #[track_caller]
    fn begin(self, what: u64, registers: &[(u64, u64)]) -> Action {
        let before = self.machine.read64(self.bank + DONE);
        for (register, value) in registers {
            self.machine.write64(self.bank + register, *value);
        }
        self.machine.write64(self.bank + START, what);
        Action {
            bank: self.bank,
            before,
        }
    }

    /// Begins a write of a 32-bit register.
    #[track_caller]
    pub fn write(self, address: u64, value: u32) -> Action {
        self.begin(WRITE, &[(ADDRESS, address), (VALUE, value.into())])
    }

    /// Reads a 32-bit register. Returns how long it took, too.
    #[track_caller]
    pub fn read(self, address: u64) -> (u32, Duration) {
        let action = self.begin(READ, &[(ADDRESS, address)]);
        let duration = action.wait(self.machine);
        (self.machine.read64(self.bank + VALUE) as u32, duration)
    }

    /// Begins unmaps by a Command queue of 2^`log2size` entries, which vCPUs can share: the
    /// queue of the SMMU with registers at `registers`, empty and with index 0.
    #[track_caller]
    pub fn unmap(self, registers: u64, queue: u64, log2size: u32, count: u64) -> Action {
        let size = u64::from(log2size);
        let registers = [
            (ADDRESS, registers),
            (VALUE, size),
            (COUNT, count),
            (QUEUE, queue),
        ];
        self.begin(UNMAP, &registers)
    }
}

impl Action {
    /// Returns whether it has ended.
    #[track_caller]
    pub fn is_done(self, machine: &Machine) -> bool {
        machine.read64(self.bank + DONE) != self.before
    }

    /// Waits until it has ended, and returns how long it took.
    #[track_caller]
    pub fn wait(self, machine: &Machine) -> Duration {
        until("the end of a vCPU's access", || {
            self.is_done(machine).then_some(())
        });
        Duration::from_nanos(machine.read64(self.bank + DURATION))
    }
}
