// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The fields of registers and commands, as Linux's driver uses them. No specification is public.

/// A field of a register or of a word of a command.
#[derive(Clone, Copy)]
pub struct Field {
    low: u32,
    width: u32,
}

impl Field {
    /// The first half of a 64-bit register.
    pub const LOW: Self = Self::new(31, 0);
    /// Its second half.
    pub const HIGH: Self = Self::new(63, 32);

    const fn new(high: u32, low: u32) -> Self {
        Self {
            low,
            width: high - low + 1,
        }
    }

    const fn mask(self) -> u64 {
        (u64::MAX >> (64 - self.width)) << self.low
    }

    /// Returns the field's value in `word`.
    pub const fn get(self, word: u64) -> u64 {
        (word & self.mask()) >> self.low
    }

    /// Returns `word` with another value of the field.
    pub const fn with(self, word: u64, value: u64) -> u64 {
        (word & !self.mask()) | ((value << self.low) & self.mask())
    }

    /// Returns the bits of `word` that are in the field.
    pub const fn only(self, word: u64) -> u64 {
        word & self.mask()
    }
}

/// `CONFIG`, `STATUS` of everything: on, and in effect.
pub const ENABLE: Field = Field::new(0, 0);

/// `PARAM`: version, and the binary logarithms of the numbers of everything.
pub mod param {
    use super::Field;

    pub const VERSION: Field = Field::new(3, 0);
    pub const LOG2_QUEUES: Field = Field::new(7, 4);
    pub const LOG2_VINTFS: Field = Field::new(11, 8);
    pub const LOG2_SIDS: Field = Field::new(15, 12);
}

/// `CMDQ_ALLOC_MAP`: the VINTF of a queue, and its number there.
pub mod alloc_map {
    use super::Field;

    pub const ALLOC: Field = Field::new(0, 0);
    pub const SLOT: Field = Field::new(7, 1);
    pub const VINTF: Field = Field::new(20, 15);
}

/// Registers of a VINTF.
pub mod vintf {
    use super::Field;

    pub const CONFIG: Field = Field::new(17, 0);
    pub const VMID: Field = Field::new(16, 1);
    pub const HYP_OWN: Field = Field::new(17, 17);
    pub const STATUS_ERROR: Field = Field::new(3, 1);
    pub const STATUS_SLOTS: Field = Field::new(23, 16);
    /// `SID_MATCH`
    pub const MATCH_SID: Field = Field::new(20, 1);
    /// `SID_REPLACE`
    pub const REPLACE_SID: Field = Field::new(19, 0);
}

/// Registers of a queue.
pub mod queue {
    use super::Field;

    pub const INDEX: Field = Field::new(19, 0);
    pub const CONS_ERROR: Field = Field::new(30, 24);
    pub const GERROR: Field = Field::new(2, 0);
    pub const GERROR_CMDQ: Field = Field::new(0, 0);
    pub const BASE_LOG2_ENTRIES: Field = Field::new(4, 0);
    pub const BASE_ADDRESS: Field = Field::new(47, 5);
}

/// The first word of a command (IHI 0070 §4).
pub mod command {
    use super::Field;

    pub const OPCODE: Field = Field::new(7, 0);
    /// `CMD_SYNC.CS`
    pub const SYNC_SIGNAL: Field = Field::new(13, 12);
    /// `VMID` of a TLBI
    pub const VMID: Field = Field::new(47, 32);
    /// `StreamID` of `CMD_ATC_INV`
    pub const SID: Field = Field::new(63, 32);
}
