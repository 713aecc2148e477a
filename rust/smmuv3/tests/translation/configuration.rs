// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Outcomes of transactions that are decided before any translation.

use smmuv3::{
    cd::BadCd,
    event::{Class, EventType},
    ste::BadSte,
    translation::{
        translate, BadConfig, Caches, Entry, Fault, Outcome, Stages, StreamContext, Tag,
    },
    Features, StreamId,
};

use crate::common::{
    smmu::{
        cd, cd_words, ste, ste_stage1, Nested, Smmu, Uncached, BOTH, CD, QUERY, READ, SID, STE,
        STRTAB, TABLES1, TABLES2, VMID, WRITE,
    },
    tables::{Tables, READ_ONLY, STAGE1, STAGE2},
};

const PAGE: u64 = 0x7654_3000;
const OUTPUT: u64 = 0x5_c000_0000;
const SECOND: u64 = 0x9000_0000;

/// Words 0 and 1 for `S1CDMax` 5 and `S1DSS`.
const fn substreams(dss: u64) -> [u64; 2] {
    [0xb | CD | (5 << 59), dss]
}

fn one_page() -> Smmu {
    let mut tables = Tables::stage1(12, 48, TABLES1);
    let mut smmu = Smmu::stage1(&tables);
    tables.map(&mut smmu.memory, PAGE, 3, OUTPUT, STAGE1);
    smmu
}

fn nested() -> Nested {
    let stage1 = Tables::stage1(12, 48, TABLES1);
    let mut nested = Nested::new(stage1, Tables::new(12, 44, 0, TABLES2));
    nested.map1(PAGE, 3, 0x1_2345_6000, STAGE1);
    nested.map2(0x1_2345_6000, 3, OUTPUT, STAGE2);
    nested
}

/// The record of a configuration that is wrong has neither address nor flags.
const fn bare(number: u64) -> [u64; 4] {
    [0x5_0000_0000 | number, 0, 0, 0]
}

#[test]
fn disabled_smmu_translates_by_gbpa_alone() {
    let mut smmu = one_page();
    let features = smmu.features;
    smmu.registers.write(&features, 0x20, 0, 4);
    assert_eq!(smmu.walk(PAGE, WRITE), Outcome::Disabled);
    assert_eq!(smmu.walk((1 << 44) - 1, READ), Outcome::Disabled);
    assert_eq!(smmu.walk(1 << 44, READ), Outcome::Abort);
    smmu.registers.write(&features, 0x44, 0x8010_0000, 4);
    assert_eq!(smmu.walk(PAGE, WRITE), Outcome::Abort);
    assert_eq!(smmu.memory.reads, 0);
}

#[test]
fn disabled_smmu_bypasses_caches() {
    let mut smmu = one_page();
    smmu.cached(PAGE, READ);
    let features = smmu.features;
    smmu.registers.write(&features, 0x20, 0, 4);
    assert_eq!(smmu.cached(PAGE, READ), Outcome::Disabled);
}

#[test]
fn ste_abort_is_silent_and_bypass_passes() {
    let mut smmu = one_page();
    for reserved in 0..4_u64 {
        smmu.memory.store_words(STE, &[1 | (reserved << 1)]);
        assert_eq!(smmu.walk(PAGE, READ), Outcome::Abort);
    }
    smmu.memory.store_words(STE, &[0x9]);
    assert_eq!(smmu.walk(PAGE, READ), Outcome::Bypass);
}

#[test]
fn bypass_above_oas_is_addr_size_fault() {
    let mut smmu = one_page();
    // Without substreams of its own the entry bypasses; with them stage 1 does.
    for (features, words) in [
        (BOTH, [0x9, 0]),
        (BOTH.with_ssidsize(5), substreams(0b01)),
        (Features::arm_smmuv3(), [0x9, 0]),
    ] {
        smmu.features = features;
        smmu.memory.store_words(STE, &words);
        assert_eq!(smmu.walk((1 << 44) - 1, WRITE), Outcome::Bypass);
        for bit in 44..64 {
            let address = PAGE | (1 << bit);
            let expected = Fault {
                event: EventType::AddressSize,
                address: 0,
                stage2: false,
                class: Class::In,
                recorded: true,
            };
            assert_eq!(smmu.fault(address, WRITE), expected);
            let record = [0x5_0000_0011, (1 << 35) | (0b10 << 40), address, 0];
            assert_eq!(smmu.record(address), record);
            // Nor does a cached configuration of the stream make it pass.
            smmu.store.clear();
            assert_eq!(smmu.cached(PAGE, WRITE), Outcome::Bypass);
            assert_eq!(smmu.cached(address, WRITE), Outcome::Fault(expected));
            let hit = smmu.store.hit(SID, address, WRITE);
            assert!(matches!(hit, None | Some(Outcome::Fault(_))), "{hit:?}");
        }
    }
}

