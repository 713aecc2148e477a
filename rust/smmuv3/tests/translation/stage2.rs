// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stage 2 alone.

use smmuv3::{
    event::{Class, EventType},
    translation::{Entry, Fault, Outcome, Permissions},
};

use crate::common::{
    smmu::{ste, Smmu, BOTH, QUERY, READ, STE, TABLES2, WRITE},
    tables::{leaf_levels, shift, Tables, AF, S2_DEVICE, S2_READ, S2_WRITE, STAGE2},
};

const OUTPUT: u64 = 0x5_c000_0000;
const PAGE: u64 = 0x7654_3000;

/// Granule, bits of input addresses, level at which walks start.
const SHAPES: [(u8, u8, u8); 14] = [
    // A whole table, 2 and 16 of them side by side, and the smallest there are.
    (12, 39, 1),
    (12, 40, 1),
    (12, 43, 1),
    (12, 31, 1),
    (12, 30, 2),
    (12, 34, 2),
    (12, 44, 0),
    (14, 36, 2),
    (14, 40, 2),
    (14, 44, 1),
    (14, 37, 1),
    (16, 42, 2),
    (16, 44, 2),
    (16, 33, 3),
];

fn fault(event: EventType, address: u64) -> Fault {
    Fault {
        event,
        address,
        stage2: true,
        class: Class::In,
        recorded: true,
    }
}

fn one_page(attributes: u64) -> (Smmu, Tables) {
    let mut tables = Tables::new(12, 40, 1, TABLES2);
    let mut smmu = Smmu::stage2(&tables);
    tables.map(&mut smmu.memory, PAGE, 3, OUTPUT, attributes);
    (smmu, tables)
}

#[test]
fn stage2_every_granule_size_and_level() {
    for (granule, input_bits, start_level) in SHAPES {
        let levels = leaf_levels(granule).iter();
        for level in levels.filter(|level| **level >= start_level) {
            let last = (1 << input_bits) - 1;
            for address in [0, 0x5a5_1234_5678 & last, 0xa5a_9876_5432 & last, last] {
                let mut tables = Tables::new(granule, input_bits, start_level, TABLES2);
                let mut smmu = Smmu::stage2(&tables);
                tables.map(&mut smmu.memory, address, *level, OUTPUT, STAGE2);
                let size = shift(granule, *level);
                let entry = Entry {
                    output: OUTPUT,
                    log2_bytes: size,
                    stage1: Permissions::ALL,
                    stage2: Permissions::ALL,
                    device: false,
                    global: false,
                };
                let expected = Outcome::Translated { entry, stages: 2 };
                let name = format!("{granule} {input_bits} {start_level} {level} {address:#x}");
                assert_eq!(smmu.walk(address, Permissions::ALL), expected, "{name}");
                let mask = (1 << size) - 1;
                assert_eq!(smmu.output(address), OUTPUT | (address & mask), "{name}");
                // Not even with one of the bits that distinguish tables side by side.
                for bit in size..input_bits {
                    let other = smmu.walk(address ^ (1 << bit), QUERY);
                    assert!(matches!(other, Outcome::Fault(_)), "{name} {bit}");
                }
            }
        }
    }
}

#[test]
fn stage2_concatenated_tables_are_aligned() {
    for (granule, input_bits, start_level) in SHAPES {
        let mut tables = Tables::new(granule, input_bits, start_level, TABLES2);
        let mut smmu = Smmu::stage2(&tables);
        let last = (1 << input_bits) - 1;
        tables.map(&mut smmu.memory, last, 3, OUTPUT, STAGE2);
        let bits = input_bits - shift(granule, start_level);
        let within = ((8_u64 << bits) - 1) & !0xf;
        smmu.patch_ste(3, |word| word | within);
        let name = format!("{granule} {input_bits} {start_level}");
        assert_eq!(smmu.entry(last, READ).output, OUTPUT, "{name}");
    }
}

#[test]
fn stage2_input_beyond_tables_is_translation_fault() {
    for (granule, input_bits, start_level) in SHAPES {
        let mut tables = Tables::new(granule, input_bits, start_level, TABLES2);
        let mut smmu = Smmu::stage2(&tables);
        tables.map(&mut smmu.memory, 0, 3, OUTPUT, STAGE2);
        smmu.entry(0, READ);
        for bit in input_bits..44 {
            let address = 1 << bit;
            let before = smmu.memory.reads;
            let found = smmu.fault(address, READ);
            assert_eq!(found, fault(EventType::Translation, address));
            assert_eq!(smmu.memory.reads, before + 1);
        }
    }
}

