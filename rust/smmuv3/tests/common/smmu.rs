// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! An SMMU that translates in software, with one stream.

pub use smmuv3::translation::Uncached;
use smmuv3::{
    translation::{translate, Entry, Fault, Outcome, Permissions, Store},
    Features, Registers, StreamId,
};

use super::{
    tables::{Scatter, Tables, STAGE2},
    Memory,
};

pub const SID: StreamId = 5;
pub const STRTAB: u64 = 0x8000_0000;
pub const STE: u64 = STRTAB + 64 * SID as u64;
/// `S1ContextPtr`: physical, or intermediate.
pub const CD: u64 = 0x8100_0000;
/// Where stage 1's tables begin.
pub const TABLES1: u64 = 0x8200_0000;
pub const TABLES1_UPPER: u64 = 0x8a00_0000;
/// Where stage 2's tables begin: within no page that stage 1 uses.
pub const TABLES2: u64 = 0x1_0000_0000;

pub const ASID: u16 = 0x1234;
pub const VMID: u16 = 0x5678;

pub const READ: Permissions = Permissions::READ;
pub const WRITE: Permissions = Permissions {
    read: false,
    write: true,
};
pub const QUERY: Permissions = Permissions::NONE;

/// Both stages, output addresses of 44 bits.
pub const BOTH: Features = Features::arm_smmuv3().with_s2p(true);

/// Fields of a Context descriptor.
pub mod cd {
    pub const EPD0: u64 = 1 << 14;
    pub const ENDI: u64 = 1 << 15;
    pub const EPD1: u64 = 1 << 30;
    pub const V: u64 = 1 << 31;
    pub const AFFD: u64 = 1 << 35;
    pub const TBI0: u64 = 1 << 38;
    pub const TBI1: u64 = 1 << 39;
    pub const AA64: u64 = 1 << 41;
    pub const R: u64 = 1 << 45;
    pub const A: u64 = 1 << 46;
    /// Of the words with the tables' addresses.
    pub const HAD: u64 = 1 << 1;

    pub const fn ips(encoding: u64) -> u64 {
        encoding << 32
    }
}

/// Fields of word 2 of a Stream table entry.
pub mod ste {
    pub const S2AA64: u64 = 1 << 51;
    pub const S2AFFD: u64 = 1 << 53;
    pub const S2PTW: u64 = 1 << 54;
    pub const S2R: u64 = 1 << 58;

    pub const fn s2ps(encoding: u64) -> u64 {
        encoding << 48
    }
}

/// A Context descriptor with these tables for both halves; 44-bit outputs.
pub fn cd_words(tables: [Option<&Tables>; 2]) -> [u64; 8] {
    let mut words = [0; 8];
    words[0] = cd::V | cd::AA64 | cd::R | cd::A | cd::ips(4) | (u64::from(ASID) << 48);
    for (half, table) in tables.into_iter().enumerate() {
        let at = 16 * half;
        let Some(table) = table else {
            words[0] |= cd::EPD0 << at;
            continue;
        };
        let granule = match (table.granule, half) {
            (12, 0) => 0b00,
            (16, 0) => 0b01,
            (_, 0) => 0b10,
            (12, _) => 0b10,
            (16, _) => 0b11,
            (_, _) => 0b01,
        };
        words[0] |= (u64::from(64 - table.input_bits) | (granule << 6)) << at;
        words[1 + half] = table.root;
    }
    words
}

/// A Stream table entry for stage 1 alone.
pub fn ste_stage1() -> [u64; 8] {
    [0xb | CD, 0, u64::from(VMID), 0, 0, 0, 0, 0]
}

/// The same for stage 2 alone; 44-bit outputs.
pub fn ste_stage2(tables: &Tables) -> [u64; 8] {
    let granule = match tables.granule {
        12 => 0b00,
        16 => 0b01,
        _ => 0b10,
    };
    let s2sl0 = match tables.granule {
        12 => 2 - tables.start_level,
        _ => 3 - tables.start_level,
    };
    let word2 = ste::S2AA64
        | ste::S2R
        | ste::s2ps(4)
        | (granule << 46)
        | (u64::from(s2sl0) << 38)
        | (u64::from(64 - tables.input_bits) << 32)
        | u64::from(VMID);
    [0xd, 0, word2, tables.root, 0, 0, 0, 0]
}

/// The same for both.
pub fn ste_nested(tables: &Tables) -> [u64; 8] {
    let mut words = ste_stage2(tables);
    words[0] = 0xf | CD;
    words
}

pub struct Smmu {
    pub features: Features,
    pub registers: Registers,
    pub memory: Memory,
    pub store: Store,
}

impl Smmu {
    /// An SMMU whose streams have no valid entry yet.
    pub fn new(features: Features) -> Self {
        let mut registers = Registers::reset(&features);
        registers.write(&features, 0x80, STRTAB, 8);
        registers.write(&features, 0x88, 4, 4);
        registers.write(&features, 0x2c, 2, 4);
        registers.write(&features, 0x20, 1, 4);
        Self {
            features,
            registers,
            memory: Memory::default(),
            store: Store::default(),
        }
    }

