// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Global errors, as seen by the consumer or producer of a queue (§6.3.19, §7.5).

use super::Registers;

/// The global errors as the owner of a queue sees them, and those that it has activated.
///
/// Other owners activate other errors concurrently. So only the errors that were
/// activated here are put back, and not the value of `GERROR`.
#[derive(Debug)]
pub(super) struct Errors {
    gerror: u32,
    gerrorn: u32,
    irq_enabled: bool,
    activated: u32,
}

impl Errors {
    pub(super) const fn of(registers: &Registers) -> Self {
        Self {
            gerror: registers.gerror,
            gerrorn: registers.gerrorn,
            irq_enabled: registers.gerror_irq_enabled(),
            activated: 0,
        }
    }

    /// Returns whether one of the errors in `bits` is active.
    pub(super) const fn are_active(&self, bits: u32) -> bool {
        (self.gerror ^ self.gerrorn) & bits != 0
    }

    /// Makes the errors in `bits` active.
    pub(super) fn activate(&mut self, bits: u32) -> Activation {
        let new = bits & !(self.gerror ^ self.gerrorn);
        self.gerror ^= new;
        self.activated |= new;
        Activation {
            new,
            gerror: self.gerror,
            interrupt: new != 0 && self.irq_enabled,
        }
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
    /// Pulse the GERROR interrupt: an error is new, and the interrupt is enabled.
    pub interrupt: bool,
}