#[test]
fn input_above_ias_is_stage1_addr_size_fault() {
    let (mut smmu, _) = one_page(STAGE2);
    // Stage 1 does nothing, and outputs it nevertheless.
    let expected = Fault {
        stage2: false,
        ..fault(EventType::AddressSize, 0)
    };
    for bit in 44..64 {
        let address = PAGE | (1 << bit);
        assert_eq!(smmu.fault(address, READ), expected, "{bit}");
    }
    let address = PAGE | (1 << 55) | 0xff;
    let record = [0x5_0000_0011, (1 << 35) | (0b10 << 40), address, 0];
    assert_eq!(smmu.record(address), record);
    // There is no Context descriptor whose R could be 0, and S2R does not apply.
    smmu.patch_ste(2, |word| word & !ste::S2R);
    assert_eq!(smmu.record(address), record);
}

#[test]
fn stage2_invalid_descriptor_is_translation_fault() {
    for (granule, input_bits, start_level) in SHAPES {
        for level in start_level..=3 {
            let blocks = level < 3 && leaf_levels(granule).contains(&level);
            for kind in [0b00, 0b10, 0b01] {
                let mut tables = Tables::new(granule, input_bits, start_level, TABLES2);
                let mut smmu = Smmu::stage2(&tables);
                let address = 0x1654_3210;
                tables.put(&mut smmu.memory, address, level, OUTPUT | STAGE2 | kind);
                let found = smmu.walk(address, READ);
                if blocks && kind == 0b01 {
                    assert!(matches!(found, Outcome::Translated { .. }));
                } else {
                    let expected = Outcome::Fault(fault(EventType::Translation, address));
                    assert_eq!(found, expected, "{granule} {start_level} {level} {kind}");
                }
            }
        }
    }
}

#[test]
fn stage2_oversized_address_faults_at_its_level() {
    for (ps, bits) in [
        (0, 32),
        (1, 36),
        (2, 40),
        (3, 42),
        (4, 44),
        (5, 44),
        (7, 44),
    ] {
        for level in 1..=3 {
            let mut tables = Tables::new(12, 40, 1, 0x4000_0000);
            let mut smmu = Smmu::stage2(&tables);
            smmu.patch_ste(2, |word| word & !ste::s2ps(7) | ste::s2ps(ps));
            let address = PAGE | 0x123;
            tables.put(&mut smmu.memory, address, level, (1 << bits) | 0b11);
            let found = smmu.fault(address, READ);
            assert_eq!(
                found,
                fault(EventType::AddressSize, address),
                "{ps} {level}"
            );
            let output = 1 << (bits - 1);
            tables.put(&mut smmu.memory, address, level, output | STAGE2 | 0b11);
            let other = smmu.walk(address, READ);
            if level == 3 {
                assert!(matches!(other, Outcome::Translated { .. }));
            } else {
                let next = Outcome::Fault(fault(EventType::Translation, address));
                assert_eq!(other, next, "{ps} {level}");
            }
        }
    }
}

#[test]
fn stage2_clear_af_is_access_fault_unless_s2affd() {
    let (mut smmu, _) = one_page(0);
    for wanted in [QUERY, READ, WRITE] {
        assert_eq!(smmu.fault(PAGE, wanted), fault(EventType::Access, PAGE));
    }
    smmu.patch_ste(2, |word| word | ste::S2AFFD);
    assert_eq!(smmu.entry(PAGE, QUERY).stage2, QUERY);
    assert_eq!(smmu.fault(PAGE, READ), fault(EventType::Permission, PAGE));
}

#[test]
fn s2ap_controls_access() {
    for (attributes, read, write) in [
        (AF, false, false),
        (AF | S2_READ, true, false),
        (AF | S2_WRITE, false, true),
        (AF | S2_READ | S2_WRITE, true, true),
    ] {
        let (mut smmu, _) = one_page(attributes);
        let permissions = Permissions { read, write };
        assert_eq!(smmu.entry(PAGE, QUERY).stage2, permissions);
        for wanted in [READ, WRITE, Permissions::ALL] {
            let found = smmu.walk(PAGE | 0x42, wanted);
            if permissions.allow(wanted) {
                assert!(matches!(found, Outcome::Translated { .. }));
            } else {
                let denied = fault(EventType::Permission, PAGE | 0x42);
                assert_eq!(found, Outcome::Fault(denied));
            }
        }
    }
}

