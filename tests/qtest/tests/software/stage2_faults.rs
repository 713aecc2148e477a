// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Faults of stage 2 alone and their records.

use smmuv3_qtest::Access;

use crate::{
    bench::{install_stage2, machine, Bench, ACCESSES, DATA, IOVA, NOWHERE},
    entries::ste,
    record::{Class, Kind, Record},
    tables::{
        bits::{AF, BLOCK, PAGE, S2_READ, S2_WRITE, STAGE_2, TABLE},
        Granule, Tables, OUTPUT_SIZES,
    },
};

/// Offset of an access in its page.
const INSIDE: u64 = 0x344;
const ADDRESS: u64 = IOVA + INSIDE;

/// Checks that reads and writes of [`ADDRESS`] give this kind of fault.
#[track_caller]
fn fails(bench: &Bench<'_>, what: &str, kind: Kind) {
    for access in ACCESSES {
        let record = fault(bench, kind, access, ADDRESS);
        bench.faults_when(what, access, ADDRESS, record);
    }
}

/// Returns the record, in which the input address is the IPA.
fn fault(bench: &Bench<'_>, kind: Kind, access: Access, ipa: u64) -> Record {
    bench.fault2(kind, access, ipa, Class::Input, ipa)
}

/// Granule, input size, first level.
const SIZES: [(Granule, u32, u32); 9] = [
    (Granule::K4, 30, 2),
    (Granule::K4, 34, 2),
    (Granule::K4, 42, 1),
    (Granule::K4, 44, 0),
    (Granule::K16, 29, 3),
    (Granule::K16, 36, 2),
    (Granule::K16, 44, 1),
    (Granule::K64, 33, 3),
    (Granule::K64, 44, 2),
];

/// Runs `test` for each level of each granule and size, with [`IOVA`] mapped.
fn at_every_level(test: impl Fn(&Bench<'_>, &Tables<'_>, u32)) {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    for (granule, bits, start) in SIZES {
        for level in start..=3 {
            bench.free_tables();
            let tables = Tables::stage2_from(&bench, granule, bits, start);
            tables.map(IOVA, DATA);
            bench.install(ste::stage2(&tables));
            bench.passes(ADDRESS, DATA + INSIDE);
            test(&bench, &tables, level);
        }
    }
}

#[test]
fn stage2_invalid_descriptor_records_f_translation() {
    at_every_level(|bench, tables, level| {
        for descriptor in [0, 0b10, !1] {
            tables.set(IOVA, level, descriptor);
            bench.invalidate();
            fails(bench, &format!("level {level}"), Kind::Translation);
        }
    });
}

#[test]
fn stage2_reserved_block_level_is_translation_fault() {
    at_every_level(|bench, tables, level| {
        if !tables.granule.blocks().contains(&level) {
            let shift = tables.granule.shift(level);
            let output = DATA >> shift << shift;
            tables.set(IOVA, level, output | STAGE_2 | BLOCK);
            bench.invalidate();
            fails(bench, &format!("level {level}"), Kind::Translation);
        }
    });
}

#[test]
fn stage2_unreadable_descriptor_records_address() {
    at_every_level(|bench, tables, level| {
        let slot = tables.descriptor(IOVA, level);
        let offset = if level == tables.start {
            let entry = ste::stage2(tables).with_address(ste::S2_TTB, NOWHERE);
            bench.install(entry);
            slot - tables.base()
        } else {
            tables.set(IOVA, level - 1, NOWHERE | TABLE);
            bench.invalidate();
            slot % tables.granule.size()
        };
        for access in ACCESSES {
            let record = bench.event(Kind::WalkAbort).of(access, ADDRESS);
            let record = record.stage2(Class::Input).fetching(NOWHERE + offset);
            bench.faults_when(format!("level {level}"), access, ADDRESS, record);
        }
    });
}

#[test]
fn stage2_address_beyond_tables_is_f_translation() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    for (granule, bits, start) in SIZES {
        bench.free_tables();
        let tables = Tables::stage2_from(&bench, granule, bits, start);
        tables.map(IOVA, DATA);
        bench.install(ste::stage2(&tables));
        bench.passes(IOVA, DATA);
        for bit in bits..44 {
            let ipa = IOVA | (1 << bit);
            for access in ACCESSES {
                bench.faults(access, ipa, fault(&bench, Kind::Translation, access, ipa));
            }
        }
    }
}

/// Without stage 1 the input is an IPA of 44 bits; a larger address is a
/// stage-1 fault (§3.4).
#[test]
fn ipa_above_ias_is_stage1_f_addr_size() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    for bits in [44, 32] {
        let tables = Tables::stage2(&bench, Granule::K4, bits);
        tables.map(IOVA, DATA);
        bench.install(ste::stage2(&tables));
        bench.passes(IOVA, DATA);
        for ipa in [1 << 44, IOVA | (1 << 48), IOVA | (1 << 63)] {
            for access in ACCESSES {
                bench.faults(access, ipa, bench.fault1(Kind::AddressSize, access, ipa));
            }
        }
    }
}

