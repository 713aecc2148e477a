// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Finding and decoding Context descriptors (§5.3, §5.4).

use crate::common::Memory;
use proptest::prelude::*;
use smmuv3::{
    cd::{fetch, BadCd, Cd, CdFault, Translation, TranslationTable},
    Features,
};

const TABLE: u64 = 0x8000_0000;
const SECOND: u64 = 0x9000_0000;

const V: u64 = 1 << 31;
const EPD0: u64 = 1 << 14;
const EPD1: u64 = 1 << 30;
const AA64: u64 = 1 << 41;
const R: u64 = 1 << 45;
const A: u64 = 1 << 46;
/// 48-bit input addresses, 4KB granule for both tables.
const WALKS: u64 = 16 | (16 << 16) | (0b10 << 22);
/// `IPS` of 44 bits.
const IPS_44: u64 = 4 << 32;
/// A word like Linux's.
const WORD0: u64 = V | AA64 | R | A | WALKS | EPD1 | IPS_44 | (7 << 48);

const BASE: Features = Features::arm_smmuv3();

fn translation(word0: u64, features: &Features) -> Result<Translation, BadCd> {
    Cd([word0, 0x1234_5000, 0, 0, 0, 0, 0, 0]).translation(features)
}

#[test]
fn linux_cd_is_decoded() {
    let expected = Translation {
        affd: false,
        oas_bits: 44,
        tbi: [false; 2],
        asid: 7,
        record_faults: true,
        tables: [
            TranslationTable {
                disabled: false,
                base: 0x1234_5000,
                tsz: 16,
                granule_shift: 12,
                had: false,
            },
            TranslationTable {
                disabled: true,
                base: 0,
                tsz: 16,
                granule_shift: 12,
                had: false,
            },
        ],
    };
    assert_eq!(translation(WORD0, &BASE), Ok(expected));
}

#[test]
fn illegal_cd_is_rejected() {
    let why = |word0: u64| translation(word0, &BASE).err();
    assert_eq!(why(WORD0 & !V), Some(BadCd::Invalid));
    assert_eq!(why(WORD0 & !AA64), Some(BadCd::Format));
    assert_eq!(why(WORD0 & !A), Some(BadCd::Terminate));
    assert_eq!(why(WORD0 | (1 << 15)), Some(BadCd::Endianness));
    assert_eq!(why(WORD0 | (1 << 42)), Some(BadCd::Updates), "HD");
    assert_eq!(why(WORD0 | (1 << 43)), Some(BadCd::Updates), "HA");
    assert_eq!(why(WORD0 | (1 << 44)), Some(BadCd::Stall));
    let tg0 = WORD0 & !EPD1 | (0b11 << 6);
    assert_eq!(why(tg0), Some(BadCd::Granule), "TG0");
    let tg1 = WORD0 & !EPD1 & !(0b11 << 22);
    assert_eq!(why(tg1), Some(BadCd::Granule), "TG1");
    for tsz in 0..64 {
        let word0 = (WORD0 & !0x3f) | tsz;
        let is_legal = (16..=39).contains(&tsz);
        assert_eq!(why(word0), (!is_legal).then_some(BadCd::Size), "{tsz}");
        // The size of a disabled table is not checked.
        assert_eq!(why(word0 | EPD0), None);
    }
    let wide = WORD0 | (1 << 56);
    assert_eq!(why(wide), None);
    let narrow = BASE.with_asid16(false);
    assert_eq!(translation(wide, &narrow), Err(BadCd::Asid));
    let no_4k = BASE.with_gran4k(false);
    assert_eq!(translation(WORD0, &no_4k), Err(BadCd::Granule));
    let silent = translation(WORD0 & !A, &BASE.with_term_model(false));
    assert_eq!(silent, translation(WORD0, &BASE));
}

#[test]
fn cd_ttb_beyond_effective_oas_is_illegal() {
    let small = (WORD0 & !(7 << 32)) | (1 << 32);
    let cd = |base| Cd([small, base, 0, 0, 0, 0, 0, 0]).translation(&BASE);
    assert_eq!(cd(0xf_ffff_f000).map(|found| found.oas_bits), Ok(36));
    assert_eq!(cd(0x10_0000_0000), Err(BadCd::Table));
    // More than 48 bits go with the 64KB granule only.
    let wide = BASE.with_oas(6);
    let above = |granule: u64| {
        let word0 = (WORD0 & !(7 << 32)) | (6 << 32) | (granule << 6);
        Cd([word0, 1 << 48, 0, 0, 0, 0, 0, 0]).translation(&wide)
    };
    assert_eq!(
        [0b00, 0b01, 0b10].map(|tg| above(tg).is_ok()),
        [false, true, false]
    );
    let large = WORD0 | (7 << 32);
    assert_eq!(
        translation(large, &BASE).map(|found| found.oas_bits),
        Ok(44)
    );
}

