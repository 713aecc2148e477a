// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stage 1 whose tables and outputs stage 2 translates.

use smmuv3::{
    event::{Class, EventType},
    translation::{Entry, Fault, Outcome, Permissions},
};

use crate::common::{
    smmu::{cd, ste, Nested, CD, QUERY, READ, TABLES1, TABLES2, WRITE},
    tables::{
        leaf_levels, shift, Tables, AF, GLOBAL, NOT_GLOBAL, READ_ONLY, S2_DEVICE, S2_READ,
        S2_WRITE, STAGE1, STAGE2,
    },
};

const PAGE: u64 = 0x7654_3000;
/// Within no table, and aligned to the largest block.
const IPA: u64 = 0x20_4000_0000;
const OUTPUT: u64 = 0x5_c000_0000;

fn fault(event: EventType, class: Class, address: u64) -> Fault {
    Fault {
        event,
        address,
        stage2: true,
        class,
        recorded: true,
    }
}

fn fault1(event: EventType) -> Fault {
    Fault {
        stage2: false,
        ..fault(event, Class::In, 0)
    }
}

/// Stage 2 of as many input bits as stage 1 can put out.
fn stage2(granule: u8) -> Tables {
    let start_level = u8::from(granule != 12);
    Tables::new(granule, 44, start_level, TABLES2)
}

/// One page by both stages.
fn one_page(attributes1: u64, attributes2: u64) -> Nested {
    let mut nested = Nested::new(Tables::stage1(12, 48, TABLES1), stage2(12));
    nested.map1(PAGE, 3, IPA, attributes1);
    nested.map2(IPA, 3, OUTPUT, attributes2);
    nested
}

#[test]
fn nested_page_is_smaller_of_both_stages() {
    for granule1 in [12, 14, 16] {
        for granule2 in [12, 14, 16] {
            for level1 in leaf_levels(granule1) {
                for level2 in leaf_levels(granule2) {
                    let tables1 = Tables::stage1(granule1, 48, TABLES1);
                    let mut nested = Nested::new(tables1, stage2(granule2));
                    let size1 = shift(granule1, *level1);
                    let size2 = shift(granule2, *level2);
                    let address = 0x1234_5678_9abc;
                    // Off the beginning of stage 2's block, if that is larger.
                    let output1 = IPA + (3 << size1);
                    let ipa = output1 | (address & ((1 << size1) - 1));
                    nested.map1(address, *level1, output1, STAGE1);
                    nested.map2(ipa, *level2, OUTPUT, STAGE2);
                    let exact = OUTPUT | (ipa & ((1 << size2) - 1));
                    let log2_bytes = size1.min(size2);
                    let entry = Entry {
                        output: exact & !((1 << log2_bytes) - 1),
                        log2_bytes,
                        stage1: Permissions::ALL,
                        stage2: Permissions::ALL,
                        device: false,
                        global: false,
                    };
                    let expected = Outcome::Translated { entry, stages: 3 };
                    let name = format!("{granule1} {level1}, {granule2} {level2}");
                    let found = nested.smmu.walk(address, Permissions::ALL);
                    assert_eq!(found, expected, "{name}");
                    assert_eq!(nested.smmu.output(address), exact, "{name}");
                }
            }
        }
    }
}

#[test]
fn nested_stage1_descriptors_translate_separately() {
    // A table of 64KB lies in 16 pages of 4KB, none behind the other.
    let mut nested = Nested::new(Tables::stage1(16, 48, TABLES1), stage2(12));
    for page in 0..16_u64 {
        let address = (page * 512) << 16;
        let ipa = IPA + (page << 16);
        nested.map1(address, 3, ipa, STAGE1);
        nested.map2(ipa, 3, OUTPUT + (page << 20), STAGE2);
    }
    let mut places = Vec::new();
    for page in 0..16_u64 {
        let address = (page * 512) << 16;
        let output = OUTPUT + (page << 20) + 0x123;
        assert_eq!(nested.smmu.output(address | 0x123), output, "{page}");
        places.push(nested.place1(address, 3) >> 12);
    }
    assert!(places.windows(2).all(|pair| pair[1] == pair[0] - 1));
}

