// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The TLB: translations that walks have found.
//!
//! A set-associative array. Entries of every size share it, so a lookup tries
//! each size that is present; those are few. An invalidation by address goes
//! to the places where the entries would be as long as these are fewer than
//! all there are, and everything else takes one pass over the array at most.

mod key;
mod population;
mod set;

use self::{
    key::{Key, Kind, SETS},
    population::Population,
    set::{pack, Set},
};
use super::{
    entry::{Entry, Tag},
    range::Range,
    tlbi::TlbiScope,
};

/// The smallest page, and more than the largest block that formats have.
const LOG2_BYTES: core::ops::RangeInclusive<u8> = 12..=55;

/// Translations that have been found, as long as nothing invalidates them.
pub struct Tlb {
    /// Empty before the first entry: many a device never translates.
    sets: Vec<Set>,
    population: Population,
    /// Entries of other epochs are none: this is how all of them are dropped
    /// at once. Never 0.
    epoch: u32,
    globals: bool,
    /// log2 of the largest page of stage 1 that is here in pieces, or was since
    /// everything was last dropped; 0 if none.
    split: u8,
}

impl Default for Tlb {
    fn default() -> Self {
        Self::new()
    }
}

impl Tlb {
    /// Returns an empty TLB; memory is allocated with the first entry.
    pub const fn new() -> Self {
        Self {
            sets: Vec::new(),
            population: Population::EMPTY,
            epoch: 1,
            globals: false,
            split: 0,
        }
    }

    /// Returns whether there was a global translation since everything was last
    /// dropped, even if it was evicted by now. Invalidations by address mean
    /// global ones too, regardless of the ASID that they name.
    pub const fn has_seen_globals(&self) -> bool {
        self.globals
    }

