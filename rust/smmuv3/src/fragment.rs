// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Faults of the pieces of one transaction, which are one event.
//!
//! A transaction causes at most one event (§7.2). A platform that splits one up
//! before it comes to the SMMU, as QEMU does with aborted accesses, would bring about
//! an event for each piece. An emulation may merge them regardless of `STE.MEV`
//! (§3.5.5, §7.3.1), but no more than these: a debugger matches transactions and
//! records.

use crate::event::Event;

/// The largest piece, in bytes.
const LARGEST: u64 = 4;
/// Pieces of different pages are events of their own, because `InputAddr` differs.
const PAGE_LOG2_BYTES: u32 = 12;

/// A piece of a transaction that faulted.
///
/// Pieces are as QEMU's core makes them for memory that does not answer
/// (`memory_access_size()`, for a region whose operations name no sizes): each is as
/// long as its alignment and what is left permit, 4 bytes at most, and a power of two.
/// The SMMU does not see their lengths, so it derives them from the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The record, without the input address
    event: Event,
    address: u64,
    is_read: bool,
    /// The next piece can be no further away than this.
    longest: u64,
}

impl Fragment {
    /// Returns the first piece, of an access to `address` that is a read, or else a
    /// write.
    pub const fn first(event: Event, address: u64, is_read: bool) -> Self {
        Self {
            event: event.with_input_address(0),
            address,
            is_read,
            longest: LARGEST,
        }
    }

    /// Returns this fragment as the one behind `before`, if both can be of one
    /// transaction: the same in everything, and where that one ends.
    #[must_use]
    pub fn behind(self, before: &Self) -> Option<Self> {
        let length = self.address.wrapping_sub(before.address);
        let is_same = (self.event, self.is_read) == (before.event, before.is_read)
            && self.address >> PAGE_LOG2_BYTES == before.address >> PAGE_LOG2_BYTES;
        let aligned = before.address & before.address.wrapping_neg();
        let possible = match aligned {
            1 | 2 => aligned,
            _ => LARGEST,
        };
        if !is_same || !length.is_power_of_two() || length > possible.min(before.longest) {
            return None;
        }
        // One that is shorter than it could be is so because less than twice of it
        // was left.
        let longest = if length < possible {
            length / 2
        } else {
            before.longest
        };
        Some(Self { longest, ..self })
    }
}
