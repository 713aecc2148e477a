// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A TLB with room for infinitely many entries: a list whose entries are compared with
//! every command, one by one.

use smmuv3::{
    command::decode,
    translation::{Entry, Tag, Tlb, TlbiScope},
    Command, Features, Invalidation,
};

use super::vector_features;

/// Sizes of pages and blocks, of all granules.
pub const SIZES: [u8; 8] = [12, 14, 16, 21, 25, 29, 30, 42];

/// Around the ends of both tables, and where usual addresses are.
pub const BASES: [u64; 7] = [
    0,
    0xffe0_0000,
    0x1_0000_0000,
    0x007f_ffff_ffe0_0000,
    0xff80_0000_0000_0000,
    0xffff_ffff_0000_0000,
    0xffff_ffff_ffe0_0000,
];

/// An entry.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub tag: Tag,
    /// Its first input address.
    pub first: u64,
    pub entry: Entry,
}

impl Known {
    pub fn last(&self) -> u64 {
        self.first + ((1 << self.entry.log2_bytes) - 1)
    }
}

/// The list of entries.
#[derive(Default)]
pub struct Model(Vec<Known>);

impl Model {
    fn insert(&mut self, new: Known) {
        self.0.retain(|old| {
            (old.tag, old.first, old.entry.log2_bytes) != (new.tag, new.first, new.entry.log2_bytes)
        });
        self.0.push(new);
    }

    fn execute(&mut self, words: [u64; 2]) {
        self.0.retain(|known| !is_hit(words, known));
    }

    /// One for each size at most.
    fn lookup(&self, tag: Tag, address: u64) -> Vec<Entry> {
        let hits =
            |known: &&Known| known.tag == tag && (known.first..=known.last()).contains(&address);
        self.0
            .iter()
            .filter(hits)
            .map(|known| known.entry)
            .collect()
    }
}

/// Returns whether a command (§4.4) affects an entry.
pub fn is_hit([word0, word1]: [u64; 2], known: &Known) -> bool {
    let vmid = (word0 >> 32) & 0xffff == known.tag.vmid.into();
    let asid = known.tag.asid.map(u64::from) == Some(word0 >> 48);
    let stage1 = known.tag.asid.is_some();
    let global = known.entry.global;
    match word0 & 0xff {
        0x10 => vmid && stage1,
        0x11 => vmid && asid && !global,
        0x12 => vmid && stage1 && (asid || global) && is_in_range(word0, word1, known),
        0x13 => vmid && stage1 && is_in_range(word0, word1, known),
        0x28 => vmid,
        0x2a => vmid && !stage1 && is_in_range(word0, word1, known),
        0x30 => true,
        other => panic!("unexpected {other:#x}"),
    }
}

/// Returns whether a command's range (§4.4.1.1) and an entry have an address in common.
/// 56 bits of the address are compared, and its table.
fn is_in_range(word0: u64, word1: u64, known: &Known) -> bool {
    let low = |address: u64| u128::from(address << 8 >> 8);
    let upper = |address: u64| known.tag.asid.is_some() && address & (1 << 55) != 0;
    if upper(word1) != upper(known.first) {
        return false;
    }
    let (granule, bytes) = match (word1 >> 10) & 3 {
        0 => (0x1000, 0x1000),
        tg => {
            let granule = 1_u128 << (10 + 2 * tg);
            let scale = (word0 >> 20) & 0x1f;
            (
                granule,
                (u128::from((word0 >> 12) & 0x1f) + 1) * (1 << scale) * granule,
            )
        }
    };
    let start = low(word1 & !0xfff);
    let end = (start + bytes).next_multiple_of(granule);
    low(known.first) < end && start / granule * granule <= low(known.last())
}

#[derive(Clone, Debug)]
pub enum Step {
    Insert(Known),
    Execute([u64; 2]),
}

/// Range invalidation, and both stages.
pub fn features() -> Features {
    vector_features().with_s2p(true)
}

/// The TLB, and the list beside it.
pub struct Both {
    tlb: Tlb,
    model: Model,
}

impl Both {
    pub fn new() -> Self {
        Self {
            tlb: Tlb::new(),
            model: Model::default(),
        }
    }

    pub fn take(&mut self, step: &Step) {
        match *step {
            Step::Insert(known) => {
                self.tlb.insert(known.tag, known.first, &known.entry);
                self.model.insert(known);
            }
            Step::Execute(words) => match decode(words, &features()) {
                Ok(Command::Invalidate(Invalidation::Tlbi(tlbi))) => {
                    self.tlb.invalidate(&TlbiScope::of(&tlbi));
                    self.model.execute(Invalidation::Tlbi(tlbi).to_words());
                }
                _ => {
                    // The reserved combination of range and hint.
                    assert!(words[1] & 0xc00 != 0 && words[0] & 0x1f1_f000 == 0);
                }
            },
        }
    }

    /// Returns whether the first and the last address of a page hit, and checks that a
    /// hit equals the list's entry.
    pub fn is_found(&self, known: &Known) -> [bool; 2] {
        [known.first, known.last()].map(|address| {
            let found = self.tlb.lookup(known.tag, address);
            let may = self.model.lookup(known.tag, address);
            assert!(
                found.is_none_or(|entry| may.contains(&entry)),
                "{known:x?} at {address:#x}: found {found:x?} of {may:x?}"
            );
            found.is_some()
        })
    }

    /// Whether the list has the first and the last address of a page.
    pub fn is_known(&self, known: &Known) -> [bool; 2] {
        [known.first, known.last()].map(|address| !self.model.lookup(known.tag, address).is_empty())
    }
}
