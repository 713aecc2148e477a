// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stage 1 alone.

use smmuv3::{
    event::{Class, EventType},
    translation::{Entry, Fault, Outcome, Permissions},
    Features,
};

use crate::common::{
    smmu::{cd, cd_words, ste_stage1, Smmu, CD, QUERY, READ, STE, TABLES1, TABLES1_UPPER, WRITE},
    tables::{leaf_levels, shift, Tables, AF, GLOBAL, NOT_GLOBAL, READ_ONLY, STAGE1, USER},
};

/// Aligned to the largest block.
const OUTPUT: u64 = 0x5_c000_0000;
const PAGE: u64 = 0x7654_3000;

const APTABLE_READ_ONLY: u64 = 1 << 62;
const APTABLE_NO_EL0: u64 = 1 << 61;

fn fault(event: EventType) -> Fault {
    Fault {
        event,
        address: 0,
        stage2: false,
        class: Class::In,
        recorded: true,
    }
}

fn abort(address: u64) -> Fault {
    Fault {
        address,
        class: Class::Tt,
        ..fault(EventType::WalkAbort)
    }
}

/// An SMMU with one page at [`PAGE`].
fn one_page(attributes: u64) -> (Smmu, Tables) {
    let mut tables = Tables::stage1(12, 48, TABLES1);
    let mut smmu = Smmu::stage1(&tables);
    tables.map(&mut smmu.memory, PAGE, 3, OUTPUT, attributes);
    (smmu, tables)
}

/// The same with tables for both halves.
fn two_halves() -> Smmu {
    let mut lower = Tables::stage1(12, 48, TABLES1);
    let mut upper = Tables::stage1(16, 42, TABLES1_UPPER);
    let mut smmu = Smmu::stage1(&lower);
    lower.map(&mut smmu.memory, PAGE, 3, OUTPUT, STAGE1);
    upper.map(&mut smmu.memory, !PAGE, 3, 2 * OUTPUT, STAGE1);
    smmu.memory
        .store_words(CD, &cd_words([Some(&lower), Some(&upper)]));
    smmu
}

#[test]
fn stage1_every_granule_size_and_level() {
    for granule in [12, 14, 16] {
        let largest = if granule == 16 { 52 } else { 48 };
        for input_bits in 25..=largest {
            for half in [0, 1] {
                let base = if half == 0 { 0 } else { !0 << input_bits };
                let mut tables = Tables::stage1(granule, input_bits, TABLES1);
                let levels = leaf_levels(granule).iter();
                for level in levels.filter(|level| **level >= tables.start_level) {
                    let size = shift(granule, *level);
                    let mask = (1 << size) - 1;
                    for at in [0, 0x1234_5678_9abc, 0x5555_5555_5555, (1 << input_bits) - 1] {
                        let address = base | (at & ((1 << input_bits) - 1));
                        let mut smmu = Smmu::stage1(&tables);
                        smmu.features = smmu.features.with_vax(1);
                        let both = [[Some(&tables), None], [None, Some(&tables)]];
                        smmu.memory.store_words(CD, &cd_words(both[half]));
                        let mut fresh = tables.clone();
                        fresh.map(&mut smmu.memory, address, *level, OUTPUT, STAGE1);
                        let entry = Entry {
                            output: OUTPUT,
                            log2_bytes: size,
                            stage1: Permissions::ALL,
                            stage2: Permissions::ALL,
                            device: false,
                            global: false,
                        };
                        let expected = Outcome::Translated { entry, stages: 1 };
                        let name = format!("{granule} {input_bits} {level} {address:#x}");
                        assert_eq!(smmu.walk(address, Permissions::ALL), expected, "{name}");
                        let exact = OUTPUT | (address & mask);
                        assert_eq!(smmu.output(address), exact, "{name}");
                        // Its neighbours are not mapped.
                        for other in [address ^ (mask + 1), address ^ (1 << (input_bits - 1))] {
                            if other & !mask != address & !mask {
                                let found = smmu.walk(other, QUERY);
                                assert!(matches!(found, Outcome::Fault(_)), "{name}");
                            }
                        }
                    }
                }
                tables.root += 1 << 20;
            }
        }
    }
}