    /// The same with empty caches.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self {
            features: self.features,
            registers: self.registers.clone(),
            memory: self.memory.clone(),
            store: Store::default(),
        }
    }

    /// Stage 1 alone, for the lower half.
    pub fn stage1(tables: &Tables) -> Self {
        let mut smmu = Self::new(BOTH);
        smmu.memory.store_words(STE, &ste_stage1());
        smmu.memory.store_words(CD, &cd_words([Some(tables), None]));
        smmu
    }

    /// Stage 2 alone.
    pub fn stage2(tables: &Tables) -> Self {
        let mut smmu = Self::new(BOTH);
        smmu.memory.store_words(STE, &ste_stage2(tables));
        smmu
    }

    /// Changes a word of the Context descriptor, if that is not scattered.
    pub fn patch_cd(&mut self, word: u64, change: impl Fn(u64) -> u64) {
        self.patch(CD + 8 * word, change);
    }

    /// Changes a word of the Stream table entry.
    pub fn patch_ste(&mut self, word: u64, change: impl Fn(u64) -> u64) {
        self.patch(STE + 8 * word, change);
    }

    pub fn patch(&mut self, address: u64, change: impl Fn(u64) -> u64) {
        let old = self.memory.load_u64(address);
        self.memory.store_words(address, &[change(old)]);
    }

    /// With the contents of the caches.
    pub fn cached(&mut self, address: u64, wanted: Permissions) -> Outcome {
        let Self {
            features,
            registers,
            memory,
            store,
        } = self;
        translate(
            &registers.stream_table(),
            features,
            memory,
            store,
            SID,
            address,
            wanted,
        )
    }

    /// By walks alone.
    pub fn walk(&mut self, address: u64, wanted: Permissions) -> Outcome {
        let Self {
            features,
            registers,
            memory,
            ..
        } = self;
        translate(
            &registers.stream_table(),
            features,
            memory,
            &mut Uncached,
            SID,
            address,
            wanted,
        )
    }

    /// Where a walk leads, which must not fault.
    pub fn entry(&mut self, address: u64, wanted: Permissions) -> Entry {
        match self.walk(address, wanted) {
            Outcome::Translated { entry, .. } => entry,
            other => panic!("{address:#x}: {other:x?}"),
        }
    }

    /// The output address of `address`.
    pub fn output(&mut self, address: u64) -> u64 {
        self.entry(address, QUERY).translate(address)
    }

    /// Why a walk faults, which it must.
    pub fn fault(&mut self, address: u64, wanted: Permissions) -> Fault {
        match self.walk(address, wanted) {
            Outcome::Fault(fault) => fault,
            other => panic!("{address:#x}: {other:x?}"),
        }
    }

    /// The words of the event record of a read, which must fault.
    pub fn record(&mut self, address: u64) -> [u64; 4] {
        self.fault(address, READ).record(SID, address, true).0
    }
}

/// Both stages: Context descriptor and tables of stage 1 are scattered over
/// memory, in pages of stage 2.
pub struct Nested {
    pub smmu: Smmu,
    pub stage1: Tables,
    pub stage2: Tables,
}

impl Nested {
    pub fn new(mut stage1: Tables, stage2: Tables) -> Self {
        stage1.scatter = Scatter(stage2.granule);
        let mut nested = Self {
            smmu: Smmu::new(BOTH),
            stage1,
            stage2,
        };
        let cd = nested.stage1.scatter.place(CD);
        let words = cd_words([Some(&nested.stage1), None]);
        nested.smmu.memory.store_words(cd, &words);
        let ste_words = ste_nested(&nested.stage2);
        nested.smmu.memory.store_words(STE, &ste_words);
        nested.back(CD, 64);
        nested
    }

    /// Maps the pages of stage 2 with these IPAs to where they lie.
    pub fn back(&mut self, ipa: u64, bytes: u64) {
        let page = 1 << self.stage2.granule;
        let mut at = ipa & !(page - 1);
        while at < ipa + bytes {
            let place = self.stage1.scatter.place(at);
            self.map2(at, 3, place, STAGE2);
            at += page;
        }
    }

    /// Maps all tables of stage 1.
    pub fn back_tables(&mut self) {
        for (table, bytes) in self.stage1.extents() {
            self.back(table, bytes);
        }
    }

    pub fn map1(&mut self, address: u64, level: u8, ipa: u64, attributes: u64) {
        self.stage1
            .map(&mut self.smmu.memory, address, level, ipa, attributes);
        self.back_tables();
    }

    pub fn map2(&mut self, ipa: u64, level: u8, output: u64, attributes: u64) {
        self.stage2
            .map(&mut self.smmu.memory, ipa, level, output, attributes);
    }

    /// The IPA of the stage 1 descriptor of `address`.
    pub fn slot1(&mut self, address: u64, level: u8) -> u64 {
        self.stage1.slot(&mut self.smmu.memory, address, level)
    }

    /// Where that descriptor lies.
    pub fn place1(&mut self, address: u64, level: u8) -> u64 {
        self.stage1.place(&mut self.smmu.memory, address, level)
    }

    /// Where the stage 2 descriptor of `ipa` lies.
    pub fn place2(&mut self, ipa: u64, level: u8) -> u64 {
        self.stage2.place(&mut self.smmu.memory, ipa, level)
    }
}