#[test]
fn nested_first_table_may_span_ipa_pages() {
    let mut nested = Nested::new(Tables::stage1(16, 42, TABLES1), stage2(12));
    for address in [0, 0x3ff_ffff_0000, 0x155_5555_0000_u64] {
        nested.map1(address, 3, IPA, STAGE1);
        nested.map2(IPA, 3, OUTPUT, STAGE2);
        assert_eq!(nested.smmu.output(address), OUTPUT);
    }
}

#[test]
fn nested_access_needs_both_permissions() {
    for read_only in [0, READ_ONLY] {
        for attributes in [0, S2_READ, S2_WRITE, S2_READ | S2_WRITE] {
            let mut nested = one_page(STAGE1 | read_only, AF | attributes);
            let stage1 = Permissions {
                read: true,
                write: read_only == 0,
            };
            let stage2 = Permissions {
                read: attributes & S2_READ != 0,
                write: attributes & S2_WRITE != 0,
            };
            let queried = nested.smmu.entry(PAGE, QUERY);
            assert_eq!((queried.stage1, queried.stage2), (stage1, stage2));
            for wanted in [READ, WRITE, Permissions::ALL] {
                let expected = if !stage1.allow(wanted) {
                    Err(fault1(EventType::Permission))
                } else if !stage2.allow(wanted) {
                    Err(fault(EventType::Permission, Class::In, IPA))
                } else {
                    Ok(OUTPUT)
                };
                let found = match nested.smmu.walk(PAGE, wanted) {
                    Outcome::Translated { entry, .. } => Ok(entry.translate(PAGE)),
                    Outcome::Fault(found) => Err(found),
                    other => panic!("{other:?}"),
                };
                assert_eq!(found, expected);
            }
        }
    }
}

#[test]
fn nested_page_global_by_stage1() {
    assert!(one_page(GLOBAL, STAGE2).smmu.entry(PAGE, READ).global);
    let private = one_page(STAGE1, STAGE2).smmu.entry(PAGE, READ);
    assert!(!private.global);
}

#[test]
fn nested_stage1_fault_precedes_stage2() {
    for (attributes, wanted, event) in [
        (NOT_GLOBAL, READ, EventType::Access),
        (STAGE1 | READ_ONLY, WRITE, EventType::Permission),
    ] {
        let mut nested = one_page(attributes, 0);
        assert_eq!(nested.smmu.fault(PAGE, wanted), fault1(event));
    }
    // The page is nowhere in stage 2.
    let mut beyond = one_page(STAGE1, STAGE2);
    beyond.map1(PAGE, 3, 1 << 44, STAGE1);
    let found = beyond.smmu.fault(PAGE, READ);
    assert_eq!(found, fault1(EventType::AddressSize));
}

/// Maps the page of stage 2 that `ipa` is in to where it lies, with attributes.
fn remap(nested: &mut Nested, ipa: u64, attributes: u64) {
    let page = ipa & !0xfff;
    let place = nested.stage1.scatter.place(page);
    nested.map2(page, 3, place, attributes);
}

fn protect_walks(nested: &mut Nested) {
    nested.smmu.patch_ste(2, |word| word | ste::S2PTW);
}

/// Every encoding of `MemAttr`, and whether it is a type of Device memory.
fn memory_types() -> impl Iterator<Item = (u64, bool)> {
    (0..16).map(|encoding| (S2_DEVICE | (encoding << 2), encoding < 4))
}

