// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The interrupt lines.

use hwcore::InterruptSource;

::trace::include_trace!("hw_arm");

/// The interrupts of an SMMU, in the order in which boards connect them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Interrupt {
    /// The Event queue is no longer empty
    EventQ = 0,
    /// PRI queue; never raised, because IDR0.PRI is 0
    #[allow(dead_code)]
    PriQ = 1,
    /// Completion of a `CMD_SYNC`
    CmdSync = 2,
    /// Global error
    Gerror = 3,
}

/// The lines of all interrupts.
#[derive(Debug, Default)]
pub struct IrqLines([InterruptSource; 4]);

impl IrqLines {
    /// Returns the lines, for the board to connect.
    pub const fn sources(&self) -> &[InterruptSource; 4] {
        &self.0
    }

    /// Pulses a line: interrupts of the SMMU are edges (§3.18).
    pub fn pulse(&self, interrupt: Interrupt) {
        trace::trace_smmuv3_trigger_irq(interrupt as i32);
        if let Some(line) = self.0.get(interrupt as usize) {
            line.pulse();
        }
    }
}