#[test]
fn bad_stream_id_recorded_with_recinvsid() {
    let mut smmu = one_page();
    let features = smmu.features;
    let Smmu {
        registers, memory, ..
    } = &mut smmu;
    let sid = 16;
    let tables = registers.stream_table();
    let outcome = translate(&tables, &features, memory, &mut Uncached, sid, PAGE, READ);
    let Outcome::Fault(fault) = outcome else {
        panic!("{outcome:?}");
    };
    let record = fault.record(sid, PAGE, true).0;
    assert_eq!(record, [0x10_0000_0002, 0, 0, 0]);
    assert!(fault.is_recorded(registers));
    // Out of reset it is not, and with RECINVSID = 0 neither.
    assert!(!fault.is_recorded(&smmuv3::Registers::reset(&features)));
    registers.cr2 = !(1 << 1);
    assert!(!fault.is_recorded(registers));
    // Others are.
    memory.store_words(STE, &[0]);
    assert!(smmu.fault(PAGE, READ).is_recorded(&smmu.registers));
}

#[test]
fn ste_fetch_fault_has_address() {
    let mut smmu = one_page();
    smmu.memory.unreadable.push(STE + 63..STE + 64);
    assert_eq!(smmu.record(PAGE), [0x5_0000_0003, 0, 0, STE]);
}

#[test]
fn l1std_fetch_fault_has_address() {
    let mut smmu = one_page();
    smmu.registers.strtab_base_cfg = (1 << 16) | (6 << 6) | 4;
    smmu.memory.store_words(STRTAB, &[SECOND | 7]);
    smmu.memory
        .store_words(SECOND + 64 * u64::from(SID), &ste_stage1());
    smmu.entry(PAGE, READ);
    smmu.memory.unreadable.push(STRTAB..STRTAB + 1);
    assert_eq!(smmu.record(PAGE), [0x5_0000_0003, 0, 0, STRTAB]);
    smmu.memory.unreadable.clear();
    smmu.memory.store_words(STRTAB, &[0]);
    assert_eq!(smmu.record(PAGE), bare(0x02));
}

#[test]
fn bad_ste_precedes_cd_faults() {
    let mut smmu = one_page();
    // The Context descriptor would abort.
    smmu.memory.unreadable.push(CD..CD + 1);
    for words in [[0, 0], [0xb | (1 << 44), 0], [0xb | CD, 1 << 27]] {
        smmu.memory.store_words(STE, &words);
        assert_eq!(smmu.record(PAGE), bare(0x04));
    }
}

#[test]
fn cd_fetch_fault_has_address() {
    let mut smmu = one_page();
    smmu.memory.unreadable.push(CD + 8..CD + 9);
    assert_eq!(smmu.record(PAGE), [0x5_0000_0009, 0, 0, CD]);
    // The event is recorded for every possible value of the Context descriptor.
    smmu.memory.store_words(CD, &[0]);
    assert!(smmu.fault(PAGE, READ).recorded);
}

#[test]
fn bad_cd_precedes_walk_faults() {
    let mut smmu = one_page();
    smmu.memory.unreadable.push(TABLES1..TABLES1 + 1);
    smmu.patch_cd(0, |word| word & !cd::V & !cd::R);
    assert_eq!(smmu.record(PAGE), bare(0x0a));
    assert!(smmu.fault(PAGE, READ).is_recorded(&smmu.registers));
}

#[test]
fn ttb_beyond_oas_is_bad_cd() {
    let mut smmu = one_page();
    // IPS of 36 bits
    smmu.patch_cd(0, |word| word & !cd::ips(7) | cd::ips(1));
    smmu.patch_cd(1, |_| (1 << 36) | TABLES1);
    assert_eq!(smmu.record(PAGE), bare(0x0a));
    smmu.patch_cd(0, |word| word | cd::EPD0);
    assert_eq!(smmu.fault(PAGE, READ).event, EventType::Translation);
}

#[test]
fn cd_endianness_checked_only_with_walks() {
    let tables = Tables::stage1(12, 48, TABLES1);
    for (halves, legal) in [
        ([Some(&tables), Some(&tables)], false),
        ([Some(&tables), None], false),
        ([None, Some(&tables)], false),
        ([None, None], true),
    ] {
        let mut smmu = Smmu::stage1(&tables);
        smmu.memory.store_words(CD, &cd_words(halves));
        smmu.patch_cd(0, |word| word | cd::ENDI);
        let expected = if legal { 0x10 } else { 0x0a };
        assert_eq!(smmu.record(PAGE)[0], bare(expected)[0]);
    }
}

