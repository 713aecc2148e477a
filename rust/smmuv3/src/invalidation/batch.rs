// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands that wait to be submitted together.

use super::{flush::Flush, set::Set, FlushPolicy, MAX_BATCH};
use crate::{
    command::{Invalidation, Tlbi},
    gerror::CommandError,
    queue::POINTER_MASK,
    Host, StreamId,
};

/// The command at which a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where it lies in the Command queue. Every older command is complete.
    pub position: u32,
    /// Its opcode.
    pub opcode: u8,
    /// What the guest is told.
    pub error: CommandError,
}

/// Up to [`MAX_BATCH`] commands, each with its position in the Command queue.
#[derive(Clone, Debug)]
pub struct Batch {
    commands: [Invalidation; MAX_BATCH],
    positions: [u32; MAX_BATCH],
    len: usize,
    /// Which are `CMD_ATC_INV`.
    atc: u64,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// A batch without commands.
    pub const fn new() -> Self {
        Self {
            commands: [Invalidation::Tlbi(Tlbi::NSNH_ALL); MAX_BATCH],
            positions: [0; MAX_BATCH],
            len: 0,
            atc: 0,
        }
    }

    /// Number of commands.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it must be flushed before the next command.
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.len == MAX_BATCH
    }

    /// Drops what waits.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
        self.atc = 0;
    }

    /// Adds a command that lies at `position` in the Command queue. A full batch takes none: returns whether it was added.
    #[inline]
    pub fn push(&mut self, position: u32, command: Invalidation) -> bool {
        let index = self.len;
        if index >= MAX_BATCH {
            return false;
        }
        self.commands[index] = command;
        self.positions[index] = position & POINTER_MASK;
        self.atc |= u64::from(command.is_atc_inv()) << index;
        self.len = index + 1;
        true
    }

    /// Has the host execute what waits, and empties the batch.
    ///
    /// `atc_failed` is set if a `CMD_ATC_INV` did not complete; its stream is
    /// quarantined then, and the next `CMD_SYNC` has to tell (3.9.1.4).
    ///
    /// # Errors
    ///
    /// The command at which consumption stops. What is older is complete, what
    /// is newer is to be submitted again.
    pub fn flush<H: Host>(
        &mut self,
        policy: &FlushPolicy,
        host: &mut H,
        atc_failed: &mut bool,
    ) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        let result = Flush::new(self, policy, host, atc_failed).execute(self.all());
        let result = result.map_err(|stop| Failure {
            position: self.position(stop.index),
            opcode: self.opcode(stop.index),
            error: stop.error,
        });
        self.clear();
        result
    }

    pub(super) const fn all(&self) -> Set {
        Set::first_n(self.len)
    }

    pub(super) const fn atc(&self) -> Set {
        Set(self.atc)
    }

    /// The stream that a command names.
    pub(super) fn target(&self, index: u32) -> Option<StreamId> {
        self.commands.get(index as usize)?.target()
    }

    /// The commands of `set` that name the stream `target`.
    pub(super) fn same_target(&self, set: Set, target: Option<StreamId>) -> Set {
        let same = set.iter().filter(|index| self.target(*index) == target);
        Set(same.fold(0, |bits, index| bits | (1 << index)))
    }

    fn position(&self, index: u32) -> u32 {
        self.positions.get(index as usize).copied().unwrap_or(0)
    }

    fn opcode(&self, index: u32) -> u8 {
        self.commands
            .get(index as usize)
            .map_or(0, Invalidation::opcode)
    }

    /// Calls `submit` with the commands of `set`, in order.
    pub(super) fn with<R>(&self, set: Set, submit: impl FnOnce(&[Invalidation]) -> R) -> R {
        let first = set.first() as usize;
        let count = set.len() as usize;
        // Almost always there are no gaps and nothing needs to be copied.
        if set.0 >> (first & 63) == Set::first_n(count).0 {
            if let Some(commands) = self.commands.get(first..first + count) {
                return submit(commands);
            }
        }
        let mut commands = self.commands;
        let mut selected = 0;
        for index in set.iter() {
            if let Some(command) = self.commands.get(index as usize) {
                commands[selected] = *command;
                selected += 1;
            }
        }
        submit(&commands[..selected])
    }
}
