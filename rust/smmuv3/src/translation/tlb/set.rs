// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! One 4-way set of the TLB.

use super::key::{Key, Kind, ATTRIBUTES};
use crate::translation::entry::{within, Entry, Permissions};

/// Entries in one set.
const WAYS: usize = 4;
/// Bits of a packed translation below the output address.
const READ1: u64 = 1 << 0;
const WRITE1: u64 = 1 << 1;
const READ2: u64 = 1 << 2;
const WRITE2: u64 = 1 << 3;
const DEVICE: u64 = 1 << 4;

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
        | flag(entry.device, DEVICE)
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
        device: packed & DEVICE != 0,
        global: matches!(key.kind(), Kind::Global),
    }
}

/// The entries that share a place: the keys are one cache line.
#[derive(Clone)]
#[repr(align(64))]
pub(super) struct Set {
    keys: [Key; WAYS],
    packed: [u64; WAYS],
    /// The way that is evicted next.
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

    /// Inserts an entry and returns the key of the one that it evicts.
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

    /// Drops the entries of an epoch that `meant` selects, and reports each.
    #[inline]
    pub(super) fn drop_if(
        &mut self,
        epoch: u32,
        meant: impl Fn(Key) -> bool,
        mut dropped: impl FnMut(Key),
    ) {
        for key in &mut self.keys {
            if key.epoch() == epoch && meant(*key) {
                dropped(*key);
                *key = Key::NONE;
            }
        }
    }
}
