// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands that are pending, to be submitted together.

use super::{mask::CommandMask, MAX_BATCH};
use crate::{
    command::{Invalidation, Tlbi},
    queue::POINTER_MASK,
    StreamId,
};

/// Up to [`MAX_BATCH`] commands, each with its position in the Command queue.
#[derive(Clone, Debug)]
pub struct Batch {
    commands: [Invalidation; MAX_BATCH],
    positions: [u32; MAX_BATCH],
    len: usize,
    /// Which name a stream: `CMD_CFGI_*` and `CMD_ATC_INV`.
    streams: u64,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// Returns a batch without commands.
    pub const fn new() -> Self {
        Self {
            commands: [Invalidation::Tlbi(Tlbi::NSNH_ALL); MAX_BATCH],
            positions: [0; MAX_BATCH],
            len: 0,
            streams: 0,
        }
    }

    /// Returns the number of commands.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether it must be flushed before the next command.
    #[inline]
    pub const fn is_full(&self) -> bool {
        self.len == MAX_BATCH
    }

    /// Returns whether there is none but TLB invalidations.
    #[inline]
    pub const fn is_tlbi_only(&self) -> bool {
        self.streams == 0
    }

    /// Drops all commands.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
        self.streams = 0;
    }

    /// Adds a command that lies at `position` in the Command queue. A full batch takes
    /// none: returns whether it was added.
    #[inline]
    pub fn push(&mut self, position: u32, command: Invalidation) -> bool {
        let index = self.len;
        if index >= MAX_BATCH {
            return false;
        }
        self.commands[index] = command;
        self.positions[index] = position & POINTER_MASK;
        self.streams |= u64::from(!command.is_tlbi()) << index;
        self.len = index + 1;
        true
    }

    pub(super) const fn all(&self) -> CommandMask {
        CommandMask::first_n(self.len)
    }

    /// Returns which are `CMD_ATC_INV`.
    pub(super) fn atc(&self) -> CommandMask {
        let is_atc_inv = |index: &u32| {
            let command = self.commands.get(*index as usize);
            command.is_some_and(Invalidation::is_atc_inv)
        };
        let atc = CommandMask(self.streams).iter().filter(is_atc_inv);
        CommandMask(atc.fold(0, |bits, index| bits | (1 << index)))
    }

    /// Returns the stream that a command names.
    pub(super) fn target(&self, index: u32) -> Option<StreamId> {
        self.commands.get(index as usize)?.target()
    }

    /// Returns the commands of `set` that name the stream `target`.
    pub(super) fn same_target(&self, set: CommandMask, target: Option<StreamId>) -> CommandMask {
        let same = set.iter().filter(|index| self.target(*index) == target);
        CommandMask(same.fold(0, |bits, index| bits | (1 << index)))
    }

    pub(super) fn position(&self, index: u32) -> u32 {
        self.positions.get(index as usize).copied().unwrap_or(0)
    }

    pub(super) fn opcode(&self, index: u32) -> u8 {
        self.commands
            .get(index as usize)
            .map_or(0, Invalidation::opcode)
    }

    /// Calls `submit` with the commands of `set`, in order.
    pub(super) fn with<R>(&self, set: CommandMask, submit: impl FnOnce(&[Invalidation]) -> R) -> R {
        let first = set.first() as usize;
        let count = set.len() as usize;
        // Almost always there are no gaps and nothing needs to be copied.
        if set.0 >> (first & 63) == CommandMask::first_n(count).0 {
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
