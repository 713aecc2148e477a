// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Signals to the guest.

use crate::registers::{Activation, CmdqRun};

/// The interrupt outputs of the Command queue, and the registers that software reads after a
/// signal.
pub trait Interrupts {
    /// Makes the errors in `errors` active, and shows `CMDQ_CONS` and `GERROR` in the registers
    /// before a signal about them follows, by MSI or wire (§3.18).
    ///
    /// To be implemented, by [`Registers::show_cmdq`](crate::Registers::show_cmdq), where
    /// software can read registers while the consumer runs. Otherwise the end of the run shows
    /// all of it.
    #[inline]
    fn show(&mut self, run: &mut CmdqRun, errors: u32) -> Activation {
        run.note_errors(errors)
    }

    /// A `CMD_SYNC` with `SIG_IRQ` completed: pulse of the wired interrupt.
    fn cmd_sync(&mut self);

    /// A new global error while `GERROR_IRQEN` is set.
    fn gerror(&mut self);

    /// A `CMD_SYNC` with `SIG_SEV` completed.
    fn sev(&mut self) {}
}