#[test]
fn more_than_48_bits_take_vax_and_64kb_granule() {
    for (granule, vax, largest) in [(16, 0, 48), (16, 1, 52), (12, 1, 48), (14, 1, 48)] {
        for input_bits in 48..=53 {
            let mut tables = Tables::stage1(granule, input_bits.min(largest), TABLES1);
            let mut smmu = Smmu::stage1(&tables);
            smmu.features = smmu.features.with_vax(vax);
            // the last page of the lower half
            let address = (1 << input_bits) - 1;
            tables.map(&mut smmu.memory, address, 3, OUTPUT, STAGE1);
            let size = u64::from(64 - input_bits);
            smmu.patch_cd(0, |word| word & !0x3f | size);
            let name = format!("{granule} {vax} {input_bits}");
            if input_bits <= largest {
                let page = (1 << granule) - 1;
                assert_eq!(smmu.output(address), OUTPUT | page, "{name}");
                let above = smmu.fault(address + 1, QUERY);
                assert_eq!(above, fault(EventType::Translation), "{name}");
            } else {
                let event = smmu.fault(address, QUERY).event;
                assert_eq!(event, EventType::BadCd, "{name}");
            }
        }
    }
}

#[test]
fn stage1_attributes_do_not_affect_address() {
    let noise = (1 << 54) | (1 << 53) | (1 << 52) | (0xf << 55) | (0b11 << 8) | (0b111 << 2);
    for (granule, level) in [
        (12, 1),
        (12, 2),
        (12, 3),
        (14, 2),
        (14, 3),
        (16, 2),
        (16, 3),
    ] {
        let mut tables = Tables::stage1(granule, 48, TABLES1);
        // The type and the attributes of a table are IGNORED.
        tables.table_attributes = (0xff << 51) | 0xffc;
        if granule > 12 {
            tables.table_attributes |= ((1 << granule) - 1) & (0xf << 12);
        }
        let mut smmu = Smmu::stage1(&tables);
        let below = ((1 << shift(granule, level)) - 1) & !0xfff;
        let attributes = STAGE1 | noise | below;
        tables.map(&mut smmu.memory, PAGE, level, OUTPUT, attributes);
        assert_eq!(smmu.entry(PAGE, QUERY).output, OUTPUT, "{granule} {level}");
    }
}

#[test]
fn stage1_first_table_is_aligned_to_size() {
    for input_bits in [25, 31, 40, 41] {
        let mut tables = Tables::stage1(12, input_bits, TABLES1);
        let mut smmu = Smmu::stage1(&tables);
        tables.map(&mut smmu.memory, 0x1f_f000, 3, OUTPUT, STAGE1);
        let bits = input_bits - shift(12, tables.start_level);
        let within = ((8_u64 << bits) - 1) & !0xf;
        smmu.patch_cd(1, |word| word | within);
        assert_eq!(smmu.output(0x1f_f123), OUTPUT | 0x123, "{input_bits}");
        // One bit more is another table.
        smmu.patch_cd(1, |word| word | (8 << bits));
        assert_eq!(smmu.fault(0x1f_f123, QUERY), fault(EventType::Translation));
    }
}

#[test]
fn stage1_half_has_own_table_and_granule() {
    let mut smmu = two_halves();
    let page = smmu.entry(PAGE | 0x10, READ);
    assert_eq!((page.output, page.log2_bytes), (OUTPUT, 12));
    let upper = smmu.entry(!PAGE, READ);
    assert_eq!((upper.output, upper.log2_bytes), (2 * OUTPUT, 16));
}

