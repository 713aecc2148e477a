// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The register file of the Non-secure pages (§6.2, §6.3).
//!
//! Updates complete at once: `CR0ACK` and `IRQ_CTRLACK` show a written value
//! as soon as it can be read, and `GBPA.Update` is never seen set. The exception is
//! `CR0.CMDQEN` = 0 while another thread consumes commands: `CR0ACK` follows when that has
//! stopped (§6.3.9.3).
//!
//! Guarded registers follow SMMUv3.2 for every `AIDR`: a write that the
//! guard forbids is ignored. Earlier versions permit that too.

mod access;
mod cmdq;
mod defined;
mod errors;
mod eventq;
mod msi;
mod stream_table;
mod table;

pub(crate) use self::cmdq::VcmdqState;
pub use self::{
    cmdq::CmdqRun,
    errors::Activation,
    eventq::EventqRun,
    stream_table::StreamTableRegisters,
    table::{Registers, SIZE},
};
use bilge::prelude::*;

use self::table::TABLE;
use crate::{
    features::Features,
    gerror::CommandError,
    queue::QueueLayout,
    spec::{
        mask,
        register::{CmdqCons, Cr0, Cr2, Gbpa, IrqCtrl, QueueBase},
    },
};

/// log2 of the size of a command in bytes (§4.1.1).
pub const COMMAND_LOG2_BYTES: u32 = 4;
/// log2 of the size of an event record in bytes (§7.2).
pub const EVENT_LOG2_BYTES: u32 = 5;

/// Requests of a register write to the device, which serves the fields in the order
/// in which they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// `CR0.SMMUEN` changed, or `GBPA` did while it decides: all streams must be
    /// attached again.
    pub streams: bool,
    /// `CR0.EVENTQEN` changed.
    pub eventq: bool,
    /// The Command queue may have something to do.
    pub cmdq: bool,
    /// The guest has violated the specification. The caller rate-limits
    /// these messages.
    pub guest_error: Option<&'static str>,
}

impl Effects {
    /// Of a write that is ignored.
    const fn forbidden(message: &'static str) -> Self {
        Self {
            streams: false,
            eventq: false,
            cmdq: false,
            guest_error: Some(message),
        }
    }

    /// Returns the requests of two writes together; of two messages the first stays.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            streams: self.streams || other.streams,
            eventq: self.eventq || other.eventq,
            cmdq: self.cmdq || other.cmdq,
            guest_error: match self.guest_error {
                Some(message) => Some(message),
                None => other.guest_error,
            },
        }
    }
}

impl Registers {
    /// Returns the registers out of reset. UNKNOWN values are 0, except that both
    /// queues start with the largest size there is.
    pub fn reset(features: &Features) -> Self {
        let mut registers = Self::default();
        for row in TABLE {
            (row.set)(&mut registers, (row.reset)(features));
        }
        registers
    }

    /// Drops every bit that is RES0 with these features, and unknown error codes.
    ///
    /// For states saved by a device that stored such bits: they mean nothing.
    pub fn clear_reserved(&mut self, features: &Features) {
        for row in TABLE {
            let value = (row.get)(self) & (row.defined)(features);
            (row.set)(self, value);
        }
        let mut cons = CmdqCons::of(self.cmdq_cons);
        if u32::from(cons.err().value()) > CommandError::LARGEST.code() {
            cons.set_err(u7::new(0));
            self.cmdq_cons = cons.raw();
        }
    }

    /// `CR2.RECINVSID`: `C_BAD_STREAMID` events are recorded (§6.3.12).
    pub const fn records_bad_stream_id(&self) -> bool {
        self.cr2 & mask!(Cr2: recinvsid) != 0
    }

    /// Returns whether streams are checked against the Stream table.
    #[inline]
    pub const fn smmu_enabled(&self) -> bool {
        self.cr0 & mask!(Cr0: smmuen) != 0
    }

    /// Returns whether commands are processed.
    #[inline]
    pub const fn cmdq_enabled(&self) -> bool {
        self.cr0 & mask!(Cr0: cmdqen) != 0
    }

    /// Returns whether events are recorded.
    #[inline]
    pub const fn eventq_enabled(&self) -> bool {
        self.cr0 & mask!(Cr0: eventqen) != 0
    }

    /// Returns whether traffic aborts while `SMMUEN` is 0; else it bypasses.
    #[inline]
    pub const fn gbpa_abort(&self) -> bool {
        self.gbpa & mask!(Gbpa: abort) != 0
    }

    /// Returns whether a global error raises its interrupt.
    #[inline]
    pub const fn gerror_irq_enabled(&self) -> bool {
        self.irq_ctrl & mask!(IrqCtrl: gerror_irqen) != 0
    }

    /// Returns whether the Event queue raises its interrupt.
    #[inline]
    pub const fn eventq_irq_enabled(&self) -> bool {
        self.irq_ctrl & mask!(IrqCtrl: eventq_irqen) != 0
    }

    /// Returns the geometry of the Command queue.
    #[inline]
    pub fn cmdq_layout(&self, features: &Features) -> QueueLayout {
        let base = QueueBase::of(self.cmdq_base);
        let max_log2size = features.max_cmdqs();
        QueueLayout::new(base, max_log2size, features.oas_bits(), COMMAND_LOG2_BYTES)
    }

    /// Returns the geometry of the Event queue.
    #[inline]
    pub fn eventq_layout(&self, features: &Features) -> QueueLayout {
        let base = QueueBase::of(self.eventq_base);
        let max_log2size = features.max_eventqs();
        QueueLayout::new(base, max_log2size, features.oas_bits(), EVENT_LOG2_BYTES)
    }

    /// Returns the errors that are active: `GERROR` differs from `GERRORN` (§6.3.19).
    #[inline]
    pub const fn active_errors(&self) -> u32 {
        self.gerror ^ self.gerrorn
    }

    /// Makes the errors in `bits` active and returns those that were not
    /// before: only a new error toggles `GERROR` (§6.3.19, §7.5).
    pub fn activate_errors(&mut self, bits: u32) -> u32 {
        let new = bits & !self.active_errors();
        self.gerror ^= new;
        new
    }
}
