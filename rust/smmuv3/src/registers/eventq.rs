// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The state that the Event queue's producer takes out of the register file, and puts
//! back.

use super::{errors::Errors, Activation, Registers};
use crate::{features::Features, gerror::EVENTQ_ABT_ERR, queue::QueueLayout};

/// The Event queue while records are written.
///
/// Its holder owns `EVENTQ_PROD`. The other registers stay in use, and
/// [`Registers::finish_eventq`] puts the result back.
#[derive(Debug)]
#[must_use = "the registers do not show what was recorded before it is put back"]
pub struct EventqRun {
    layout: QueueLayout,
    enabled: bool,
    irq_enabled: bool,
    /// `EVENTQ_PROD`, to be changed by the producer.
    pub(crate) prod: u32,
    cons: u32,
    errors: Errors,
}

impl EventqRun {
    /// Returns whether the queue is writable but for being full (§7.2.1).
    pub const fn takes_events(&self) -> bool {
        self.enabled && !self.errors.are_active(EVENTQ_ABT_ERR)
    }

    /// Returns the geometry of the queue.
    pub const fn layout(&self) -> &QueueLayout {
        &self.layout
    }

    /// Returns `EVENTQ_CONS`.
    pub const fn cons(&self) -> u32 {
        self.cons
    }

    /// Returns whether the queue raises its interrupt.
    pub const fn irq_enabled(&self) -> bool {
        self.irq_enabled
    }

    /// Makes the errors in `bits` active (§7.5).
    pub(crate) fn activate_errors(&mut self, bits: u32) -> Activation {
        self.errors.activate(bits)
    }
}

impl Registers {
    /// Takes out the Event queue's state for its producer.
    pub fn begin_eventq(&self, features: &Features) -> EventqRun {
        EventqRun {
            layout: self.eventq_layout(features),
            enabled: self.eventq_enabled(),
            irq_enabled: self.eventq_irq_enabled(),
            prod: self.eventq_prod,
            cons: self.eventq_cons,
            errors: Errors::of(self),
        }
    }

    /// Puts back `EVENTQ_PROD` and the errors that the producer activated.
    ///
    /// Returns those that were not active yet. Errors that were activated since
    /// [`begin_eventq`](Self::begin_eventq) stay.
    pub fn finish_eventq(&mut self, run: EventqRun) -> u32 {
        self.eventq_prod = run.prod;
        self.activate_errors(run.errors.activated())
    }
}