/// Nothing is read for stage 1, so `S2PTW` is IGNORED for every type of memory
/// (§5.2). Firmware sets it for all streams that it maps as Device memory.
#[test]
fn stage2_s2ptw_ignored_without_stage1() {
    let (mut smmu, _) = one_page(S2_DEVICE);
    smmu.patch_ste(2, |word| word | ste::S2PTW);
    for wanted in [QUERY, READ, WRITE, Permissions::ALL] {
        assert_eq!(smmu.entry(PAGE, wanted).stage2, Permissions::ALL);
    }
}

/// `XN` concerns instruction fetches, and a PCI function makes none (§13.7).
#[test]
fn stage2_s2xn_does_not_affect_data() {
    for never in 0..4 {
        let (mut smmu, _) = one_page(STAGE2 | (never << 53));
        assert_eq!(smmu.entry(PAGE, READ).stage2, Permissions::ALL);
    }
}

#[test]
fn stage2_has_no_hierarchical_attributes() {
    let mut tables = Tables::new(12, 40, 1, TABLES2);
    tables.table_attributes = 0xff << 56;
    let mut smmu = Smmu::stage2(&tables);
    tables.map(&mut smmu.memory, PAGE, 3, OUTPUT, STAGE2);
    assert_eq!(smmu.entry(PAGE, WRITE).stage2, Permissions::ALL);
}

#[test]
fn stage2_walk_abort_has_descriptor_address() {
    for level in 1..=3 {
        let (mut smmu, mut tables) = one_page(STAGE2);
        let slot = tables.place(&mut smmu.memory, PAGE, level);
        smmu.memory.unreadable.push(slot..slot + 8);
        let expected = fault(EventType::WalkAbort, slot);
        assert_eq!(smmu.fault(PAGE, READ), expected, "{level}");
        smmu.patch_ste(2, |word| word & !ste::S2R);
        assert_eq!(smmu.fault(PAGE, READ), expected, "{level}");
        let class = 0b10 << 40;
        assert_eq!(
            smmu.record(PAGE),
            [0x5_0000_000b, (1 << 35) | (1 << 39) | class, PAGE, slot]
        );
    }
}

#[test]
fn stage2_s2r_clear_records_no_fault() {
    let (mut smmu, mut tables) = one_page(AF);
    tables.map(&mut smmu.memory, 0x1000, 3, OUTPUT, 0);
    tables.map(&mut smmu.memory, 0x2000, 3, 1 << 44, 0);
    smmu.patch_ste(2, |word| word & !ste::S2R);
    for (address, event) in [
        (PAGE, EventType::Permission),
        (0x1000, EventType::Access),
        (0x2000, EventType::AddressSize),
        (0x3000, EventType::Translation),
        (1 << 41, EventType::Translation),
    ] {
        let found = smmu.fault(address, WRITE);
        let silent = Fault {
            recorded: false,
            ..fault(event, address)
        };
        assert_eq!(found, silent);
        assert!(!found.is_recorded(&smmu.registers));
    }
}

#[test]
fn stage2_fault_record_words() {
    let (mut smmu, mut tables) = one_page(AF);
    tables.map(&mut smmu.memory, 0x1000, 3, OUTPUT, 0);
    tables.map(&mut smmu.memory, 0x2000, 3, 1 << 44, 0);
    let word1 = (1 << 35) | (1 << 39) | (0b10 << 40);
    for (address, number) in [
        (PAGE | 0x123, 0x13),
        (0x1234, 0x12),
        (0x2345, 0x11),
        (0x3456, 0x10),
        ((1 << 41) | 0x567, 0x10),
    ] {
        // The IPA without its offset in 4KB (§7.3.13).
        assert_eq!(
            smmu.record(address),
            [0x5_0000_0000 | number, word1, address, address & !0xfff]
        );
    }
}

#[test]
fn stage2_top_byte_is_significant() {
    let (mut smmu, _) = one_page(STAGE2);
    let found = smmu.fault(PAGE | (1 << 63), READ);
    assert_eq!((found.event, found.stage2), (EventType::AddressSize, false));
}

#[test]
fn stage2_only_smmu_translates() {
    let (mut smmu, _) = one_page(STAGE2);
    smmu.features = BOTH.with_s1p(false);
    assert_eq!(smmu.output(PAGE), OUTPUT);
    smmu.memory.store_words(STE, &[0xb]);
    assert_eq!(smmu.fault(PAGE, READ).event, EventType::BadSte);
}