#[test]
fn stage1_gap_between_halves_faults() {
    let mut smmu = two_halves();
    for address in [
        1 << 48,
        PAGE | (1 << 48),
        PAGE | (1 << 54),
        PAGE | (1 << 55),
        PAGE | (1 << 56),
        PAGE | (1 << 63),
        !PAGE & !(1 << 42),
        !PAGE & !(1 << 55),
        !PAGE & !(1 << 56),
        !PAGE & !(1 << 63),
        !0 << 41,
        0x0080_0000_0000_0000,
        0x007f_ffff_ffff_ffff,
    ] {
        let expected = fault(EventType::Translation);
        let before = smmu.memory.reads;
        assert_eq!(smmu.fault(address, READ), expected, "{address:#x}");
        if address != !0 << 41 {
            // Stream table entry and Context descriptor alone were read.
            assert_eq!(smmu.memory.reads, before + 2, "{address:#x}");
        }
    }
}

#[test]
fn stage1_tbi_is_per_half() {
    for (tbi, lower, upper) in [
        (0, false, false),
        (cd::TBI0, true, false),
        (cd::TBI1, false, true),
        (cd::TBI0 | cd::TBI1, true, true),
    ] {
        for top in [0x01, 0x80, 0xa5, 0xff_u64] {
            let mut smmu = two_halves();
            smmu.patch_cd(0, |word| word | tbi);
            for (address, ignored, output) in [
                (PAGE | (top << 56), lower, OUTPUT),
                (!PAGE & !(top << 56), upper, (2 * OUTPUT) | (!PAGE & 0xffff)),
            ] {
                if ignored {
                    assert_eq!(smmu.output(address), output);
                } else {
                    assert_eq!(smmu.fault(address, READ), fault(EventType::Translation));
                }
                // Bits 55:48 are not ignored.
                let gap = fault(EventType::Translation);
                for bit in 48..=55 {
                    assert_eq!(smmu.fault(address ^ (1 << bit), READ), gap, "{bit}");
                }
            }
            assert_eq!(smmu.output(PAGE), OUTPUT);
            assert_eq!(smmu.output(!PAGE | 0xffff), (2 * OUTPUT) | 0xffff);
        }
    }
}

#[test]
fn stage1_event_has_top_byte_despite_tbi() {
    let mut smmu = two_halves();
    smmu.patch_cd(0, |word| word | cd::TBI0);
    let address = 0xa500_0000_0000_1234;
    assert_eq!(
        smmu.record(address),
        [0x5_0000_0010, (1 << 35) | (0b10 << 40), address, 0]
    );
}

#[test]
fn stage1_epd_faults_without_table_read() {
    for (bit, disabled, enabled) in [(cd::EPD0, PAGE, !PAGE), (cd::EPD1, !PAGE, PAGE)] {
        let mut smmu = two_halves();
        smmu.patch_cd(0, |word| word | bit);
        let before = smmu.memory.reads;
        assert_eq!(smmu.fault(disabled, READ), fault(EventType::Translation));
        assert_eq!(smmu.memory.reads, before + 2);
        smmu.entry(enabled, READ);
    }
}

#[test]
fn stage1_invalid_descriptor_is_translation_fault() {
    for granule in [12, 14, 16] {
        let mut tables = Tables::stage1(granule, 48, TABLES1);
        for level in tables.start_level..=3 {
            let blocks = level < 3 && leaf_levels(granule).contains(&level);
            let page = OUTPUT | STAGE1;
            for descriptor in [0, page, page | 0b10, page | 0b01] {
                let mut smmu = Smmu::stage1(&tables);
                let mut fresh = tables.clone();
                fresh.put(&mut smmu.memory, PAGE, level, descriptor);
                let found = smmu.walk(PAGE, READ);
                if blocks && descriptor & 0b11 == 0b01 {
                    assert!(matches!(found, Outcome::Translated { .. }));
                } else {
                    let expected = Outcome::Fault(fault(EventType::Translation));
                    assert_eq!(found, expected, "{granule} {level} {descriptor:#x}");
                }
            }
        }
        tables.root += 1 << 20;
    }
}

