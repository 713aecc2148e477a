// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation tables as a driver builds them.

use std::collections::BTreeMap;

use super::Memory;

pub const AF: u64 = 1 << 10;
pub const NOT_GLOBAL: u64 = 1 << 11;
/// `AP[1]`: unprivileged accesses are permitted, too.
pub const USER: u64 = 1 << 6;
pub const READ_ONLY: u64 = 1 << 7;
pub const S2_READ: u64 = 1 << 6;
pub const S2_WRITE: u64 = 1 << 7;
/// `MemAttr` of stage 2: write-back.
pub const S2_NORMAL: u64 = 0b1111 << 2;

/// A page or block of stage 1 that any access may use.
pub const STAGE1: u64 = AF | NOT_GLOBAL | USER;
/// The same for every ASID.
pub const GLOBAL: u64 = AF | USER;
/// The same of stage 2.
pub const STAGE2: u64 = AF | S2_READ | S2_WRITE | S2_NORMAL;
/// The same as a type of Device memory.
pub const S2_DEVICE: u64 = STAGE2 & !S2_NORMAL;

/// Bits of an input address that a descriptor of each level resolves, from and
/// to, for levels 0 to 3 of 48-bit addresses; of 52-bit ones with the 64KB granule.
pub const fn level_bits(granule: u8) -> [Option<(u8, u8)>; 4] {
    match granule {
        12 => [
            Some((39, 47)),
            Some((30, 38)),
            Some((21, 29)),
            Some((12, 20)),
        ],
        14 => [
            Some((47, 47)),
            Some((36, 46)),
            Some((25, 35)),
            Some((14, 24)),
        ],
        _ => [None, Some((42, 51)), Some((29, 41)), Some((16, 28))],
    }
}

/// The lowest of these bits.
pub const fn shift(granule: u8, level: u8) -> u8 {
    match level_bits(granule)[level as usize] {
        Some((low, _)) => low,
        None => panic!("no such level"),
    }
}

/// Levels at which there are blocks or pages.
pub const fn leaf_levels(granule: u8) -> &'static [u8] {
    match granule {
        12 => &[1, 2, 3],
        _ => &[2, 3],
    }
}

/// Moves every page of 2^`.0` bytes: ascending addresses become descending ones. 0
/// moves none.
#[derive(Clone, Copy)]
pub struct Scatter(pub u8);

impl Scatter {
    const TOP: u64 = 0xf_0000_0000;

    pub const fn place(self, address: u64) -> u64 {
        if self.0 == 0 {
            return address;
        }
        let within = (1 << self.0) - 1;
        (Self::TOP - (address & !within)) | (address & within)
    }
}

/// Tables of one stage: made as they are needed.
#[derive(Clone)]
pub struct Tables {
    pub granule: u8,
    pub input_bits: u8,
    pub start_level: u8,
    pub root: u64,
    /// Where the tables lie, by their addresses.
    pub scatter: Scatter,
    /// The bits of table descriptors besides the address.
    pub table_attributes: u64,
    next: u64,
    tables: BTreeMap<(u8, u64), u64>,
}

impl Tables {
    pub fn new(granule: u8, input_bits: u8, start_level: u8, root: u64) -> Self {
        let bits = input_bits - shift(granule, start_level);
        Self {
            granule,
            input_bits,
            start_level,
            root,
            scatter: Scatter(0),
            table_attributes: 0,
            next: (root + (8 << bits)).next_multiple_of(1 << granule),
            tables: BTreeMap::new(),
        }
    }

    /// Stage 1, which starts at the level that the input size asks for.
    pub fn stage1(granule: u8, input_bits: u8, root: u64) -> Self {
        let starts = |level: &u8| {
            level_bits(granule)[usize::from(*level)].is_some_and(|(low, _)| low < input_bits)
        };
        let start_level = (0..4).find(starts).expect("some level");
        Self::new(granule, input_bits, start_level, root)
    }

    /// The address of the descriptor of `input` at `level`; the tables above
    /// are made, if there are none.
    pub fn slot(&mut self, memory: &mut Memory, input: u64, level: u8) -> u64 {
        let input = input & ((1 << self.input_bits) - 1);
        let mut table = self.root;
        let mut above = self.input_bits;
        for at in self.start_level..=level {
            let low = shift(self.granule, at);
            let slot = table + 8 * ((input & ((1 << above) - 1)) >> low);
            if at == level {
                return slot;
            }
            above = low;
            table = *self.tables.entry((at, input >> low)).or_insert_with(|| {
                let new = self.next;
                self.next += 1 << self.granule;
                memory.store_words(
                    self.scatter.place(slot),
                    &[new | self.table_attributes | 0b11],
                );
                new
            });
        }
        unreachable!("level {level} is above the first")
    }

    /// Where that descriptor lies.
    pub fn place(&mut self, memory: &mut Memory, input: u64, level: u8) -> u64 {
        let slot = self.slot(memory, input, level);
        self.scatter.place(slot)
    }

    pub fn put(&mut self, memory: &mut Memory, input: u64, level: u8, descriptor: u64) {
        let place = self.place(memory, input, level);
        memory.store_words(place, &[descriptor]);
    }

    /// Maps a page or block.
    pub fn map(
        &mut self,
        memory: &mut Memory,
        input: u64,
        level: u8,
        output: u64,
        attributes: u64,
    ) {
        let kind = if level == 3 { 0b11 } else { 0b01 };
        self.put(memory, input, level, output | attributes | kind);
    }

    /// The addresses of all tables, and how many bytes each has.
    pub fn extents(&self) -> Vec<(u64, u64)> {
        let bits = self.input_bits - shift(self.granule, self.start_level);
        let below = self
            .tables
            .values()
            .map(|table| (*table, 1 << self.granule));
        core::iter::once((self.root, 8 << bits))
            .chain(below)
            .collect()
    }
}
