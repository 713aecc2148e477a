// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translations, and the tags under which the TLB has them.

use crate::address::low_bits;

/// The tag of a TLB entry (§3.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// VMID of stage 2; 0 on an SMMU without stage 2.
    pub vmid: u16,
    /// ASID of stage 1, alone or combined with stage 2. Without one the input
    /// addresses are IPAs: stage 2 alone.
    pub asid: Option<u16>,
}

/// The accesses that are permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// Reads.
    pub read: bool,
    /// Writes.
    pub write: bool,
}

impl Permissions {
    /// The permissions of a stage that does not translate.
    pub const ALL: Self = Self {
        read: true,
        write: true,
    };

    /// Nothing.
    pub const NONE: Self = Self {
        read: false,
        write: false,
    };

    /// Reads alone, which the SMMU's own accesses to tables need.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };

    /// Returns whether an access that wants this is permitted.
    #[inline]
    pub const fn allow(self, wanted: Self) -> bool {
        (self.read || !wanted.read) && (self.write || !wanted.write)
    }

    /// Returns the permissions that both stages grant.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
        }
    }
}

/// The translation of one page or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// First output address, aligned to the size.
    pub output: u64,
    /// log2 of the size in bytes.
    pub log2_bytes: u8,
    /// Stage 1's permissions.
    pub stage1: Permissions,
    /// Stage 2's permissions.
    pub stage2: Permissions,
    /// Stage 2 maps it as a type of Device memory, which matters to `STE.S2PTW`.
    pub device: bool,
    /// Stage 1's descriptor has `nG == 0`: the entry does not depend on the
    /// ASID (§3.17.2).
    pub global: bool,
}

impl Entry {
    /// Returns the permissions that both stages grant.
    pub const fn permissions(&self) -> Permissions {
        self.stage1.and(self.stage2)
    }

    /// Returns the output address of an input address within the page or block.
    #[inline]
    pub const fn translate(&self, address: u64) -> u64 {
        let offset = within(self.log2_bytes);
        (self.output & !offset) | (address & offset)
    }
}

/// Returns the bits of an address that are its offset in a page of 2^`log2_bytes`.
#[inline]
pub(super) const fn within(log2_bytes: u8) -> u64 {
    low_bits(log2_bytes as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Permissions = Permissions {
        read: false,
        write: false,
    };
    const READ: Permissions = Permissions::READ;

    fn entry(log2_bytes: u8) -> Entry {
        Entry {
            output: 0x1234_5678_9abc_def0,
            log2_bytes,
            stage1: Permissions::ALL,
            stage2: READ,
            device: false,
            global: false,
        }
    }

    #[test]
    fn tlb_entry_combines_both_stage_permissions() {
        assert_eq!(entry(12).permissions(), READ);
        assert_eq!(READ.and(Permissions::ALL), READ);
        assert_eq!(READ.and(NONE), NONE);
        assert!(READ.allow(READ) && READ.allow(NONE) && !READ.allow(Permissions::ALL));
    }

    #[test]
    fn tlb_entry_keeps_page_offset() {
        let address = 0xfedc_ba98_7654_3210;
        assert_eq!(entry(12).translate(address), 0x1234_5678_9abc_d210);
        assert_eq!(entry(32).translate(address), 0x1234_5678_7654_3210);
        assert_eq!(entry(0).translate(address), entry(0).output);
        for whole in [64, 65, 255] {
            assert_eq!(entry(whole).translate(address), address);
        }
    }
}