#[test]
fn stage1_oversized_address_faults_at_its_level() {
    for granule in [12, 14, 16] {
        for level in Tables::stage1(granule, 48, TABLES1).start_level..=3 {
            for (ips, bits) in [
                (0, 32),
                (1, 36),
                (2, 40),
                (3, 42),
                (4, 44),
                (5, 44),
                (7, 44),
            ] {
                let mut tables = Tables::stage1(granule, 48, 0x4200_0000);
                let mut smmu = Smmu::stage1(&tables);
                smmu.patch_cd(0, |word| word & !cd::ips(7) | cd::ips(ips));
                // Nothing is at the table's address: a walk that continued
                // would find another fault.
                let kind = 0b11;
                tables.put(&mut smmu.memory, PAGE, level, (1 << bits) | AF | kind);
                let name = format!("{granule} {level} {bits}");
                assert_eq!(
                    smmu.fault(PAGE, READ),
                    fault(EventType::AddressSize),
                    "{name}"
                );
                tables.put(
                    &mut smmu.memory,
                    PAGE,
                    level,
                    (1 << (bits - 1)) | STAGE1 | kind,
                );
                let found = smmu.walk(PAGE, READ);
                if level == 3 {
                    assert!(matches!(found, Outcome::Translated { .. }), "{name}");
                } else {
                    let next = Outcome::Fault(fault(EventType::Translation));
                    assert_eq!(found, next, "{name}");
                }
            }
        }
    }
}

#[test]
fn stage1_oversized_block_is_addr_size_fault() {
    for (granule, level) in [(12, 1), (12, 2), (14, 2), (16, 2)] {
        let mut tables = Tables::stage1(granule, 48, TABLES1);
        let mut smmu = Smmu::stage1(&tables);
        // Neither flag nor permission matter before.
        tables.map(&mut smmu.memory, PAGE, level, 1 << 44, READ_ONLY);
        assert_eq!(smmu.fault(PAGE, WRITE), fault(EventType::AddressSize));
    }
}

#[test]
fn stage1_clear_af_is_access_fault_unless_affd() {
    let (mut smmu, _) = one_page(STAGE1 & !AF | READ_ONLY);
    for wanted in [QUERY, READ, WRITE] {
        assert_eq!(smmu.fault(PAGE, wanted), fault(EventType::Access));
    }
    smmu.patch_cd(0, |word| word | cd::AFFD);
    assert_eq!(smmu.entry(PAGE, READ).stage1, READ);
    assert_eq!(smmu.fault(PAGE, WRITE), fault(EventType::Permission));
}

#[test]
fn stage1_read_only_page_denies_write() {
    let (mut smmu, _) = one_page(STAGE1 | READ_ONLY);
    assert_eq!(smmu.entry(PAGE, READ).stage1, READ);
    let denied = fault(EventType::Permission);
    assert_eq!(smmu.fault(PAGE, WRITE), denied);
    assert_eq!(smmu.fault(PAGE, Permissions::ALL), denied);
}

#[test]
fn stage1_probe_is_never_denied() {
    let (mut smmu, _) = one_page(STAGE1 | READ_ONLY);
    assert_eq!(smmu.entry(PAGE, QUERY).stage1, READ);
}

#[test]
fn stage1_aptable_removes_write() {
    for level in 0..3 {
        let (mut smmu, mut tables) = one_page(STAGE1);
        let slot = tables.place(&mut smmu.memory, PAGE, level);
        smmu.patch(slot, |word| word | APTABLE_READ_ONLY);
        assert_eq!(smmu.entry(PAGE, READ).stage1, READ);
        assert_eq!(smmu.fault(PAGE, WRITE), fault(EventType::Permission));
        // Unless hierarchical attributes are off for this half.
        smmu.patch_cd(2, |word| word | cd::HAD);
        assert_eq!(smmu.fault(PAGE, WRITE), fault(EventType::Permission));
        smmu.patch_cd(1, |word| word | cd::HAD);
        assert_eq!(smmu.entry(PAGE, WRITE).stage1, Permissions::ALL);
    }
}