#[test]
fn s1dss_terminate_refuses_missing_substream() {
    let mut smmu = one_page();
    smmu.features = BOTH.with_ssidsize(5);
    for dss in [0b00, 0b11] {
        smmu.memory.store_words(STE, &substreams(dss));
        assert_eq!(smmu.record(PAGE), bare(0x06));
    }
    smmu.memory.store_words(STE, &substreams(0b10));
    assert_eq!(smmu.output(PAGE), OUTPUT);
    smmu.memory.store_words(STE, &substreams(0b01));
    assert_eq!(smmu.walk(PAGE, READ), Outcome::Bypass);
    // One Context descriptor is for them all.
    smmu.memory.store_words(STE, &[0xb | CD, 0b00]);
    assert_eq!(smmu.output(PAGE), OUTPUT);
}

#[test]
fn l1cd_fetch_fault_has_address() {
    let mut smmu = one_page();
    smmu.features = BOTH.with_ssidsize(10).with_cd2l(true);
    let l1 = 0xa000_0000;
    let two_level = [0xb | l1 | (0b01 << 4) | (9 << 59), 0b10];
    smmu.memory.store_words(STE, &two_level);
    assert_eq!(smmu.record(PAGE), bare(0x08));
    smmu.memory.store_words(l1, &[CD | 1]);
    assert_eq!(smmu.output(PAGE), OUTPUT);
    smmu.memory.unreadable.push(l1..l1 + 8);
    assert_eq!(smmu.record(PAGE), [0x5_0000_0009, 0, 0, l1]);
}

#[test]
fn s1dss_bypass_skips_nested_stage1() {
    let mut nested = nested();
    nested.smmu.features = BOTH.with_ssidsize(5);
    nested.smmu.patch_ste(0, |word| word | (5 << 59));
    assert_eq!(nested.smmu.record(PAGE), bare(0x06));
    nested.smmu.patch_ste(1, |_| 0b01);
    nested.map2(PAGE, 3, OUTPUT + 0x1000, STAGE2);
    let outcome = nested.smmu.walk(PAGE, READ);
    let Outcome::Translated { entry, stages: 2 } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(entry.output, OUTPUT + 0x1000);
    // There is no top byte to ignore, and no Context descriptor is read.
    let beyond = nested.smmu.fault(PAGE | (1 << 63), READ);
    assert_eq!(
        (beyond.event, beyond.stage2),
        (EventType::AddressSize, false)
    );
    nested.smmu.patch_ste(1, |_| 0b10);
    assert_eq!(nested.smmu.output(PAGE), OUTPUT);
}

#[test]
fn nested_cd_and_l1cd_are_translated() {
    let mut nested = nested();
    nested.smmu.features = BOTH.with_ssidsize(10).with_cd2l(true);
    let l1 = 0xa000_0000;
    nested
        .smmu
        .patch_ste(0, |_| 0xf | l1 | (0b01 << 4) | (9 << 59));
    nested.smmu.patch_ste(1, |_| 0b10);
    let unmapped = nested.smmu.fault(PAGE, READ);
    let expected = Fault {
        event: EventType::Translation,
        address: l1,
        stage2: true,
        class: Class::Cd,
        recorded: true,
    };
    assert_eq!(unmapped, expected);
    let place = nested.stage1.scatter.place(l1);
    nested.back(l1, 8);
    nested.smmu.memory.store_words(place, &[CD | 1]);
    assert_eq!(nested.smmu.output(PAGE), OUTPUT);
    nested.smmu.memory.unreadable.push(place..place + 8);
    assert_eq!(nested.smmu.record(PAGE), [0x5_0000_0009, 0, 0, place]);
    // An invalid Context descriptor is neither a fault of stage 2 nor of the fetch.
    nested.smmu.memory.unreadable.clear();
    nested.smmu.memory.store_words(place, &[0]);
    assert_eq!(nested.smmu.record(PAGE), bare(0x08));
}

