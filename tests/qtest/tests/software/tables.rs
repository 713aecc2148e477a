// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation tables of VMSAv8-64, in guest memory.

use crate::bench::Bench;

/// A translation granule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Granule {
    K4,
    K16,
    K64,
}

impl Granule {
    pub const ALL: [Self; 3] = [Self::K4, Self::K16, Self::K64];

    pub const fn bits(self) -> u32 {
        match self {
            Self::K4 => 12,
            Self::K16 => 14,
            Self::K64 => 16,
        }
    }

    /// Returns the bytes in a page, and in a table that is not the first.
    pub const fn size(self) -> u64 {
        1 << self.bits()
    }

    /// Returns log2 of the bytes that an entry of this level spans.
    pub const fn shift(self, level: u32) -> u32 {
        self.bits() + (3 - level) * (self.bits() - 3)
    }

    /// Returns the level of a walk's first table without concatenation.
    pub const fn start(self, bits: u32) -> u32 {
        4 - (bits - 4) / (self.bits() - 3)
    }

    /// Returns the levels that have blocks, for 48-bit addresses.
    pub const fn blocks(self) -> &'static [u32] {
        match self {
            Self::K4 => &[1, 2],
            Self::K16 | Self::K64 => &[2],
        }
    }

    /// Returns its encoding in `CD.TG0` and `STE.S2TG`.
    pub const fn tg0(self) -> u64 {
        match self {
            Self::K4 => 0b00,
            Self::K16 => 0b10,
            Self::K64 => 0b01,
        }
    }

    /// Returns its encoding in `CD.TG1`.
    pub const fn tg1(self) -> u64 {
        match self {
            Self::K4 => 0b10,
            Self::K16 => 0b01,
            Self::K64 => 0b11,
        }
    }

    /// Returns its encoding in commands.
    pub const fn tg(self) -> u64 {
        match self {
            Self::K4 => 0b01,
            Self::K16 => 0b10,
            Self::K64 => 0b11,
        }
    }
}

/// Encodings of `CD.IPS` and `STE.S2PS`, and the output sizes that they select
/// in bits. The SMMU has 44 bits, which the Reserved and larger encodings select,
/// too.
pub const OUTPUT_SIZES: [(u64, u32); 8] = [
    (0, 32),
    (1, 36),
    (2, 40),
    (3, 42),
    (4, 44),
    (5, 44),
    (6, 44),
    (7, 44),
];
/// The encodings that are defined for an SMMU with addresses of up to 48 bits.
pub const DEFINED_OUTPUT_SIZES: &[(u64, u32)] = OUTPUT_SIZES.split_at(6).0;
/// The encodings that are Reserved for such an SMMU.
pub const RESERVED_OUTPUT_SIZES: &[(u64, u32)] = OUTPUT_SIZES.split_at(6).1;

/// Bits of descriptors.
pub mod bits {
    pub const TABLE: u64 = 0b11;
    pub const BLOCK: u64 = 0b01;
    pub const PAGE: u64 = 0b11;
    /// Access flag
    pub const AF: u64 = 1 << 10;
    /// `AP[1]` of stage 1: unprivileged accesses, which those of PCI functions are
    pub const USER: u64 = 1 << 6;
    /// `AP[2]` of stage 1
    pub const READ_ONLY: u64 = 1 << 7;
    /// `S2AP` of stage 2
    pub const S2_READ: u64 = 1 << 6;
    pub const S2_WRITE: u64 = 1 << 7;
    /// `MemAttr` of stage 2: write-back, and its bit position
    pub const S2_NORMAL: u64 = 0b1111 << 2;
    pub const S2_MEMATTR: u32 = 2;
    /// `APTable[0]` of stage 1
    pub const TABLE_NO_USER: u64 = 1 << 61;
    /// `APTable[1]` of stage 1
    pub const TABLE_READ_ONLY: u64 = 1 << 62;
    /// `nG` of stage 1: of one ASID
    pub const NOT_GLOBAL: u64 = 1 << 11;
    /// Bits of the output address
    pub const ADDRESS: u64 = 0xffff_ffff_f000;

    /// Attributes that permit all accesses.
    pub const STAGE_1: u64 = AF | USER | NOT_GLOBAL;
    pub const STAGE_2: u64 = AF | S2_READ | S2_WRITE | S2_NORMAL;
    /// Attributes of stage 2 that permit all accesses, with a type of Device
    /// memory.
    pub const STAGE_2_DEVICE: u64 = STAGE_2 & !S2_NORMAL;
    /// Attributes of a page of stage 1 that belongs to every ASID.
    pub const GLOBAL: u64 = STAGE_1 & !NOT_GLOBAL;
}

