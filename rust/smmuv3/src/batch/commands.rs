// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands that are pending, to be submitted together.

use super::{
    mask::CommandMask,
    ranges::{Extent, Granules},
    MAX_BATCH,
};
use crate::{
    command::{Invalidation, Tlbi},
    queue::POINTER_MASK,
    StreamId,
};

/// Commands that are submitted as up to [`MAX_BATCH`] commands, each with its position in
/// the Command queue.
///
/// An entry is a command or, with [`push_merging`](Self::push_merging), a run of them:
/// then it holds the first, from which the others follow.
#[derive(Clone, Debug)]
pub struct Batch {
    commands: [Invalidation; MAX_BATCH],
    positions: [u32; MAX_BATCH],
    /// Number of entries.
    len: usize,
    /// Number of entries that fill a call: less than [`MAX_BATCH`] if runs are submitted
    /// as several commands each.
    full_at: usize,
    /// Bitmap of the entries that are runs.
    runs: u64,
    /// The extents of these.
    extents: [Extent; MAX_BATCH],
    /// Bitmap of the entries that name a stream: `CMD_CFGI_*` and `CMD_ATC_INV`.
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
            full_at: MAX_BATCH,
            runs: 0,
            extents: [Extent::NONE; MAX_BATCH],
            streams: 0,
        }
    }

    /// Returns the number of entries.
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
        self.len >= self.full_at
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
        self.full_at = MAX_BATCH;
        self.runs = 0;
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

    /// Adds a command as [`push`](Self::push) does, or continues the run of the last one
    /// with it, to be submitted as one range for each of `granules`.
    pub fn push_merging(&mut self, position: u32, tlbi: Tlbi, granules: Granules) -> bool {
        self.extend(position, &tlbi, granules) || self.push(position, Invalidation::Tlbi(tlbi))
    }

    /// Continues the run of the last command, if `tlbi` does.
    fn extend(&mut self, position: u32, tlbi: &Tlbi, granules: Granules) -> bool {
        let Some(index) = self.len.checked_sub(1) else {
            return false;
        };
        let (Some(Invalidation::Tlbi(first)), Some(start), Some(extent)) = (
            self.commands.get(index),
            self.positions.get(index),
            self.extents.get_mut(index),
        ) else {
            return false;
        };
        let is_run = self.runs & (1 << index) != 0;
        let (count, cost, longer) = if is_run {
            (extent.count(), extent.cost(), extent.with(first, tlbi))
        } else {
            (1, 1, Extent::of_two(first, tlbi, granules))
        };
        // Positions follow from the first. Where they wrap, a run ends.
        if start + count != position & POINTER_MASK {
            return false;
        }
        let Some(longer) = longer else {
            return false;
        };
        *extent = longer;
        self.full_at = self.full_at.saturating_sub(longer.cost() - cost);
        self.runs |= 1 << index;
        true
    }

    pub(super) const fn all(&self) -> CommandMask {
        CommandMask::first_n(self.len)
    }

    /// Returns the entries that are `CMD_ATC_INV`.
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

    /// Returns the entries that are runs.
    pub(super) const fn runs(&self) -> CommandMask {
        CommandMask(self.runs)
    }

    /// Returns the commands of a run as they were pushed, in order.
    pub(super) fn originals(&self, index: u32) -> impl Iterator<Item = Tlbi> {
        let at = index as usize;
        let run = match (self.commands.get(at), self.extents.get(at)) {
            (Some(Invalidation::Tlbi(first)), Some(extent)) => Some(extent.originals(*first)),
            _ => None,
        };
        run.into_iter().flatten()
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
        // Almost always it is the whole batch and nothing needs to be copied.
        if self.runs == 0 && set == self.all() {
            if let Some(commands) = self.commands.get(..self.len) {
                return submit(commands);
            }
        }
        let mut commands = self.commands;
        let mut selected = 0;
        let mut select = |command| {
            if let Some(free) = commands.get_mut(selected) {
                *free = command;
                selected += 1;
            }
        };
        for index in set.iter() {
            let at = index as usize;
            let is_run = self.runs & (1 << index) != 0;
            match (self.commands.get(at), self.extents.get(at)) {
                (Some(Invalidation::Tlbi(start)), Some(extent)) if is_run => {
                    extent.merged(*start, |tlbi| select(Invalidation::Tlbi(tlbi)));
                }
                (Some(command), _) => select(*command),
                (None, _) => {}
            }
        }
        submit(commands.get(..selected).unwrap_or_default())
    }
}
