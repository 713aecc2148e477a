// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Entries packed into words, and the few that share a place.

use super::population::Kind;
use crate::{
    bits::{field64, mask64},
    translation::{
        entry::{within, Entry, Permissions, Tag},
        range::Range,
    },
};

/// Entries in one set.
pub(super) const WAYS: usize = 4;
/// Sets in a TLB.
pub(super) const SETS: usize = 1 << SETS_LOG2;
const SETS_LOG2: u32 = 10;

/// Bits of `Key::page` below the address: the kind over log2 of the size.
const ATTRIBUTES: u64 = mask64(0, 12);
const KIND_SHIFT: u32 = 6;

/// Bits of `Key::owner`: the epoch over VMID over ASID.
const EPOCH_SHIFT: u32 = 32;
const VMID_SHIFT: u32 = 16;
/// Those that do not tell global entries apart.
const ASID: u64 = mask64(0, 16);

/// What an entry is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    page: u64,
    owner: u64,
}

impl Key {
    /// Of no entry: it is of epoch 0.
    const NONE: Self = Self { page: 0, owner: 0 };

    /// The page of 2^`log2_bytes` bytes, at least 2^12, that `address` is in.
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
        match field64(self.page, KIND_SHIFT, 2) {
            0 => Kind::Ipa,
            1 => Kind::Private,
            _ => Kind::Global,
        }
    }

    #[inline]
    pub(super) const fn log2_bytes(self) -> u8 {
        field64(self.page, 0, KIND_SHIFT) as u8
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

    /// The addresses that the entry translates.
    #[inline]
    pub(super) const fn range(self) -> Range {
        Range::page(self.page & !ATTRIBUTES, self.log2_bytes())
    }

    /// The bits of `owner` that an invalidation by address compares.
    #[inline]
    const fn scope(self) -> u64 {
        match self.kind() {
            Kind::Global => !ASID,
            _ => u64::MAX,
        }
    }

    /// Whether an invalidation of `other`'s page by `other`'s ASID means this.
    #[inline]
    const fn is_meant_by(self, other: Self) -> bool {
        (self.page ^ other.page) | ((self.owner ^ other.owner) & other.scope()) == 0
    }

    /// Where the entry has its place. Neighbours are spread over all sets; the
    /// entries of a global page are together whatever their ASIDs.
    #[inline]
    pub(super) const fn set(self) -> usize {
        let number = (self.page & !ATTRIBUTES) >> self.log2_bytes();
        let folded = number ^ (number >> SETS_LOG2) ^ (number >> (2 * SETS_LOG2));
        let owner = (self.owner & self.scope()) as u32;
        let whose = owner as u64 | ((self.page & ATTRIBUTES) << 32);
        let mixed = whose.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS_LOG2);
        ((folded ^ mixed) & mask64(0, SETS_LOG2)) as usize
    }
}

/// Bits of a packed translation below the output address.
const READ1: u64 = 1 << 0;
const WRITE1: u64 = 1 << 1;
const READ2: u64 = 1 << 2;
const WRITE2: u64 = 1 << 3;

#[inline]
const fn flag(value: bool, bit: u64) -> u64 {
    if value {
        bit
    } else {
        0
    }
}

#[inline]
pub(super) const fn pack(entry: &Entry) -> u64 {
    (entry.output & !within(entry.log2_bytes))
        | flag(entry.stage1.read, READ1)
        | flag(entry.stage1.write, WRITE1)
        | flag(entry.stage2.read, READ2)
        | flag(entry.stage2.write, WRITE2)
}

#[inline]
const fn unpack(key: Key, packed: u64) -> Entry {
    Entry {
        output: packed & !ATTRIBUTES,
        log2_bytes: key.log2_bytes(),
        stage1: Permissions {
            read: packed & READ1 != 0,
            write: packed & WRITE1 != 0,
        },
        stage2: Permissions {
            read: packed & READ2 != 0,
            write: packed & WRITE2 != 0,
        },
        global: matches!(key.kind(), Kind::Global),
    }
}

/// The entries that share a place: the keys are one cache line.
#[derive(Clone)]
#[repr(align(64))]
pub(super) struct Set {
    keys: [Key; WAYS],
    packed: [u64; WAYS],
    /// The way that makes room next.
    victim: u8,
}

impl Set {
    pub(super) const EMPTY: Self = Self {
        keys: [Key::NONE; WAYS],
        packed: [0; WAYS],
        victim: 0,
    };

    #[inline]
    pub(super) fn find(&self, key: Key) -> Option<Entry> {
        let ways = self.keys.iter().zip(self.packed);
        ways.filter(|(one, _)| **one == key)
            .map(|(_, packed)| unpack(key, packed))
            .next()
    }

    /// Puts in an entry and returns the key of another that made room for it.
    #[inline]
    pub(super) fn put(&mut self, key: Key, packed: u64) -> Key {
        let same = self.keys.iter().position(|one| *one == key);
        let free = |keys: &[Key]| keys.iter().position(|one| one.epoch() != key.epoch());
        let way = same.or_else(|| free(&self.keys)).unwrap_or_else(|| {
            self.victim = self.victim.wrapping_add(1);
            usize::from(self.victim)
        }) % WAYS;
        self.packed[way] = packed;
        core::mem::replace(&mut self.keys[way], key)
    }

    /// Drops the entries that an invalidation of this key means, and returns
    /// how many.
    #[inline]
    pub(super) fn drop_meant(&mut self, key: Key) -> usize {
        let mut dropped = 0;
        for one in &mut self.keys {
            if one.is_meant_by(key) {
                *one = Key::NONE;
                dropped += 1;
            }
        }
        dropped
    }

    /// The keys, those of [`Key::epoch`]s that are past among them.
    #[inline]
    pub(super) fn keys(&mut self) -> impl Iterator<Item = &mut Key> {
        self.keys.iter_mut()
    }
}

impl Key {
    /// Takes the entry away.
    #[inline]
    pub(super) fn clear(&mut self) {
        *self = Self::NONE;
    }
}