#[test]
fn context_has_asid_and_vmid() {
    let context = |smmu: &mut Smmu, address| {
        smmu.cached(address, QUERY);
        match smmu.store.configuration(SID) {
            Some(StreamContext::Translate(context)) => *context,
            other => panic!("{other:?}"),
        }
    };
    let stage1 = context(&mut one_page(), PAGE);
    assert!(matches!(stage1.stages, Stages::Stage1(_)));
    assert_eq!((stage1.tag().vmid, stage1.tag().asid), (VMID, Some(0x1234)));
    let both = context(&mut nested().smmu, PAGE);
    assert!(matches!(both.stages, Stages::Nested(..)));
    assert_eq!(both.tag(), stage1.tag());
    let mut tables = Tables::new(14, 40, 2, TABLES2);
    let mut smmu = Smmu::stage2(&tables);
    tables.map(&mut smmu.memory, PAGE, 3, OUTPUT, STAGE2);
    let stage2 = context(&mut smmu, PAGE);
    assert!(matches!(stage2.stages, Stages::Stage2(_)));
    assert_eq!((stage2.tag().vmid, stage2.tag().asid), (VMID, None));
    assert_eq!(stage2.granule_shift(PAGE), 14);
    // An SMMU without stage 2 has one VMID.
    let mut alone = one_page();
    alone.features = Features::arm_smmuv3();
    assert_eq!(context(&mut alone, PAGE).tag().vmid, 0);
}

#[test]
fn context_granule_is_per_half() {
    let lower = Tables::stage1(14, 40, TABLES1);
    let upper = Tables::stage1(16, 40, TABLES1);
    let mut smmu = Smmu::stage1(&lower);
    smmu.memory
        .store_words(CD, &cd_words([Some(&lower), Some(&upper)]));
    smmu.cached(PAGE, QUERY);
    let Some(StreamContext::Translate(context)) = smmu.store.configuration(SID) else {
        panic!("no context");
    };
    assert_eq!(
        [0, !0].map(|address| context.granule_shift(address)),
        [14, 16]
    );
}

#[test]
fn stage2_ste_checked_with_stage1_bypass() {
    let mut nested = nested();
    nested.smmu.features = BOTH.with_ssidsize(5);
    nested.smmu.patch_ste(2, |word| word & !ste::S2AA64);
    assert_eq!(nested.smmu.record(PAGE), bare(0x04));
    nested.smmu.patch_ste(0, |word| word | (5 << 59));
    nested.smmu.patch_ste(1, |_| 0b01);
    assert_eq!(nested.smmu.record(PAGE), bare(0x04));
}

#[test]
fn stage1_write_fault_is_no_config_fault() {
    let mut nested = nested();
    nested.map1(PAGE, 3, 0x1_2345_6000, STAGE1 | READ_ONLY);
    let found = nested.smmu.fault(PAGE, WRITE);
    assert_eq!(
        (found.event, found.class),
        (EventType::Permission, Class::In)
    );
}

/// Caches nothing, and keeps the reasons why configurations are ILLEGAL.
#[derive(Default)]
struct Reasons(Vec<(StreamId, BadConfig)>);

impl Caches for Reasons {
    fn context(&mut self, _: StreamId) -> Option<StreamContext> {
        None
    }

    fn insert_context(&mut self, _: StreamId, _: &StreamContext) {}

    fn lookup(&mut self, _: Tag, _: u64) -> Option<Entry> {
        None
    }

    fn insert(&mut self, _: Tag, _: u64, _: &Entry) {}

    fn note_split(&mut self, _: u8) {}

    fn rejected(&mut self, sid: StreamId, reason: BadConfig) {
        self.0.push((sid, reason));
    }
}

/// Why the configuration of a stream is ILLEGAL, in the words of the specification.
fn reasons(smmu: &mut Smmu) -> Vec<(StreamId, BadConfig)> {
    let mut reasons = Reasons::default();
    let outcome = translate(
        &smmu.registers.stream_table(),
        &smmu.features,
        &mut smmu.memory,
        &mut reasons,
        SID,
        PAGE,
        READ,
    );
    let is_bad = |event| matches!(event, EventType::BadSte | EventType::BadCd);
    let is_reported = matches!(outcome, Outcome::Fault(fault) if is_bad(fault.event));
    assert_eq!(is_reported, !reasons.0.is_empty());
    reasons.0
}

#[test]
fn bad_configuration_reports_reason() {
    let mut smmu = one_page();
    assert_eq!(reasons(&mut smmu), []);
    smmu.patch_cd(0, |word| word & !cd::AA64);
    assert_eq!(reasons(&mut smmu), [(SID, BadConfig::Cd(BadCd::Format))]);
    smmu.patch_ste(0, |word| word & !1);
    assert_eq!(reasons(&mut smmu), [(SID, BadConfig::Ste(BadSte::Invalid))]);

    let mut both = nested();
    let place = both.stage1.scatter.place(CD);
    both.smmu.patch(place, |word| word & !cd::V);
    let found = reasons(&mut both.smmu);
    assert_eq!(found, [(SID, BadConfig::Cd(BadCd::Invalid))]);
    assert_eq!(found[0].1.to_string(), "CD.V is 0");
    let stage2 = BadConfig::Ste(BadSte::Stage2Granule).to_string();
    assert_eq!(stage2, "STE.S2TG selects a granule that IDR5 does not have");
}
