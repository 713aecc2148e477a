// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Signals to the guest.

/// The interrupt outputs of the Command queue.
pub trait Interrupts {
    /// A `CMD_SYNC` with `SIG_IRQ` completed: pulse of the wired interrupt.
    fn cmd_sync(&mut self);

    /// A new global error while `GERROR_IRQEN` is set.
    fn gerror(&mut self);

    /// A `CMD_SYNC` with `SIG_SEV` completed.
    fn sev(&mut self) {}
}