/// A page permits an access to data, of either direction or of both, exactly as
/// `expected` says.
#[track_caller]
fn permits(smmu: &mut Smmu, expected: Permissions) {
    assert_eq!(smmu.entry(PAGE, QUERY).stage1, expected);
    for wanted in [READ, WRITE, Permissions::ALL] {
        let outcome = smmu.walk(PAGE, wanted);
        if expected.allow(wanted) {
            assert!(matches!(outcome, Outcome::Translated { .. }), "{outcome:?}");
        } else {
            let denied = Outcome::Fault(fault(EventType::Permission));
            assert_eq!(outcome, denied, "{wanted:?}");
        }
    }
}

/// Transactions of PCI functions are unprivileged (§13.7).
#[test]
fn stage1_ap_controls_unprivileged_access() {
    let privileged = STAGE1 & !USER;
    for (attributes, expected) in [
        (privileged, Permissions::NONE),
        (privileged | USER, Permissions::ALL),
        (privileged | READ_ONLY, Permissions::NONE),
        (privileged | READ_ONLY | USER, READ),
    ] {
        permits(&mut one_page(attributes).0, expected);
        // as of a block
        let mut tables = Tables::stage1(16, 48, TABLES1);
        let mut smmu = Smmu::stage1(&tables);
        tables.map(&mut smmu.memory, PAGE, 2, OUTPUT, attributes);
        permits(&mut smmu, expected);
    }
}

/// The Access flag is checked first.
#[test]
fn stage1_access_fault_precedes_ap() {
    let (mut smmu, _) = one_page(NOT_GLOBAL);
    assert_eq!(smmu.fault(PAGE, READ), fault(EventType::Access));
    smmu.patch_cd(0, |word| word | cd::AFFD);
    assert_eq!(smmu.fault(PAGE, READ), fault(EventType::Permission));
}

/// `APTable[0]` denies all unprivileged accesses, `APTable[1]` writes, even if the
/// tables and the page below permit them.
#[test]
fn stage1_aptable_limits_all_below() {
    for level in 0..3 {
        for (attributes, left) in [(STAGE1, Permissions::ALL), (STAGE1 | READ_ONLY, READ)] {
            let (mut smmu, mut tables) = one_page(attributes);
            let slot = tables.place(&mut smmu.memory, PAGE, level);
            let good = smmu.memory.load_u64(slot);
            for (hierarchy, limit) in [
                (0, Permissions::ALL),
                (APTABLE_READ_ONLY, READ),
                (APTABLE_NO_EL0, Permissions::NONE),
                (APTABLE_NO_EL0 | APTABLE_READ_ONLY, Permissions::NONE),
            ] {
                smmu.memory.store_words(slot, &[good | hierarchy]);
                smmu.patch_cd(1, |word| word & !cd::HAD);
                permits(&mut smmu, left.and(limit));
                smmu.patch_cd(1, |word| word | cd::HAD);
                permits(&mut smmu, left);
            }
        }
    }
}

/// Limits of several tables add up.
#[test]
fn stage1_aptable_applies_at_every_level() {
    let (mut smmu, mut tables) = one_page(STAGE1);
    for (level, hierarchy) in [(0, APTABLE_READ_ONLY), (1, 0), (2, APTABLE_NO_EL0)] {
        let slot = tables.place(&mut smmu.memory, PAGE, level);
        smmu.patch(slot, |word| word | hierarchy);
    }
    permits(&mut smmu, Permissions::NONE);
    let last = tables.place(&mut smmu.memory, PAGE, 2);
    smmu.patch(last, |word| word & !APTABLE_NO_EL0);
    permits(&mut smmu, READ);
}

