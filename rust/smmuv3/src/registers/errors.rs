// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Global errors, as seen by the consumer or producer of a queue (§6.3.19, §7.5).

use super::{msi::Msi, Registers};
use crate::{gerror::MSI_GERROR_ABT_ERR, memory::GuestMemory};

/// The global errors as the owner of a queue sees them, and those that it has activated.
///
/// Other owners activate other errors concurrently. So only the errors that were
/// activated here are put back, and not the value of `GERROR`.
#[derive(Debug)]
pub(super) struct Errors {
    gerror: u32,
    gerrorn: u32,
    irq_enabled: bool,
    msi: Option<Msi>,
    activated: u32,
}

impl Errors {
    #[inline]
    pub(super) fn of(registers: &Registers) -> Self {
        Self {
            gerror: registers.gerror,
            gerrorn: registers.gerrorn,
            irq_enabled: registers.gerror_irq_enabled(),
            msi: registers.gerror_msi(),
            activated: 0,
        }
    }

    /// Returns those of a queue with `GERROR` and `GERRORN` of its own, and without MSIs.
    pub(super) const fn of_vcmdq(gerror: u32, gerrorn: u32, irq_enabled: bool) -> Self {
        Self {
            gerror,
            gerrorn,
            irq_enabled,
            msi: None,
            activated: 0,
        }
    }

    /// Returns whether one of the errors in `bits` is active.
    pub(super) const fn are_active(&self, bits: u32) -> bool {
        (self.gerror ^ self.gerrorn) & bits != 0
    }

    /// Makes the errors in `bits` active, and sends the MSI of those that are new. An
    /// MSI that aborts is an error, too, of which no interrupt is raised (§7.5.1).
    pub(super) fn activate<M: GuestMemory>(&mut self, bits: u32, memory: &mut M) -> Activation {
        let mut activation = self.note(bits);
        if activation.interrupt && self.msi_aborts(memory) {
            activation.new |= self.toggle(MSI_GERROR_ABT_ERR);
            activation.gerror = self.gerror;
        }
        activation
    }

    /// Makes the errors in `bits` active, and sends no MSI.
    pub(super) const fn note(&mut self, bits: u32) -> Activation {
        let new = self.toggle(bits);
        Activation {
            new,
            gerror: self.gerror,
            interrupt: new != 0 && self.irq_enabled,
        }
    }

    /// Sends the MSI of an interrupt, if it has one. Returns whether that aborts.
    pub(super) fn msi_aborts<M: GuestMemory>(&self, memory: &mut M) -> bool {
        self.msi.is_some_and(|msi| msi.send(memory).is_err())
    }

    /// Returns the errors that were activated here and that the registers do not have yet.
    pub(super) const fn take_activated(&mut self) -> u32 {
        let activated = self.activated;
        self.activated = 0;
        activated
    }

    /// Toggles the errors in `bits` that are not active, and returns them.
    const fn toggle(&mut self, bits: u32) -> u32 {
        let new = bits & !(self.gerror ^ self.gerrorn);
        self.gerror ^= new;
        self.activated |= new;
        new
    }

    /// Returns the errors that were activated here.
    pub(super) const fn activated(&self) -> u32 {
        self.activated
    }
}

/// The outcome of activating global errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// Those that were not active before: their bits of `GERROR` are toggled.
    pub new: u32,
    /// `GERROR` after that.
    pub gerror: u32,
    /// Pulse the wired GERROR interrupt: an error is new, and the interrupt is enabled. Its
    /// MSI, if it has one, is sent.
    pub interrupt: bool,
}
