// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The register file of the Non-secure pages (6.2, 6.3).
//!
//! Updates complete at once: `CR0ACK` and `IRQ_CTRLACK` show a written value
//! as soon as it can be read, and `GBPA.Update` is never seen set.
//!
//! Guarded registers follow SMMUv3.2 whatever `AIDR` says: a write that the
//! guard forbids is ignored. Earlier versions permit that too.

mod access;
mod mask;
mod offset;
mod restore;

pub use offset::SIZE;
pub use restore::InvalidState;

use crate::{
    features::Features,
    gerror::CMDQ_ERR,
    queue::{QueueRegisters, Ring},
};

/// `CR0.SMMUEN`.
pub const CR0_SMMUEN: u32 = 1 << 0;
/// `CR0.PRIQEN`.
pub const CR0_PRIQEN: u32 = 1 << 1;
/// `CR0.EVENTQEN`.
pub const CR0_EVENTQEN: u32 = 1 << 2;
/// `CR0.CMDQEN`.
pub const CR0_CMDQEN: u32 = 1 << 3;
/// `CR2.RECINVSID`.
const CR2_RECINVSID: u32 = 1 << 1;
/// `GBPA.ABORT`.
pub const GBPA_ABORT: u32 = 1 << 20;
/// `GBPA.Update`.
pub const GBPA_UPDATE: u32 = 1 << 31;
/// `IRQ_CTRL.GERROR_IRQEN`.
pub const IRQ_CTRL_GERROR: u32 = 1 << 0;
/// `IRQ_CTRL.EVENTQ_IRQEN`.
pub const IRQ_CTRL_EVENTQ: u32 = 1 << 2;

/// Lowest bit of `CMDQ_CONS.ERR` (6.3.28).
pub const CMDQ_CONS_ERR_SHIFT: u32 = 24;

/// log2 of the size of a command in bytes (4.1.1).
pub const COMMAND_LOG2_BYTES: u32 = 4;
/// log2 of the size of an event record in bytes (7.2).
pub const EVENT_LOG2_BYTES: u32 = 5;

/// `GBPA` out of reset: `SHCFG` is "use incoming", nothing aborts.
const GBPA_RESET: u32 = 0x1000;

/// The registers as they read, without those that never change
/// ([`Features`] has them). The fields are public so that a device can save
/// and restore them; [`validate`](Self::validate) tells whether a restored
/// state is one that the registers can be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    /// `CR0`, `CR1`, `CR2` (6.3.9, 6.3.11, 6.3.12).
    pub cr: [u32; 3],
    /// `CR0ACK` (6.3.10).
    pub cr0ack: u32,
    /// `STATUSR` (6.3.13).
    pub statusr: u32,
    /// `GBPA` (6.3.14).
    pub gbpa: u32,
    /// `IRQ_CTRL` and `IRQ_CTRLACK` (6.3.16).
    pub irq_ctrl: u32,
    /// `GERROR` (6.3.19).
    pub gerror: u32,
    /// `GERRORN` (6.3.20).
    pub gerrorn: u32,
    /// `GERROR_IRQ_CFG0` (6.3.21).
    pub gerror_irq_cfg0: u64,
    /// `GERROR_IRQ_CFG1` (6.3.22).
    pub gerror_irq_cfg1: u32,
    /// `GERROR_IRQ_CFG2` (6.3.23).
    pub gerror_irq_cfg2: u32,
    /// `STRTAB_BASE` (6.3.24).
    pub strtab_base: u64,
    /// `STRTAB_BASE_CFG` (6.3.25).
    pub strtab_base_cfg: u32,
    /// `EVENTQ_IRQ_CFG0` (6.3.30).
    pub eventq_irq_cfg0: u64,
    /// `EVENTQ_IRQ_CFG1` (6.3.31).
    pub eventq_irq_cfg1: u32,
    /// `EVENTQ_IRQ_CFG2` (6.3.32).
    pub eventq_irq_cfg2: u32,
    /// `CMDQ_BASE`, `CMDQ_PROD`, `CMDQ_CONS` (6.3.26-6.3.28).
    pub cmdq: QueueRegisters,
    /// `EVENTQ_BASE`, `EVENTQ_PROD`, `EVENTQ_CONS` (6.3.29, 6.3.95, 6.3.96).
    pub eventq: QueueRegisters,
}

