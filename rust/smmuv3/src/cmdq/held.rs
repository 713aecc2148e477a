// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! `CMD_SYNC`s that are pending together with TLB invalidations.

use crate::command::CompletionSignal;

/// Most `CMD_SYNC`s that are held.
const MAX_HELD: usize = 64;

/// A `CMD_SYNC` as it was fetched: its slot is not read again.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldSync {
    /// Its position in the Command queue.
    pub(super) position: u32,
    pub(super) signal: CompletionSignal,
}

/// Up to [`MAX_HELD`] `CMD_SYNC`s, in order.
#[derive(Debug)]
pub(super) struct HeldSyncs {
    syncs: [HeldSync; MAX_HELD],
    len: usize,
}

impl Default for HeldSyncs {
    fn default() -> Self {
        let none = HeldSync {
            position: 0,
            signal: CompletionSignal::None,
        };
        Self {
            syncs: [none; MAX_HELD],
            len: 0,
        }
    }
}

impl HeldSyncs {
    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(super) const fn is_full(&self) -> bool {
        self.len == MAX_HELD
    }

    /// Adds a `CMD_SYNC`. There must be room for it.
    pub(super) fn push(&mut self, position: u32, signal: CompletionSignal) {
        if let Some(free) = self.syncs.get_mut(self.len) {
            *free = HeldSync { position, signal };
            self.len += 1;
        }
    }

    /// Returns the `CMD_SYNC` that `index` others precede.
    pub(super) fn get(&self, index: usize) -> Option<HeldSync> {
        self.syncs.get(..self.len)?.get(index).copied()
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }
}