#[test]
fn cd_granule_encodings() {
    let shifts = |tg0: u64, tg1: u64| {
        let word0 = V | AA64 | A | IPS_44 | 16 | (16 << 16) | (tg0 << 6) | (tg1 << 22);
        let [lower, upper] = translation(word0, &BASE).expect("legal").tables;
        (lower.granule_shift, upper.granule_shift)
    };
    assert_eq!(shifts(0b00, 0b10), (12, 12));
    assert_eq!(shifts(0b01, 0b11), (16, 16));
    assert_eq!(shifts(0b10, 0b01), (14, 14));
}

struct Table {
    ste: [u64; 2],
    features: Features,
    memory: Memory,
}

impl Table {
    fn new(format: u64, cd_max: u64, default_substream: u64) -> Self {
        Self {
            ste: [
                0xb | (format << 4) | TABLE | (cd_max << 59),
                default_substream,
            ],
            features: BASE.with_ssidsize(20).with_cd2l(true),
            memory: Memory::default(),
        }
    }

    fn store(&mut self, address: u64, mark: u64) {
        self.memory
            .store_words(address, &[WORD0, 0, 0, 0, 0, 0, 0, mark]);
    }

    fn fetch(&mut self, ssid: u32) -> Result<u64, CdFault> {
        let Cd(words) = fetch(&self.ste, &self.features, &mut self.memory, ssid)?;
        Ok(words[7])
    }
}

const OUT_OF_RANGE: Result<u64, CdFault> = Err(CdFault::BadSubstreamId);

#[test]
fn single_cd_has_no_substreams() {
    let mut table = Table::new(0, 0, 0);
    table.store(TABLE, 1);
    assert_eq!(table.fetch(0), Ok(1));
    assert_eq!(table.fetch(1), OUT_OF_RANGE);
    // S1CDMax and S1Fmt are IGNORED without SubstreamIDs.
    let mut single = Table::new(0b01, 9, 0);
    single.features = BASE;
    single.store(TABLE, 2);
    assert_eq!(single.fetch(0), Ok(2));
    assert_eq!(single.fetch(1), OUT_OF_RANGE);
}

#[test]
fn linear_cd_table_indexed_by_substream_id() {
    let mut table = Table::new(0b00, 5, 0b10);
    table.store(TABLE, 1);
    table.store(TABLE + 64 * 31, 2);
    assert_eq!(table.fetch(0), Ok(1));
    assert_eq!(table.fetch(31), Ok(2));
    assert_eq!(table.fetch(32), OUT_OF_RANGE);
    table.ste[1] = 0b00;
    assert_eq!(table.fetch(0), Err(CdFault::StreamDisabled));
    table.ste[1] = 0b01;
    assert_eq!(table.fetch(0), Err(CdFault::Bypassed));
}

#[test]
fn two_level_cd_table_split_by_s1fmt() {
    for (format, split) in [(0b01, 6), (0b10, 10)] {
        let mut table = Table::new(format, 16, 0b10);
        let (upper, lower) = (0x1234_u64 >> split, 0x1234 & ((1 << split) - 1));
        table.memory.store_words(TABLE + 8 * upper, &[SECOND | 1]);
        table.store(SECOND + 64 * lower, 1);
        assert_eq!(table.fetch(0x1234), Ok(1));
        assert_eq!(table.fetch(0x8234), OUT_OF_RANGE, "V is 0");
        table
            .memory
            .store_words(TABLE + 8 * upper, &[(1 << 44) | SECOND | 1]);
        assert_eq!(table.fetch(0x1234), OUT_OF_RANGE, "above OAS");
    }
}

#[test]
fn cd_fetch_abort_reports_address() {
    let mut table = Table::new(0b01, 16, 0b10);
    table.memory.store_words(TABLE, &[SECOND | 1]);
    table.memory.unreadable.push(SECOND + 64..SECOND + 65);
    let address = SECOND + 64;
    assert_eq!(table.fetch(1), Err(CdFault::FetchAbort { address }));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_cd_decode_is_total(
        words in any::<[u64; 8]>(),
        ste in any::<[u64; 2]>(),
        idr in any::<[u32; 6]>(),
        ssid: u32,
    ) {
        let features = Features { idr, iidr: 0, aidr: 1 };
        if let Ok(found) = Cd(words).translation(&features) {
            for table in found.tables.iter().filter(|table| !table.disabled) {
                prop_assert!((16..=39).contains(&table.tsz));
                prop_assert!(u32::from(found.oas_bits) <= features.oas_bits());
            }
        }
        let _ = fetch(&ste, &features, &mut Memory::default(), ssid);
    }
}