/// What a register write asks of the device. The fields are to be served in
/// the order in which they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// `CR0.SMMUEN` changed, or `GBPA` did while it decides: what every stream
    /// is attached to must be evaluated anew.
    pub streams: bool,
    /// `CR0.EVENTQEN` changed.
    pub eventq: bool,
    /// The Command queue may have something to do.
    pub cmdq: bool,
    /// The guest did what the specification forbids. How often such messages
    /// are shown is the caller's affair.
    pub guest_error: Option<&'static str>,
}

impl Effects {
    /// What two writes ask for together; of two messages the first stays.
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
    /// The registers out of reset. What the specification leaves UNKNOWN is 0,
    /// except that both queues start with the largest size there is.
    pub fn reset(features: &Features) -> Self {
        let queue = |log2size: u32| QueueRegisters {
            base: u64::from(log2size),
            prod: 0,
            cons: 0,
        };
        Self {
            cr: [0; 3],
            cr0ack: 0,
            statusr: 0,
            gbpa: GBPA_RESET,
            irq_ctrl: 0,
            gerror: 0,
            gerrorn: 0,
            gerror_irq_cfg0: 0,
            gerror_irq_cfg1: 0,
            gerror_irq_cfg2: 0,
            strtab_base: 0,
            strtab_base_cfg: 0,
            eventq_irq_cfg0: 0,
            eventq_irq_cfg1: 0,
            eventq_irq_cfg2: 0,
            cmdq: queue(features.max_cmdqs()),
            eventq: queue(features.max_eventqs()),
        }
    }

    /// `CR2.RECINVSID`: `C_BAD_STREAMID` events are recorded (6.3.12).
    pub const fn records_bad_stream_id(&self) -> bool {
        self.cr[2] & CR2_RECINVSID != 0
    }

    /// Whether streams are checked against the Stream table.
    #[inline]
    pub const fn smmu_enabled(&self) -> bool {
        self.cr[0] & CR0_SMMUEN != 0
    }

    /// Whether commands are processed.
    #[inline]
    pub const fn cmdq_enabled(&self) -> bool {
        self.cr[0] & CR0_CMDQEN != 0
    }

    /// Whether events are recorded.
    #[inline]
    pub const fn eventq_enabled(&self) -> bool {
        self.cr[0] & CR0_EVENTQEN != 0
    }

    /// Whether traffic aborts while `SMMUEN` is 0; else it bypasses.
    #[inline]
    pub const fn gbpa_abort(&self) -> bool {
        self.gbpa & GBPA_ABORT != 0
    }

    /// Whether a global error raises its interrupt.
    #[inline]
    pub const fn gerror_irq_enabled(&self) -> bool {
        self.irq_ctrl & IRQ_CTRL_GERROR != 0
    }

    /// Whether the Event queue raises its interrupt.
    #[inline]
    pub const fn eventq_irq_enabled(&self) -> bool {
        self.irq_ctrl & IRQ_CTRL_EVENTQ != 0
    }

    /// Geometry of the Command queue.
    #[inline]
    pub const fn cmdq_ring(&self, features: &Features) -> Ring {
        self.cmdq.ring(
            features.max_cmdqs(),
            features.oas_bits(),
            COMMAND_LOG2_BYTES,
        )
    }

    /// Geometry of the Event queue.
    #[inline]
    pub const fn eventq_ring(&self, features: &Features) -> Ring {
        self.eventq.ring(
            features.max_eventqs(),
            features.oas_bits(),
            EVENT_LOG2_BYTES,
        )
    }

    /// The errors that are active: `GERROR` differs from `GERRORN` (6.3.19).
    #[inline]
    pub const fn active_errors(&self) -> u32 {
        self.gerror ^ self.gerrorn
    }

    /// Makes the errors in `bits` active and returns those that were not
    /// before: only a new error toggles `GERROR` (6.3.19, 7.5).
    pub fn activate_errors(&mut self, bits: u32) -> u32 {
        let new = bits & !self.active_errors();
        self.gerror ^= new;
        new
    }

    /// Whether commands may be processed (4.1.2): the queue is enabled, no
    /// Command queue error is active, and it holds something. Indexes that
    /// contradict each other count as nothing to do (3.5.1).
    pub const fn cmdq_ready(&self, features: &Features) -> bool {
        if !self.cmdq_enabled() || self.active_errors() & CMDQ_ERR != 0 {
            return false;
        }
        let used = self
            .cmdq_ring(features)
            .used(self.cmdq.prod, self.cmdq.cons);
        matches!(used, Some(1..))
    }
}
