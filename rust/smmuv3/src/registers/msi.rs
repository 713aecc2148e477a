// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The MSIs of interrupts that registers configure (§3.18, §6.3.21, §6.3.30).

use super::Registers;
use crate::{
    memory::{BusAbort, GuestMemory},
    spec::register::IrqCfg0,
};

/// A Message Signalled Interrupt: a 32-bit write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Msi {
    address: u64,
    data: u32,
}

impl Msi {
    /// Returns the MSI of `*_IRQ_CFG0` and `*_IRQ_CFG1`. There is none if `ADDR` is 0, as
    /// it is while `IDR0.MSI` is 0.
    ///
    /// The register has no bits above the output address size, so the address needs no
    /// truncation (§6.3.21).
    fn configured(cfg0: u64, cfg1: u32) -> Option<Self> {
        let address = IrqCfg0::of(cfg0).target();
        (address != 0).then_some(Self {
            address,
            data: cfg1,
        })
    }

    /// Writes the data to the address.
    pub(super) fn send<M: GuestMemory>(self, memory: &mut M) -> Result<(), BusAbort> {
        memory.write_u32(self.address, self.data)
    }
}

impl Registers {
    /// Returns the MSI of global errors, if they have one and it is enabled.
    pub(super) fn gerror_msi(&self) -> Option<Msi> {
        self.gerror_irq_enabled()
            .then(|| Msi::configured(self.gerror_irq_cfg0, self.gerror_irq_cfg1))
            .flatten()
    }

    /// Returns the MSI of the Event queue, if it has one and it is enabled.
    pub(super) fn eventq_msi(&self) -> Option<Msi> {
        self.eventq_irq_enabled()
            .then(|| Msi::configured(self.eventq_irq_cfg0, self.eventq_irq_cfg1))
            .flatten()
    }
}