/// §5.2: a guest's tables must not make the SMMU read registers of a device.
#[test]
fn s2ptw_denies_tables_in_device_memory() {
    let (read, stage2, class_tt, table_read) = (1 << 35, 1 << 39, 0b01 << 40, 1 << 44);
    for level in 0..=3 {
        for (attributes, device) in memory_types() {
            let mut nested = one_page(STAGE1, STAGE2);
            let slot = nested.slot1(PAGE, level);
            remap(&mut nested, slot, attributes);
            assert_eq!(nested.smmu.output(PAGE), OUTPUT, "{level} {attributes:#x}");
            protect_walks(&mut nested);
            if !device {
                assert_eq!(nested.smmu.output(PAGE), OUTPUT, "{level} {attributes:#x}");
                continue;
            }
            let denied = fault(EventType::Permission, Class::Tt, slot);
            assert_eq!(nested.smmu.fault(PAGE, READ), denied);
            assert_eq!(nested.smmu.fault(PAGE, WRITE), denied);
            let flags = read | stage2 | class_tt | table_read;
            assert_eq!(
                nested.smmu.record(PAGE),
                [0x5_0000_0013, flags, PAGE, slot & !0xfff]
            );
        }
    }
}

#[test]
fn s2ptw_denies_cds_in_device_memory() {
    for (attributes, device) in memory_types() {
        let mut nested = one_page(STAGE1, STAGE2);
        remap(&mut nested, CD, attributes);
        assert_eq!(nested.smmu.output(PAGE), OUTPUT, "{attributes:#x}");
        protect_walks(&mut nested);
        if !device {
            assert_eq!(nested.smmu.output(PAGE), OUTPUT, "{attributes:#x}");
            continue;
        }
        let denied = fault(EventType::Permission, Class::Cd, CD);
        assert_eq!(nested.smmu.fault(PAGE, WRITE), denied);
        assert_eq!(
            nested.smmu.record(PAGE),
            [0x5_0000_0013, (1 << 35) | (1 << 39), PAGE, CD]
        );
    }
}

/// The first level of a table of Context descriptors is fetched for them.
#[test]
fn s2ptw_denies_l1cds_in_device_memory() {
    let l1 = 0xa000_0000;
    let mut nested = one_page(STAGE1, STAGE2);
    nested.smmu.features = nested.smmu.features.with_ssidsize(10).with_cd2l(true);
    let two_levels = 0xf | l1 | (0b01 << 4) | (9 << 59);
    nested.smmu.patch_ste(0, |_| two_levels);
    nested.smmu.patch_ste(1, |_| 0b10);
    let place = nested.stage1.scatter.place(l1);
    nested.smmu.memory.store_words(place, &[CD | 1]);
    remap(&mut nested, l1, S2_DEVICE);
    assert_eq!(nested.smmu.output(PAGE), OUTPUT);
    protect_walks(&mut nested);
    let denied = fault(EventType::Permission, Class::Cd, l1);
    assert_eq!(nested.smmu.fault(PAGE, READ), denied);
}

/// A transaction may access Device memory: registers of another device, or the page
/// of an MSI controller.
#[test]
fn s2ptw_permits_data_in_device_memory() {
    let mut nested = one_page(STAGE1, S2_DEVICE);
    protect_walks(&mut nested);
    for wanted in [QUERY, READ, WRITE, Permissions::ALL] {
        assert_eq!(nested.smmu.entry(PAGE, wanted).stage2, Permissions::ALL);
    }
}

/// §3.26.2: permissions are checked first, and before them the Access flag.
#[test]
fn s2ptw_follows_access_flag_fault() {
    for (attributes, event) in [
        (S2_DEVICE & !AF, EventType::Access),
        (S2_DEVICE & !S2_READ, EventType::Permission),
        (STAGE2 & !S2_READ, EventType::Permission),
    ] {
        let mut nested = one_page(STAGE1, STAGE2);
        protect_walks(&mut nested);
        let slot = nested.slot1(PAGE, 3);
        remap(&mut nested, slot, attributes);
        assert_eq!(nested.smmu.fault(PAGE, READ), fault(event, Class::Tt, slot));
    }
}

