// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! TLB lookup key: page, kind, epoch, VMID and ASID packed into two words.

use crate::{
    address::low_bits,
    translation::{
        entry::{within, Tag},
        range::Range,
    },
};

/// log2 of the number of sets in a TLB.
const SETS_LOG2: u32 = 10;
/// Sets in a TLB.
pub(super) const SETS: usize = 1 << SETS_LOG2;

/// The kinds of entries, which differ in the fields that a look-up compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// VMID and IPA: stage 2 alone.
    Ipa = 0,
    /// VMID, ASID and virtual address.
    Private = 1,
    /// The same, but invalidated by a TLBI of any ASID.
    Global = 2,
}

/// Bits of `Key::page` below the address: the kind over log2 of the size.
pub(super) const ATTRIBUTES: u64 = low_bits(12);
const KIND_SHIFT: u32 = 6;

/// Bits of `Key::owner`: the epoch over VMID over ASID.
const EPOCH_SHIFT: u32 = 32;
const VMID_SHIFT: u32 = 16;
/// Those in which global entries for one address may differ.
const ASID: u64 = low_bits(16);

/// The key of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    page: u64,
    owner: u64,
}

impl Key {
    /// The key of no entry: it is of epoch 0.
    pub(super) const NONE: Self = Self { page: 0, owner: 0 };

    /// Returns the page of 2^`log2_bytes` bytes, at least 2^12, that `address` is in.
    #[inline]
    pub(super) const fn new(
        epoch: u32,
        tag: Tag,
        kind: Kind,
        address: u64,
        log2_bytes: u8,
    ) -> Self {
        let asid = match tag.asid {
            Some(asid) => asid,
            None => 0,
        };
        let attributes = ((kind as u64) << KIND_SHIFT) | log2_bytes as u64;
        Self {
            page: (address & !within(log2_bytes)) | attributes,
            owner: ((epoch as u64) << EPOCH_SHIFT)
                | ((tag.vmid as u64) << VMID_SHIFT)
                | asid as u64,
        }
    }

    #[inline]
    pub(super) const fn kind(self) -> Kind {
        match (self.page >> KIND_SHIFT) & low_bits(2) {
            0 => Kind::Ipa,
            1 => Kind::Private,
            _ => Kind::Global,
        }
    }

    #[inline]
    pub(super) const fn log2_bytes(self) -> u8 {
        (self.page & low_bits(KIND_SHIFT)) as u8
    }

    #[inline]
    pub(super) const fn epoch(self) -> u32 {
        (self.owner >> EPOCH_SHIFT) as u32
    }

    #[inline]
    pub(super) const fn vmid(self) -> u16 {
        (self.owner >> VMID_SHIFT) as u16
    }

    #[inline]
    pub(super) const fn asid(self) -> u16 {
        self.owner as u16
    }

    /// Returns the addresses that the entry translates.
    #[inline]
    pub(super) const fn range(self) -> Range {
        Range::page(self.page & !ATTRIBUTES, self.log2_bytes())
    }

    /// Returns the bits of `owner` that an invalidation by address compares.
    #[inline]
    const fn scope(self) -> u64 {
        match self.kind() {
            Kind::Global => !ASID,
            _ => u64::MAX,
        }
    }

    /// Returns whether an invalidation of `other`'s page by `other`'s ASID means this.
    #[inline]
    pub(super) const fn is_meant_by(self, other: Self) -> bool {
        (self.page ^ other.page) | ((self.owner ^ other.owner) & other.scope()) == 0
    }

    /// Returns the number of the entry's set. Neighbours are spread over all sets; the
    /// entries of a global page are together regardless of their ASIDs.
    #[inline]
    pub(super) const fn set(self) -> usize {
        let number = (self.page & !ATTRIBUTES) >> self.log2_bytes();
        let folded = number ^ (number >> SETS_LOG2) ^ (number >> (2 * SETS_LOG2));
        let owner = (self.owner & self.scope()) as u32;
        let whose = owner as u64 | ((self.page & ATTRIBUTES) << 32);
        let mixed = whose.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS_LOG2);
        ((folded ^ mixed) & low_bits(SETS_LOG2)) as usize
    }
}
