// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! VMSAv8-64 translation table descriptors (Arm ARM D8.3).

use bilge::prelude::*;

use super::{layout, mask};

layout! {
    /// The fields of every descriptor, with the output address of up to 48 bits of the
    /// 4KB and 16KB granules.
    Descriptor: u64 [64] {
        /// The descriptor is valid.
        valid: bool,
        /// A table at levels before the last, a page at the last one; else a block.
        table_or_page: bool,
        /// Attributes of a page or block: [`Stage1Leaf`], [`Stage2Leaf`].
        lower_attributes: u10,
        /// Bits 47:12 of the address. Lower ones among them are ignored where the
        /// granule, or the block, is larger than 4KB.
        address: u36,
        /// Attributes of a page or block, or of a table: [`Stage1Table`].
        upper_attributes: u16,
    }
}

layout! {
    /// The output address with the 64KB granule, where addresses have 52 bits.
    Address64K: u64 [64] {
        reserved: u12,
        /// Bits 51:48 of the address.
        high: u4,
        /// Bits 47:16 of the address.
        low: u32,
        reserved: u16,
    }
}

layout! {
    /// A page or block of stage 1.
    Stage1Leaf: u64 [64] {
        reserved: u2,
        /// `AttrIndx`.
        attrindx: u3,
        /// `NS`.
        ns: bool,
        /// `AP[1]`: accessible to unprivileged accesses.
        ap_unprivileged: bool,
        /// `AP[2]`: not writable.
        ap_read_only: bool,
        /// `SH`.
        sh: u2,
        /// `AF`: Access flag.
        af: bool,
        /// `nG`: of one ASID.
        ng: bool,
        reserved: u52,
    }
}

layout! {
    /// A table of stage 1.
    Stage1Table: u64 [64] {
        reserved: u59,
        /// `PXNTable`.
        pxntable: bool,
        /// `UXNTable`.
        uxntable: bool,
        /// `APTable[0]`: nothing below is accessible to unprivileged accesses.
        aptable_privileged: bool,
        /// `APTable[1]`: nothing below is writable.
        aptable_read_only: bool,
        /// `NSTable`.
        nstable: bool,
    }
}

layout! {
    /// A page or block of stage 2.
    Stage2Leaf: u64 [64] {
        reserved: u2,
        /// `MemAttr[1:0]`.
        memattr_inner: u2,
        /// `MemAttr[3:2]`: 0b00 is Device memory.
        memattr_outer: u2,
        /// `S2AP[0]`: readable.
        s2ap_read: bool,
        /// `S2AP[1]`: writable.
        s2ap_write: bool,
        /// `SH`.
        sh: u2,
        /// `AF`: Access flag.
        af: bool,
        reserved: u53,
    }
}

layout! {
    /// The address that a stage 1 walk starts with.
    InputAddress: u64 [64] {
        /// The bits below the one that selects the half.
        offset: u55,
        /// Bit 55: the upper half, of `TTB1`.
        upper: bool,
        /// The top byte, which is ignored where `TBI` is set.
        top_byte: u8,
    }
}

impl InputAddress {
    /// Returns whether `address` is in the upper half.
    #[inline]
    pub const fn is_upper(address: u64) -> bool {
        address & mask!(InputAddress: upper) != 0
    }
}

impl Descriptor {
    /// Bits 47:12 of the output address.
    #[inline]
    pub fn output(self) -> u64 {
        u64::from(self.address()) << 12
    }
}

impl Address64K {
    /// Bits 51:16 of the output address.
    #[inline]
    pub fn output(self) -> u64 {
        (u64::from(self.high()) << 48) | (u64::from(self.low()) << 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_address_positions_match_arm_arm() {
        Descriptor::check(&[
            ("valid", 0, 0),
            ("table_or_page", 1, 1),
            ("lower_attributes", 11, 2),
            ("address", 47, 12),
            ("upper_attributes", 63, 48),
        ]);
        Address64K::check(&[("high", 15, 12), ("low", 47, 16)]);
        assert_eq!(Descriptor::of(u64::MAX).output(), 0x0000_ffff_ffff_f000);
        assert_eq!(Address64K::of(u64::MAX).output(), 0x000f_ffff_ffff_0000);
        assert_eq!(Address64K::of(0xf000).output(), 0x000f_0000_0000_0000);
    }

    #[test]
    fn descriptor_attribute_positions_match_arm_arm() {
        Stage1Leaf::check(&[
            ("attrindx", 4, 2),
            ("ns", 5, 5),
            ("ap_unprivileged", 6, 6),
            ("ap_read_only", 7, 7),
            ("sh", 9, 8),
            ("af", 10, 10),
            ("ng", 11, 11),
        ]);
        Stage1Table::check(&[
            ("pxntable", 59, 59),
            ("uxntable", 60, 60),
            ("aptable_privileged", 61, 61),
            ("aptable_read_only", 62, 62),
            ("nstable", 63, 63),
        ]);
        Stage2Leaf::check(&[
            ("memattr_inner", 3, 2),
            ("memattr_outer", 5, 4),
            ("s2ap_read", 6, 6),
            ("s2ap_write", 7, 7),
            ("sh", 9, 8),
            ("af", 10, 10),
        ]);
    }

    #[test]
    fn input_address_is_split_at_bit_55() {
        InputAddress::check(&[("offset", 54, 0), ("upper", 55, 55), ("top_byte", 63, 56)]);
    }
}