/// §6.3.4: without it `CD.HADx` is IGNORED.
#[test]
fn stage1_had_ignored_without_idr3_had() {
    let (mut smmu, mut tables) = one_page(STAGE1);
    let slot = tables.place(&mut smmu.memory, PAGE, 1);
    smmu.patch(slot, |word| word | APTABLE_NO_EL0);
    smmu.patch_cd(1, |word| word | cd::HAD);
    permits(&mut smmu, Permissions::ALL);
    smmu.features = smmu.features.with_had(false);
    permits(&mut smmu, Permissions::NONE);
}

/// `IDR1.ATTR_PERMS_OVR` is 0: `STE.PRIVCFG` and `STE.INSTCFG` are RES0 (§5.2).
#[test]
fn stage1_privcfg_and_instcfg_have_no_effect() {
    for overrides in 0..16 {
        for (attributes, expected) in [
            (STAGE1 & !USER, Permissions::NONE),
            (STAGE1, Permissions::ALL),
        ] {
            let (mut smmu, _) = one_page(attributes);
            smmu.patch_ste(1, |word| word | (overrides << 48));
            permits(&mut smmu, expected);
        }
    }
}

/// No access is privileged or an instruction fetch, so `PXN`, `UXN`, `CD.WXN`,
/// `CD.UWXN` and `CD.PAN` decide nothing; `CD.E0PDx` are RES0, because
/// `IDR3.E0PD` is 0 (§5.4).
#[test]
fn stage1_xn_and_pan_do_not_affect_data() {
    for never in 0..4 {
        let (mut smmu, mut tables) = one_page(STAGE1 | (never << 53));
        // PXNTable, UXNTable
        let slot = tables.place(&mut smmu.memory, PAGE, 1);
        smmu.patch(slot, |word| word | (never << 59));
        permits(&mut smmu, Permissions::ALL);
        smmu.patch_cd(0, |word| word | (0b11 << 36) | (1 << 40));
        permits(&mut smmu, Permissions::ALL);
        for half in [1, 2] {
            smmu.patch_cd(half, |word| word | (1 << 2));
        }
        permits(&mut smmu, Permissions::ALL);
    }
}

#[test]
fn stage1_had1_applies_to_upper_half() {
    let mut tables = Tables::stage1(12, 48, TABLES1);
    tables.table_attributes = APTABLE_READ_ONLY;
    let mut smmu = Smmu::stage1(&tables);
    tables.map(&mut smmu.memory, !PAGE, 3, OUTPUT, STAGE1);
    smmu.memory
        .store_words(CD, &cd_words([None, Some(&tables)]));
    smmu.patch_cd(1, |word| word | cd::HAD);
    assert_eq!(smmu.fault(!PAGE, WRITE), fault(EventType::Permission));
    smmu.patch_cd(2, |word| word | cd::HAD);
    smmu.entry(!PAGE, WRITE);
}

#[test]
fn stage1_ng_clear_is_global() {
    assert!(one_page(GLOBAL).0.entry(PAGE, READ).global);
    assert!(!one_page(STAGE1).0.entry(PAGE, READ).global);
}

#[test]
fn stage1_walk_abort_has_descriptor_address() {
    for granule in [12, 14, 16] {
        let start = Tables::stage1(granule, 48, TABLES1).start_level;
        for level in start..=3 {
            let mut tables = Tables::stage1(granule, 48, TABLES1);
            let mut smmu = Smmu::stage1(&tables);
            tables.map(&mut smmu.memory, PAGE, 3, OUTPUT, STAGE1);
            let slot = tables.place(&mut smmu.memory, PAGE, level);
            smmu.memory.unreadable.push(slot..slot + 8);
            assert_eq!(smmu.fault(PAGE, READ), abort(slot), "{granule} {level}");
            // CD.R is about faults of translation alone (§5.5).
            smmu.patch_cd(0, |word| word & !cd::R);
            assert_eq!(smmu.fault(PAGE, READ), abort(slot), "{granule} {level}");
        }
    }
}