#[test]
fn nested_stage2_fault_has_ipa_and_class() {
    for (attributes, event) in [
        (0, EventType::Access),
        (AF | S2_WRITE, EventType::Permission),
    ] {
        let number = event as u64;
        let (read, stage2) = (1 << 35, 1 << 39);

        let mut page = one_page(STAGE1, attributes);
        let address = PAGE | 0x987;
        let found = page.smmu.fault(address, READ);
        assert_eq!(found, fault(event, Class::In, IPA | 0x987));
        assert_eq!(
            page.smmu.record(address),
            [
                0x5_0000_0000 | number,
                read | stage2 | (0b10 << 40),
                address,
                IPA
            ]
        );

        for level in 0..=3 {
            let mut table = one_page(STAGE1, STAGE2);
            let slot = table.slot1(PAGE, level);
            let place = table.stage1.scatter.place(slot & !0xfff);
            table.map2(slot & !0xfff, 3, place, attributes);
            let of_table = table.smmu.fault(PAGE, WRITE);
            assert_eq!(of_table, fault(event, Class::Tt, slot), "{level}");
            let table_read = if number == 0x13 { 1 << 44 } else { 0 };
            assert_eq!(
                of_table.record(5, PAGE, false).0,
                [
                    0x5_0000_0000 | number,
                    stage2 | (0b01 << 40) | table_read,
                    PAGE,
                    slot & !0xfff
                ],
            );
        }

        let mut config = one_page(STAGE1, STAGE2);
        let place = config.stage1.scatter.place(CD);
        config.map2(CD, 3, place, attributes);
        assert_eq!(config.smmu.fault(PAGE, WRITE), fault(event, Class::Cd, CD));
        assert_eq!(
            config.smmu.record(PAGE),
            [0x5_0000_0000 | number, read | stage2, PAGE, CD]
        );
    }
}

#[test]
fn nested_unmapped_ipa_is_stage2_fault() {
    let unmapped = EventType::Translation;
    let mut page = one_page(STAGE1, STAGE2);
    page.map1(PAGE, 3, IPA + 0x1000, STAGE1);
    let found = page.smmu.fault(PAGE, READ);
    assert_eq!(found, fault(unmapped, Class::In, IPA + 0x1000));

    let mut config = one_page(STAGE1, STAGE2);
    let leaf = config.place2(CD, 3);
    config.smmu.memory.store_words(leaf, &[0]);
    assert_eq!(
        config.smmu.fault(PAGE, READ),
        fault(unmapped, Class::Cd, CD)
    );

    for level in 0..=3 {
        let mut table = one_page(STAGE1, STAGE2);
        let slot = table.slot1(PAGE, level);
        let place = table.place2(slot, 3);
        table.smmu.memory.store_words(place, &[0]);
        assert_eq!(
            table.smmu.fault(PAGE, READ),
            fault(unmapped, Class::Tt, slot)
        );
        // Without S2R no event is recorded, even if CD.R is 1.
        table.smmu.patch_ste(2, |word| word & !ste::S2R);
        let silent = Fault {
            recorded: false,
            ..fault(unmapped, Class::Tt, slot)
        };
        assert_eq!(table.smmu.fault(PAGE, READ), silent);
    }
}

#[test]
fn nested_ipa_beyond_stage2_is_translation_fault() {
    let mut nested = Nested::new(
        Tables::stage1(12, 48, TABLES1),
        Tables::new(12, 40, 1, TABLES2),
    );
    nested.map1(PAGE, 3, 1 << 40, STAGE1);
    let beyond = fault(EventType::Translation, Class::In, (1 << 40) | 5);
    assert_eq!(nested.smmu.fault(PAGE | 5, READ), beyond);
    // A table there, likewise.
    let place = nested.place1(PAGE, 2);
    nested.smmu.memory.store_words(place, &[(1 << 41) | 0b11]);
    let slot = (1 << 41) | (((PAGE >> 12) & 0x1ff) << 3);
    let table = fault(EventType::Translation, Class::Tt, slot);
    assert_eq!(nested.smmu.fault(PAGE, READ), table);
}

