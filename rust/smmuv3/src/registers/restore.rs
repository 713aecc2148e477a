// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! States that come from elsewhere, such as a migration stream.

use core::fmt;

use super::{mask, Registers};
use crate::{features::Features, gerror};

/// A register holds what no guest could have put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidState {
    /// Name of the register as the specification writes it.
    pub register: &'static str,
    /// What it holds.
    pub value: u64,
}

impl fmt::Display for InvalidState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { register, value } = self;
        write!(
            f,
            "{register} cannot hold {value:#x} with these ID registers"
        )
    }
}

impl std::error::Error for InvalidState {}

impl Registers {
    /// Whether writes of a guest can have led to this state.
    ///
    /// # Errors
    ///
    /// Names the first register that holds a bit which is RES0 with these
    /// features, an unknown error code, or a `CR0ACK` other than `CR0`.
    pub fn validate(&self, features: &Features) -> Result<(), InvalidState> {
        let mut clean = self.clone();
        clean.clear_reserved(features);
        for ((register, value), (_, expected)) in self.named().into_iter().zip(clean.named()) {
            if value != expected {
                return Err(InvalidState { register, value });
            }
        }
        Ok(())
    }

    /// Drops every bit that is RES0 with these features, unknown error codes,
    /// and a `CR0ACK` that lags behind `CR0`.
    ///
    /// For states saved by a device that stored such bits: they mean nothing.
    pub fn clear_reserved(&mut self, features: &Features) {
        self.cr[0] &= mask::cr0(features);
        self.cr0ack = self.cr[0];
        self.cr[1] &= mask::CR1_QUEUE | mask::CR1_TABLE;
        self.cr[2] &= mask::cr2(features);
        self.statusr &= mask::statusr(features);
        self.gbpa &= mask::GBPA;
        self.irq_ctrl &= mask::irq_ctrl(features);
        self.gerror &= gerror::defined(features);
        self.gerrorn &= gerror::defined(features);
        self.gerror_irq_cfg0 &= mask::irq_cfg0(features);
        self.gerror_irq_cfg1 &= mask::irq_cfg1(features);
        self.gerror_irq_cfg2 &= mask::irq_cfg2(features);
        self.strtab_base &= mask::strtab_base(features);
        self.strtab_base_cfg &= mask::strtab_base_cfg(features);
        self.eventq_irq_cfg0 &= mask::irq_cfg0(features);
        self.eventq_irq_cfg1 &= mask::irq_cfg1(features);
        self.eventq_irq_cfg2 &= mask::irq_cfg2(features);
        self.cmdq.base &= mask::queue_base(features);
        self.cmdq.prod &= mask::CMDQ_PROD;
        self.cmdq.cons &= mask::CMDQ_CONS_ERR | mask::CMDQ_PROD;
        if self.cmdq.cons & mask::CMDQ_CONS_ERR > LARGEST_ERROR << 24 {
            self.cmdq.cons &= !mask::CMDQ_CONS_ERR;
        }
        self.eventq.base &= mask::queue_base(features);
        self.eventq.prod &= mask::EVENTQ_POINTER;
        self.eventq.cons &= mask::EVENTQ_POINTER;
    }

    fn named(&self) -> [(&'static str, u64); 23] {
        [
            ("CR0", self.cr[0].into()),
            ("CR0ACK", self.cr0ack.into()),
            ("CR1", self.cr[1].into()),
            ("CR2", self.cr[2].into()),
            ("STATUSR", self.statusr.into()),
            ("GBPA", self.gbpa.into()),
            ("IRQ_CTRL", self.irq_ctrl.into()),
            ("GERROR", self.gerror.into()),
            ("GERRORN", self.gerrorn.into()),
            ("GERROR_IRQ_CFG0", self.gerror_irq_cfg0),
            ("GERROR_IRQ_CFG1", self.gerror_irq_cfg1.into()),
            ("GERROR_IRQ_CFG2", self.gerror_irq_cfg2.into()),
            ("STRTAB_BASE", self.strtab_base),
            ("STRTAB_BASE_CFG", self.strtab_base_cfg.into()),
            ("EVENTQ_IRQ_CFG0", self.eventq_irq_cfg0),
            ("EVENTQ_IRQ_CFG1", self.eventq_irq_cfg1.into()),
            ("EVENTQ_IRQ_CFG2", self.eventq_irq_cfg2.into()),
            ("CMDQ_BASE", self.cmdq.base),
            ("CMDQ_PROD", self.cmdq.prod.into()),
            ("CMDQ_CONS", self.cmdq.cons.into()),
            ("EVENTQ_BASE", self.eventq.base),
            ("EVENTQ_PROD", self.eventq.prod.into()),
            ("EVENTQ_CONS", self.eventq.cons.into()),
        ]
    }
}

/// `CERROR_ATC_INV_SYNC`, the last of the codes (7.1).
const LARGEST_ERROR: u32 = gerror::CommandError::AtcInvSync.code();