#[test]
fn stage1_cd_r_clear_records_no_fault() {
    let (mut smmu, mut tables) = one_page(STAGE1 | READ_ONLY);
    tables.map(&mut smmu.memory, 0x1000, 3, OUTPUT, NOT_GLOBAL);
    tables.map(&mut smmu.memory, 0x2000, 3, 1 << 44, NOT_GLOBAL);
    smmu.patch_cd(0, |word| word & !cd::R);
    for (address, event) in [
        (PAGE, EventType::Permission),
        (0x1000, EventType::Access),
        (0x2000, EventType::AddressSize),
        (0x3000, EventType::Translation),
        (!0, EventType::Translation),
    ] {
        let found = smmu.fault(address, WRITE);
        let silent = Fault {
            recorded: false,
            ..fault(event)
        };
        assert_eq!(found, silent);
        assert!(!found.is_recorded(&smmu.registers));
    }
    smmu.patch_cd(0, |word| word | cd::R);
    let fault = smmu.fault(PAGE, WRITE);
    assert!(fault.is_recorded(&smmu.registers));
}

#[test]
fn stage1_fault_record_words() {
    const RECORD: u64 = 0x5_0000_0000;
    let (mut smmu, mut tables) = one_page(STAGE1 | READ_ONLY);
    tables.map(&mut smmu.memory, 0x1000, 3, OUTPUT, 0);
    tables.map(&mut smmu.memory, 0x2000, 3, 1 << 44, 0);
    let (read, class_in, class_tt) = (1 << 35, 0b10 << 40, 0b01 << 40);
    for (address, number) in [
        (0x1234, 0x12),
        (0x2345, 0x11),
        (0x3456, 0x10),
        (!0 << 50, 0x10),
    ] {
        assert_eq!(
            smmu.record(address),
            [RECORD | number, read | class_in, address, 0]
        );
    }
    // PnU and InD, bits 33 and 34, are Unprivileged and Data.
    let denied = smmu.fault(PAGE | 0x321, WRITE);
    let record = denied.record(5, PAGE | 0x321, false).0;
    assert_eq!(record, [RECORD | 0x13, class_in, PAGE | 0x321, 0]);
    tables.map(&mut smmu.memory, 0x4000, 3, OUTPUT, STAGE1 & !USER);
    assert_eq!(
        smmu.record(0x4321),
        [RECORD | 0x13, read | class_in, 0x4321, 0]
    );
    let slot = tables.place(&mut smmu.memory, PAGE, 2);
    smmu.memory.unreadable.push(slot..slot + 8);
    assert_eq!(
        smmu.record(PAGE | 0x321),
        [RECORD | 0x0b, read | class_tt, PAGE | 0x321, slot]
    );
}

#[test]
fn stage1_52_bit_output_needs_64k_granule() {
    let features = Features::arm_smmuv3().with_oas(6);
    let mut tables = Tables::stage1(16, 48, TABLES1);
    let mut smmu = Smmu::stage1(&tables);
    smmu.features = features;
    smmu.memory.store_words(STE, &ste_stage1());
    smmu.patch_cd(0, |word| word & !cd::ips(7) | cd::ips(6));
    tables.map(&mut smmu.memory, PAGE, 3, OUTPUT | (0xa << 12), STAGE1);
    assert_eq!(smmu.entry(PAGE, READ).output, OUTPUT | (0xa << 48));
    tables.map(
        &mut smmu.memory,
        1 << 43,
        1,
        (0xb << 12) | (1 << 47),
        STAGE1,
    );
    let block = smmu.entry(1 << 43, READ);
    assert_eq!(
        (block.output, block.log2_bytes),
        ((0xb << 48) | (1 << 47), 42)
    );
    // Without them these bits are none of the address, and the block is none.
    smmu.features = Features::arm_smmuv3().with_oas(5);
    assert_eq!(smmu.entry(PAGE, READ).output, OUTPUT);
    assert_eq!(smmu.fault(1 << 43, READ), fault(EventType::Translation));
}