#[test]
fn stage2_output_beyond_s2ps_is_f_addr_size() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    let tables = install_stage2(&bench, Granule::K4, 39);
    for (s2ps, bits) in OUTPUT_SIZES {
        bench.install(ste::stage2(&tables).with(ste::S2_PS, s2ps));
        for level in [3, 2, 1] {
            let kind = if level == 3 { PAGE } else { BLOCK };
            for output in [1 << bits, 1 << 47] {
                let good = tables.get(IOVA, level);
                tables.set(IOVA, level, output | STAGE_2 | kind);
                bench.invalidate();
                fails(
                    &bench,
                    &format!("S2PS {s2ps}, level {level}"),
                    Kind::AddressSize,
                );
                tables.set(IOVA, level, good);
            }
        }
        bench.invalidate();
        bench.passes(ADDRESS, DATA + INSIDE);
    }
}

#[test]
fn stage2_next_table_beyond_s2ps_is_f_addr_size() {
    at_every_level(|bench, tables, level| {
        if level < 3 {
            tables.set(IOVA, level, (1 << 44) | TABLE);
            bench.invalidate();
            fails(bench, &format!("level {level}"), Kind::AddressSize);
        }
    });
}

#[test]
fn stage2_clear_af_is_f_access() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    let tables = install_stage2(&bench, Granule::K4, 39);
    for level in [3, 2, 1] {
        let shift = Granule::K4.shift(level);
        let output = DATA >> shift << shift;
        tables.map_with(IOVA, output, level, S2_READ | S2_WRITE);
        bench.install(ste::stage2(&tables));
        fails(&bench, &format!("level {level}"), Kind::AccessFlag);
        bench.install(ste::stage2(&tables).with(ste::S2_AFFD, 1));
        bench.passes(ADDRESS, output + ADDRESS % (1 << shift));
    }
}

#[test]
fn s2ap_controls_dma() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let tables = install_stage2(&bench, granule, 39);
        for (attributes, read, write) in [
            (0, false, false),
            (S2_READ, true, false),
            (S2_WRITE, false, true),
            (S2_READ | S2_WRITE, true, true),
        ] {
            tables.map_with(IOVA, DATA, 3, AF | attributes);
            bench.invalidate();
            // the cached entry must not permit more
            for _ in 0..2 {
                if read {
                    bench.reads(ADDRESS);
                } else {
                    let access = Access::Read;
                    let record = fault(&bench, Kind::Permission, access, ADDRESS);
                    bench.faults(access, ADDRESS, record);
                }
                if write {
                    bench.writes(ADDRESS, DATA + INSIDE);
                } else {
                    let access = Access::Write;
                    let record = fault(&bench, Kind::Permission, access, ADDRESS);
                    bench.faults(access, ADDRESS, record);
                }
            }
        }
    }
}

#[test]
fn stage2_first_of_two_faults_is_recorded() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    let tables = install_stage2(&bench, Granule::K4, 39);
    let too_far = 1 << 44;
    for (descriptor, kind) in [
        (too_far, Kind::Translation),
        (too_far | PAGE, Kind::AddressSize),
        (DATA | PAGE, Kind::AccessFlag),
        (DATA | AF | PAGE, Kind::Permission),
    ] {
        tables.set(IOVA, 3, descriptor);
        bench.invalidate();
        fails(&bench, "several", kind);
    }
}

#[test]
fn ste_s2r_clear_records_no_fault() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    let tables = install_stage2(&bench, Granule::K4, 39);
    let silent = ste::stage2(&tables).with(ste::S2_R, 0);
    let cases = [
        (0, Kind::Translation),
        ((1 << 44) | STAGE_2 | PAGE, Kind::AddressSize),
        (DATA | PAGE, Kind::AccessFlag),
        (DATA | AF | PAGE, Kind::Permission),
    ];
    for (descriptor, kind) in cases {
        tables.set(IOVA, 3, descriptor);
        bench.install(silent);
        for access in ACCESSES {
            bench.aborts(access, ADDRESS);
        }
        bench.install(ste::stage2(&tables));
        fails(&bench, "recorded", kind);
    }
    // other faults are recorded
    tables.set(IOVA, 2, NOWHERE | TABLE);
    bench.install(silent);
    assert_eq!(bench.refused(Access::Write, ADDRESS).len(), 1);
    bench.install(silent.with(ste::S2_TG, 3));
    bench.faults(Access::Write, ADDRESS, bench.event(Kind::BadSte));
}
