// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The registers of one VCMDQ that is not in hardware.

use super::{
    offset::{Base, Page1},
    Page0,
};
use crate::spec::{
    cmdqv::{VcmdqBase, VcmdqConfig, VcmdqDramBase, VcmdqGerror},
    mask,
};

/// The registers of a VCMDQ. While it is in hardware only those of page 1 are in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vcmdq {
    pub(super) base: u64,
    dram_base: u64,
    pub(super) cons: u32,
    pub(super) prod: u32,
    config: u32,
    pub(super) gerror: u32,
    pub(super) gerrorn: u32,
    /// Counts the writes after which a run of the queue must not put its result back.
    pub(super) generation: u32,
    /// The queue is enabled, and its `VCMDQ_BASE` is invalid: the error of that was
    /// activated.
    has_failed: bool,
}

impl Vcmdq {
    /// Sets every register to its reset value, 0.
    pub(super) fn reset(&mut self) {
        *self = Self {
            generation: self.generation.wrapping_add(1),
            ..Self::default()
        };
    }

    /// Discards the result of a run that has begun.
    pub(super) fn discard_run(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Returns `VCMDQ_CONFIG.CMDQ_EN`.
    pub(super) const fn is_enabled(&self) -> bool {
        self.config & mask!(VcmdqConfig: cmdq_en) != 0
    }

    /// Returns the errors that are active.
    pub(super) const fn active_errors(&self) -> u32 {
        self.gerror ^ self.gerrorn
    }

    /// Makes the errors in `bits` active: only a new one toggles `VCMDQ_GERROR`.
    pub(super) fn activate(&mut self, bits: u32) {
        self.gerror ^= bits & VcmdqGerror::DEFINED & !self.active_errors();
    }

    /// Returns a register of page 0, but for `VCMDQ_STATUS`, which others decide.
    pub(super) const fn get(&self, register: Page0) -> u32 {
        match register {
            Page0::Cons => self.cons,
            Page0::Prod => self.prod,
            Page0::Config => self.config,
            Page0::Status => 0,
            Page0::Gerror => self.gerror,
            Page0::Gerrorn => self.gerrorn,
        }
    }

    /// Sets a register of page 0 to a value from the host's page.
    pub(super) fn restore(&mut self, register: Page0, value: u32) {
        let stored = match register {
            Page0::Cons => &mut self.cons,
            Page0::Prod => &mut self.prod,
            Page0::Config => &mut self.config,
            Page0::Gerror => &mut self.gerror,
            Page0::Gerrorn => &mut self.gerrorn,
            Page0::Status => return,
        };
        *stored = value & register.defined();
    }

    /// Writes a register of page 0, as software does.
    ///
    /// # Errors
    ///
    /// The message for a write that is ignored.
    pub(super) fn write(&mut self, register: Page0, value: u32) -> Result<(), &'static str> {
        let writable = register.writable();
        let was_enabled = self.is_enabled();
        let stored = match register {
            // The consumer owns it then, as `CMDQ_CONS` (§6.3.28).
            Page0::Cons if was_enabled => {
                return Err("VCMDQ_CONS_INDX written while the VCMDQ is enabled")
            }
            Page0::Cons => &mut self.cons,
            Page0::Prod => &mut self.prod,
            Page0::Config => &mut self.config,
            Page0::Gerrorn => &mut self.gerrorn,
            Page0::Status | Page0::Gerror => return Ok(()),
        };
        *stored = (*stored & !writable) | (value & writable);
        if register == Page0::Cons || self.is_enabled() != was_enabled {
            self.discard_run();
        }
        Ok(())
    }

    /// Returns the half of a register of page 1.
    pub(super) const fn get_base(&self, half: Page1) -> u32 {
        let register = match half.register {
            Base::Queue => self.base,
            Base::ConsDram => self.dram_base,
        };
        (register >> shift(half)) as u32
    }

    /// Writes the half of a register of page 1.
    pub(super) fn write_base(&mut self, half: Page1, value: u32) {
        let (stored, defined) = match half.register {
            Base::Queue => (&mut self.base, VcmdqBase::DEFINED),
            Base::ConsDram => (&mut self.dram_base, VcmdqDramBase::DEFINED),
        };
        let written = u64::from(u32::MAX) << shift(half);
        let value = u64::from(value) << shift(half);
        *stored = (*stored & !written) | (value & defined);
        if half.register == Base::Queue {
            self.discard_run();
        }
    }

    /// Notes whether the queue is enabled with an invalid base, and activates
    /// `CMDQ_INIT_ERR` when that begins. Returns whether the error is new.
    pub(super) fn note_failure(&mut self, fails: bool) -> bool {
        let had_failed = core::mem::replace(&mut self.has_failed, fails);
        let before = self.active_errors();
        if fails && !had_failed {
            self.activate(mask!(VcmdqGerror: cmdq_init_err));
        }
        before != self.active_errors()
    }
}

const fn shift(half: Page1) -> u32 {
    if half.is_high {
        32
    } else {
        0
    }
}
