// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Tracing.

use crate::{command::Command, gerror::CommandError, registers::CmdqRun};

/// Hooks for tracing, which have no effect on the consumer. `()` traces nothing.
pub trait Observer {
    /// The queue is going to be worked on.
    fn consume_begin(&mut self, run: &CmdqRun) {
        let _ = run;
    }

    /// A command with this opcode was fetched; `None` if it is ILLEGAL.
    fn command(&mut self, opcode: u8, command: Option<&Command>) {
        let _ = (opcode, command);
    }

    /// A command that is ILLEGAL is consumed all the same, by
    /// [`Leniency`](crate::command::Leniency).
    fn tolerated(&mut self, opcode: u8) {
        let _ = opcode;
    }

    /// A `CMD_SYNC` is complete: `CMDQ_CONS` has passed it, and its signal follows.
    fn sync_completed(&mut self, run: &CmdqRun) {
        let _ = run;
    }

    /// A command with this opcode was not consumed.
    fn error(&mut self, opcode: u8, code: CommandError) {
        let _ = (opcode, code);
    }

    /// Global errors became active: the bits of `GERROR` that were toggled, and
    /// what it is now.
    fn activated(&mut self, toggled: u32, gerror: u32) {
        let _ = (toggled, gerror);
    }

    /// The queue is left.
    fn consume_end(&mut self, run: &CmdqRun) {
        let _ = run;
    }
}

impl Observer for () {}
