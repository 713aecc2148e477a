// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Which commands a queue executes.

use super::{opcode, opcode::*};
use crate::spec::command::{CompletionType, SyncWord0};

/// The commands that a queue executes; the others are ILLEGAL in it.
///
/// A type and not a value, so that a queue that executes every command has nothing to
/// check.
pub trait Restriction {
    /// Returns whether the queue executes this command if the SMMU does.
    fn permits(words: [u64; 2]) -> bool;
}

/// Of the SMMU's Command queue: every command.
#[derive(Clone, Copy, Debug)]
pub enum Unrestricted {}

impl Restriction for Unrestricted {
    #[inline]
    fn permits(_: [u64; 2]) -> bool {
        true
    }
}

/// Of a VCMDQ that a guest owns (`HYP_OWN` = 0 in the VINTF's `CONFIG`).
///
/// These are the commands that Linux's driver puts into such a queue: `CMD_TLBI_NH_ASID`,
/// `CMD_TLBI_NH_VA`, `CMD_ATC_INV`, and `CMD_SYNC` whose completion is not signalled.
#[derive(Clone, Copy, Debug)]
pub enum GuestOwned {}

impl Restriction for GuestOwned {
    #[inline]
    fn permits(words: [u64; 2]) -> bool {
        match opcode(words) {
            TLBI_NH_ASID | TLBI_NH_VA | ATC_INV => true,
            SYNC => SyncWord0::of(words[0]).cs() == CompletionType::SigNone,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_owned_queue_permits_four_commands() {
        let permitted: Vec<_> = (0..=255_u64)
            .filter(|opcode| GuestOwned::permits([*opcode, u64::MAX]))
            .collect();
        assert_eq!(permitted, [0x11, 0x12, 0x40, 0x46]);
        for signal in 1..4 {
            assert!(!GuestOwned::permits([0x46 | (signal << 12), 0]));
        }
        assert!((0..=255).all(|opcode| Unrestricted::permits([opcode, 0])));
    }
}
