// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The state that the Event queue's producer takes out of the register file, and puts
//! back.

use super::{errors::Errors, msi::Msi, Activation, Registers};
use crate::{
    features::Features,
    gerror::{EVENTQ_ABT_ERR, MSI_EVENTQ_ABT_ERR},
    memory::GuestMemory,
    queue::QueueLayout,
};

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
    msi: Option<Msi>,
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

    /// Sends the MSI of the queue, if it has one and its interrupt is enabled. Returns
    /// whether that is a new error whose interrupt is to be pulsed.
    pub(crate) fn send_msi<M: GuestMemory>(&mut self, memory: &mut M) -> bool {
        self.msi.is_some_and(|msi| {
            msi.send(memory).is_err() && self.activate_errors(MSI_EVENTQ_ABT_ERR, memory).interrupt
        })
    }

    /// Makes the errors in `bits` active, and sends the MSI of those that are new (§7.5).
    pub(crate) fn activate_errors<M: GuestMemory>(
        &mut self,
        bits: u32,
        memory: &mut M,
    ) -> Activation {
        self.errors.activate(bits, memory)
    }
}

impl Registers {
    /// Takes out the Event queue's state for its producer.
    pub fn begin_eventq(&self, features: &Features) -> EventqRun {
        EventqRun {
            layout: self.eventq_layout(features),
            enabled: self.eventq_enabled(),
            irq_enabled: self.eventq_irq_enabled(),
            msi: self.eventq_msi(),
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