    /// Notes that the next entry may be a piece of a page or block of stage 1, of this
    /// size. To stage 1 it is one translation, and one command with any of its
    /// addresses invalidates all of it.
    pub fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.split = self.split.max(stage1_log2_bytes);
    }

    /// Returns log2 of the largest such page or block, 0 if there is none.
    pub(super) const fn split(&self) -> u8 {
        self.split
    }

    /// Returns the virtual addresses that an invalidation of `range` means: with all
    /// pieces of stage 1's pages that it touches.
    #[must_use]
    pub const fn widened(&self, range: Range) -> Range {
        range.aligned(self.split)
    }

    /// Returns the translation of `address`, of any size.
    ///
    /// Virtual addresses are given canonically, bits 63:56 as copies of bit
    /// 55, where the top byte is ignored. No others are ever found.
    #[inline]
    pub fn lookup(&self, tag: Tag, address: u64) -> Option<Entry> {
        let find = |kind| {
            self.population.sizes(kind).find_map(|log2_bytes| {
                let key = Key::new(self.epoch, tag, kind, address, log2_bytes);
                self.sets.get(key.set())?.find(key)
            })
        };
        match tag.asid {
            None => find(Kind::Ipa),
            // A global entry might be found under every ASID, but need not be:
            // software that mixes up its tables is then not punished for it.
            Some(_) => find(Kind::Private).or_else(|| find(Kind::Global)),
        }
    }

    /// Inserts a walk's result for `address`. The caller makes sure that no
    /// invalidation has affected the walk.
    pub fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        let size = entry.log2_bytes;
        if !LOG2_BYTES.contains(&size) || !is_canonical(tag, address) {
            return;
        }
        let (kind, other) = match tag.asid {
            None => (Kind::Ipa, None),
            Some(_) if entry.global => (Kind::Global, Some(Kind::Private)),
            Some(_) => (Kind::Private, Some(Kind::Global)),
        };
        self.globals |= kind == Kind::Global;
        // The page might have been global before, or not have been.
        if let Some(other) = other.filter(|other| self.population.has(*other)) {
            let old = Key::new(self.epoch, tag, other, address, size);
            self.drop_at(old, |key| key == old);
        }
        let key = Key::new(self.epoch, tag, kind, address, size);
        if self.sets.is_empty() {
            self.sets.resize(SETS, Set::EMPTY);
        }
        let Some(set) = self.sets.get_mut(key.set()) else {
            return;
        };
        let old = set.put(key, pack(entry));
        if old.epoch() == self.epoch {
            self.population.remove(old);
        }
        self.population.add(key);
    }

    /// Invalidates the entries in the scope `what`.
    pub fn invalidate(&mut self, what: &TlbiScope) {
        match *what {
            TlbiScope::All => self.drop_all(),
            TlbiScope::Vmid(vmid) => self.drop_if(|key| key.vmid() == vmid),
            TlbiScope::VmidStage1(vmid) => {
                self.drop_if(|key| key.vmid() == vmid && key.kind() != Kind::Ipa);
            }
            TlbiScope::Asid { vmid, asid } => self.drop_asid(vmid, asid),
            TlbiScope::Address {
                vmid, asid, range, ..
            } => self.drop_virtual(vmid, asid, range),
            TlbiScope::Ipa { vmid, range, .. } => self.drop_ipa(vmid, range),
        }
    }

    fn drop_all(&mut self) {
        self.globals = false;
        self.split = 0;
        self.population = Population::EMPTY;
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            // Entries of an epoch 2^32 ago must not become valid again.
            self.sets.clear();
            self.epoch = 1;
        }
    }

    fn drop_asid(&mut self, vmid: u16, asid: u16) {
        if self.population.has(Kind::Private) {
            self.drop_if(|key| {
                key.vmid() == vmid && key.asid() == asid && key.kind() == Kind::Private
            });
        }
    }

    fn drop_virtual(&mut self, vmid: u16, asid: Option<u16>, named: Range) {
        let range = self.widened(named);
        let places = self.places(Kind::Private, range) + self.places(Kind::Global, range);
        if places == 0 {
            return;
        }
        match asid {
            Some(_) if places <= SETS as u64 => {
                let tag = Tag { vmid, asid };
                self.drop_pages(tag, Kind::Private, range);
                self.drop_pages(tag, Kind::Global, range);
            }
            _ => self.drop_if(|key| {
                let meant = match key.kind() {
                    Kind::Ipa => false,
                    Kind::Private => asid.is_none() || asid == Some(key.asid()),
                    Kind::Global => true,
                };
                meant && key.vmid() == vmid && key.range().overlaps(&range)
            }),
        }
    }

    fn drop_ipa(&mut self, vmid: u16, range: Range) {
        if self.places(Kind::Ipa, range) <= SETS as u64 {
            self.drop_pages(Tag { vmid, asid: None }, Kind::Ipa, range);
        } else {
            self.drop_if(|key| {
                key.kind() == Kind::Ipa && key.vmid() == vmid && key.range().overlaps(&range)
            });
        }
    }

    /// Returns the number of pages in the range, of all sizes that are present: each
    /// has its place.
    fn places(&self, kind: Kind, range: Range) -> u64 {
        self.population.sizes(kind).fold(0, |places, log2_bytes| {
            let (first, last) = numbers(range, log2_bytes);
            // Sizes are at least 2^12: at most 2^52 pages of each.
            places + last.saturating_sub(first) + 1
        })
    }

    /// Invalidates the entries at each place of the range.
    fn drop_pages(&mut self, tag: Tag, kind: Kind, range: Range) {
        for log2_bytes in self.population.sizes(kind) {
            let (first, last) = numbers(range, log2_bytes);
            for number in first..=last {
                let address = number << log2_bytes;
                let page = Key::new(self.epoch, tag, kind, address, log2_bytes);
                self.drop_at(page, |key| key.is_meant_by(page));
            }
        }
    }

    /// Invalidates the entries for which `meant` returns true, in the set of `place`.
    #[inline]
    fn drop_at(&mut self, place: Key, meant: impl Fn(Key) -> bool) {
        if let Some(set) = self.sets.get_mut(place.set()) {
            set.drop_if(self.epoch, meant, |key| self.population.remove(key));
        }
    }

    /// Invalidates the entries for which `meant` returns true, in one pass.
    fn drop_if(&mut self, meant: impl Fn(Key) -> bool) {
        for set in &mut self.sets {
            set.drop_if(self.epoch, &meant, |key| self.population.remove(key));
        }
    }
}

/// Returns the numbers of the first and the last page of this size that a range has a
/// part of.
const fn numbers(range: Range, log2_bytes: u8) -> (u64, u64) {
    (range.first >> log2_bytes, range.last >> log2_bytes)
}

/// Returns whether commands can name the address: bits 63:56 are no bits of an IPA,
/// and copies of bit 55 in a virtual address.
const fn is_canonical(tag: Tag, address: u64) -> bool {
    match tag.asid {
        None => address >> 56 == 0,
        Some(_) => matches!((address as i64) >> 55, 0 | -1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translation::Permissions;

    #[test]
    fn tlb_epoch_wrap_revives_no_entry() {
        let tag = Tag {
            vmid: 0,
            asid: Some(0),
        };
        let entry = Entry {
            output: 0,
            log2_bytes: 12,
            stage1: Permissions::ALL,
            stage2: Permissions::ALL,
            device: false,
            global: false,
        };
        let mut tlb = Tlb::new();
        tlb.insert(tag, 0x1000, &entry);
        tlb.epoch = u32::MAX;
        tlb.insert(tag, 0x2000, &entry);
        tlb.invalidate(&TlbiScope::All);
        tlb.insert(tag, 0x3000, &entry);
        let found = [0x1000, 0x2000, 0x3000].map(|address| tlb.lookup(tag, address).is_some());
        assert_eq!(found, [false, false, true]);
    }
}