#[test]
fn nested_output_size_is_per_stage() {
    let mut nested = one_page(STAGE1, STAGE2);
    nested.map2(IPA, 3, 1 << 41, STAGE2);
    nested.smmu.entry(PAGE, READ);
    // S2PS of 40 bits
    nested
        .smmu
        .patch_ste(2, |word| word & !ste::s2ps(7) | ste::s2ps(2));
    let size2 = fault(EventType::AddressSize, Class::In, IPA);
    assert_eq!(nested.smmu.fault(PAGE, READ), size2);
    // IPS of 36 bits
    let place = nested.stage1.scatter.place(CD);
    let narrow = |word| word & !cd::ips(7) | cd::ips(1);
    nested.smmu.patch(place, narrow);
    let size1 = fault1(EventType::AddressSize);
    assert_eq!(nested.smmu.fault(PAGE, READ), size1);
}

#[test]
fn nested_walk_abort_has_pa_and_stage() {
    // Of stage 1's own descriptors, found through stage 2
    for level in 0..=3 {
        let mut nested = one_page(STAGE1, STAGE2);
        let place = nested.place1(PAGE, level);
        nested.smmu.memory.unreadable.push(place..place + 8);
        let expected = Fault {
            stage2: false,
            ..fault(EventType::WalkAbort, Class::Tt, place)
        };
        assert_eq!(nested.smmu.fault(PAGE, READ), expected, "{level}");
    }
    // Of stage 2's
    for level in 0..=3 {
        let mut nested = one_page(STAGE1, STAGE2);
        let cases = [
            (CD, Class::Cd),
            (nested.slot1(PAGE, 1), Class::Tt),
            (IPA, Class::In),
        ];
        // The one that is met first goes last.
        for (ipa, class) in cases.into_iter().rev() {
            let place = nested.place2(ipa, level);
            nested.smmu.memory.unreadable.push(place..place + 8);
            let found = nested.smmu.fault(PAGE, READ);
            // At the first levels all of them share one descriptor.
            let shared = nested.place2(CD, level) == place;
            let class = if shared { Class::Cd } else { class };
            let expected = fault(EventType::WalkAbort, class, place);
            assert_eq!(found, expected, "{level}");
            nested.smmu.patch_ste(2, |word| word & !ste::S2R);
            assert_eq!(nested.smmu.fault(PAGE, READ), expected, "{level}");
        }
    }
}

#[test]
fn nested_cd_fetch_fault_has_pa() {
    let mut nested = one_page(STAGE1, STAGE2);
    let place = nested.stage1.scatter.place(CD);
    nested.smmu.memory.unreadable.push(place + 56..place + 57);
    assert_eq!(nested.smmu.record(PAGE), [0x5_0000_0009, 0, 0, place]);
    assert_ne!(place, CD);
}

#[test]
fn nested_cd_page_may_be_read_only() {
    let mut nested = one_page(STAGE1, STAGE2);
    let mut pages = vec![CD];
    pages.extend((0..=3).map(|level| nested.slot1(PAGE, level) & !0xfff));
    for page in pages {
        let place = nested.stage1.scatter.place(page);
        nested.map2(page, 3, place, AF | S2_READ);
    }
    nested.smmu.entry(PAGE, Permissions::ALL);
}

#[test]
fn nested_cd_r_clear_silences_stage1_only() {
    let mut nested = one_page(STAGE1 | READ_ONLY, AF);
    let place = nested.stage1.scatter.place(CD);
    nested.smmu.patch(place, |word| word & !cd::R);
    let silent = Fault {
        recorded: false,
        ..fault1(EventType::Permission)
    };
    assert_eq!(nested.smmu.fault(PAGE, WRITE), silent);
    let recorded = fault(EventType::Permission, Class::In, IPA);
    assert_eq!(nested.smmu.fault(PAGE, READ), recorded);
}

#[test]
fn nested_tbi_applies_before_stage1() {
    let mut nested = one_page(STAGE1, STAGE2);
    let place = nested.stage1.scatter.place(CD);
    nested.smmu.patch(place, |word| word | cd::TBI0);
    assert_eq!(nested.smmu.output(PAGE | (0xa5 << 56)), OUTPUT);
}