/// The tables of one address range.
pub struct Tables<'a> {
    bench: &'a Bench<'a>,
    pub granule: Granule,
    /// Bits of an input address
    bits: u32,
    /// Level of the first table
    pub start: u32,
    /// Physical address of the first table
    root: u64,
    /// Offset of its IPA, see [`Tables::seen_at`]
    offset: u64,
    /// Default attributes of leaves
    attributes: u64,
}

impl<'a> Tables<'a> {
    fn new(bench: &'a Bench<'a>, granule: Granule, bits: u32, start: u32) -> Self {
        let entries = 1 << (bits - granule.shift(start));
        Self {
            bench,
            granule,
            bits,
            start,
            root: bench.allocate(8 * entries),
            offset: 0,
            attributes: bits::STAGE_1,
        }
    }

    /// Returns empty tables of stage 1 for input addresses of `bits` bits.
    pub fn stage1(bench: &'a Bench<'a>, granule: Granule, bits: u32) -> Self {
        Self::new(bench, granule, bits, granule.start(bits))
    }

    /// Returns empty tables of stage 2 that start at level `start`.
    pub fn stage2_from(bench: &'a Bench<'a>, granule: Granule, bits: u32, start: u32) -> Self {
        Self {
            attributes: bits::STAGE_2,
            ..Self::new(bench, granule, bits, start)
        }
    }

    /// Returns empty tables of stage 2 without concatenation.
    pub fn stage2(bench: &'a Bench<'a>, granule: Granule, bits: u32) -> Self {
        Self::stage2_from(bench, granule, bits, granule.start(bits))
    }

    /// Returns the tables for an SMMU that accesses them at IPAs, which are
    /// `offset` higher.
    pub const fn seen_at(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// Returns the address of the first table for the SMMU.
    pub const fn base(&self) -> u64 {
        self.root + self.offset
    }

    /// Returns the value of `T0SZ`, `T1SZ` or `S2T0SZ`.
    pub const fn size_field(&self) -> u64 {
        64 - self.bits as u64
    }

    /// Returns the value of `S2SL0`.
    pub const fn start_field(&self) -> u64 {
        let start = self.start as u64;
        match self.granule {
            Granule::K4 => 2 - start,
            Granule::K16 | Granule::K64 => 3 - start,
        }
    }

    /// Returns the highest page.
    pub const fn last_page(&self) -> u64 {
        (1 << self.bits) - self.granule.size()
    }

    /// Returns the physical address of the descriptor of a level for `address`,
    /// and allocates the tables above.
    #[track_caller]
    pub fn descriptor(&self, address: u64, level: u32) -> u64 {
        let index = |at: u32| {
            let entries = if at == self.start {
                1 << (self.bits - self.granule.shift(at))
            } else {
                self.granule.size() / 8
            };
            (address >> self.granule.shift(at)) % entries
        };
        let machine = self.bench.machine;
        let mut table = self.root;
        for at in self.start..level {
            let slot = table + 8 * index(at);
            let mut descriptor = machine.read64(slot);
            if descriptor & 0b11 != bits::TABLE {
                let next = self.bench.allocate(self.granule.size());
                descriptor = (next + self.offset) | bits::TABLE;
                machine.write64(slot, descriptor);
            }
            table = (descriptor & bits::ADDRESS) - self.offset;
        }
        table + 8 * index(level)
    }

    /// Writes the descriptor of a level for `address`.
    #[track_caller]
    pub fn set(&self, address: u64, level: u32, descriptor: u64) {
        let slot = self.descriptor(address, level);
        self.bench.machine.write64(slot, descriptor);
    }

    /// Returns the descriptor of a level for `address`.
    #[track_caller]
    pub fn get(&self, address: u64, level: u32) -> u64 {
        self.bench.machine.read64(self.descriptor(address, level))
    }

    /// Maps the range of an entry of `level` from `address` on with these
    /// attributes.
    #[track_caller]
    pub fn map_with(&self, address: u64, output: u64, level: u32, attributes: u64) {
        let kind = if level == 3 { bits::PAGE } else { bits::BLOCK };
        self.set(address, level, output | attributes | kind);
    }

    /// Maps the range of an entry of `level` with all permissions.
    #[track_caller]
    pub fn map_block(&self, address: u64, output: u64, level: u32) {
        self.map_with(address, output, level, self.attributes);
    }

    /// Maps a page with all permissions.
    #[track_caller]
    pub fn map(&self, address: u64, output: u64) {
        self.map_block(address, output, 3);
    }
}
