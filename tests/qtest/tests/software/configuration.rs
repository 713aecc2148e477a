// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Illegal STEs and CDs, and the records of them.

use smmuv3_qtest::{smmu::reg, Access};

use crate::{
    bench::{
        install_stage2, machine, Bench, Nested, Stage1, ACCESSES, CONTEXT, DATA, IOVA, IPA_OFFSET,
        NOWHERE,
    },
    entries::{
        cd,
        ste::{self, *},
        Entry, Field,
    },
    record::Kind,
    tables::{Granule, Tables, DEFINED_OUTPUT_SIZES},
};

/// A change of one field that makes a legal entry illegal.
type Change = (&'static str, Field, u64);

/// Checks that the device's transactions are aborted with a configuration
/// error.
#[track_caller]
fn fails(bench: &Bench<'_>, what: &str, kind: Kind) {
    for access in ACCESSES {
        bench.faults_when(what, access, IOVA, bench.event(kind));
    }
}

#[track_caller]
fn bad_entries(bench: &Bench<'_>, good: Entry, changes: &[Change]) {
    for (what, field, value) in changes {
        bench.install(good.with(*field, *value));
        fails(bench, what, Kind::BadSte);
    }
    bench.install(good);
    bench.passes(IOVA, DATA);
}

/// Changes that make a stage-2 STE illegal, for 4 KiB tables of 32 bits that
/// start at level 1. The output size is 44 bits.
const STAGE_2: &[Change] = &[
    ("V", V, 0),
    ("reserved granule", S2_TG, 3),
    ("input too small", S2_T0SZ, 40),
    ("input too small", S2_T0SZ, 63),
    ("input too large", S2_T0SZ, 19),
    ("input too large", S2_T0SZ, 0),
    ("too large for 16 tables from level 1", S2_T0SZ, 20),
    ("too small for level 1", S2_T0SZ, 34),
    ("reserved start", S2_SL0, 3),
    ("nothing for level 0 to do", S2_SL0, 2),
    ("big endian", S2_ENDI, 1),
    ("stall", S2_S, 1),
    ("hardware's access flag", S2_HA, 1),
    ("hardware's dirty state", S2_HD, 1),
    ("table beyond the output", S2_TTB, 1 << (44 - 4)),
];

#[test]
fn illegal_stage2_ste_records_c_bad_ste() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    let tables = install_stage2(&bench, Granule::K4, 32);
    bad_entries(&bench, ste::stage2(&tables), STAGE_2);
}

#[test]
fn illegal_nested_ste_records_c_bad_ste() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let stage2 = Tables::stage2(&bench, Granule::K4, 32);
    stage2.map_block(CONTEXT & !0x1f_ffff, CONTEXT & !0x1f_ffff, 2);
    let stage1 = Tables::stage1(&bench, Granule::K4, 25);
    stage2.map_block(stage1.base() & !0x1f_ffff, stage1.base() & !0x1f_ffff, 2);
    stage2.map_block(DATA & !0x1f_ffff, DATA & !0x1f_ffff, 2);
    stage1.map(IOVA, DATA);
    bench.set_cd(cd::lower(&stage1));
    bad_entries(&bench, ste::nested(CONTEXT, &stage2), STAGE_2);
}

/// The C device aborts QEMU.
#[test]
fn aarch32_stage2_records_c_bad_ste() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let tables = install_stage2(&bench, Granule::K4, 32);
    let aarch32 = [("AArch32", S2_AA64, 0)];
    bad_entries(&bench, ste::stage2(&tables), &aarch32);
    bench.install(ste::nested(CONTEXT, &tables).with(S2_AA64, 0));
    fails(&bench, "nested", Kind::BadSte);
}

#[test]
fn s2ttb_beyond_s2ps_records_c_bad_ste() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    let tables = install_stage2(&bench, Granule::K4, 32);
    let good = ste::stage2(&tables);
    for &(s2ps, bits) in DEFINED_OUTPUT_SIZES {
        bench.install(good.with(S2_PS, s2ps).with_address(S2_TTB, 1 << bits));
        fails(&bench, &format!("S2PS {s2ps}"), Kind::BadSte);
        bench.install(good.with(S2_PS, s2ps));
        bench.passes(IOVA, DATA);
    }
}

#[test]
fn illegal_stage1_ste_records_c_bad_ste() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    let changes = [
        ("V", V, 0),
        ("stall", S1_STALLD, 1),
        ("context beyond the output", S1_CONTEXT_PTR, 1 << (44 - 6)),
        ("context beyond the output", S1_CONTEXT_PTR, 1 << (51 - 6)),
    ];
    bad_entries(&bench, ste::stage1(CONTEXT), &changes);
}

/// `S1CDMax` is ignored without substreams.
#[test]
fn s1cdmax_is_ignored_without_substreams() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    assert_eq!((bench.smmu.read(reg::IDR1) >> 6) & 0x1f, 0, "IDR1.SSIDSIZE");
    Stage1::new(&bench, Granule::K4, 39);
    bench.install(ste::stage1(CONTEXT).with(S1_CD_MAX, 5));
    bench.passes(IOVA, DATA);
}

#[test]
fn ste_with_missing_stage_records_c_bad_ste() {
    for (stage, configs) in [("1", [0b110, 0b111]), ("2", [0b101, 0b111])] {
        let machine = machine(stage).start();
        let bench = Bench::new(&machine);
        let tables = Tables::stage2(&bench, Granule::K4, 39);
        for config in configs {
            bench.install(ste::nested(CONTEXT, &tables).with(CONFIG, config));
            fails(&bench, stage, Kind::BadSte);
        }
        bench.install(ste::bypass());
        bench.passes(DATA, DATA);
    }
}

#[test]
fn unreadable_cd_records_f_cd_fetch_with_address() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for address in [NOWHERE, NOWHERE + 0x40, (1 << 44) - 0x40] {
        bench.install(ste::stage1(address));
        let record = bench.event(Kind::CdFetch).fetching(address);
        for access in ACCESSES {
            bench.faults(access, IOVA, record);
        }
    }
}

#[test]
fn illegal_cd_records_c_bad_cd() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let high = Tables::stage1(&bench, Granule::K4, 39);
    let good = cd::and_upper(stage1.context, &high);
    let changes: [Change; 18] = [
        ("V", cd::V, 0),
        ("AArch32", cd::AA64, 0),
        ("terminate without abort", cd::A, 0),
        ("stall", cd::S, 1),
        ("hardware's access flag", cd::HA, 1),
        ("hardware's dirty state", cd::HD, 1),
        ("big endian", cd::ENDI, 1),
        ("lower half too large", cd::T0SZ, 15),
        ("lower half too large", cd::T0SZ, 0),
        ("lower half too small", cd::T0SZ, 40),
        ("lower half too small", cd::T0SZ, 63),
        ("lower granule reserved", cd::TG0, 3),
        ("lower table beyond the output", cd::TTB0, 1 << (44 - 4)),
        ("upper half too large", cd::T1SZ, 15),
        ("upper half too small", cd::T1SZ, 40),
        ("upper granule reserved", cd::TG1, 0),
        ("upper table beyond the output", cd::TTB1, 1 << (44 - 4)),
        ("upper table beyond the output", cd::TTB1, 1 << (47 - 4)),
    ];
    for (what, field, value) in changes {
        bench.install_stage1(good.with(field, value));
        fails(&bench, what, Kind::BadCd);
    }
    bench.install_stage1(good);
    bench.passes(IOVA, DATA);
}

#[test]
fn ttb_beyond_ips_records_c_bad_cd() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    for &(ips, bits) in DEFINED_OUTPUT_SIZES {
        let context = stage1.context.with(cd::IPS, ips);
        bench.install_stage1(context.with_address(cd::TTB0, 1 << bits));
        fails(&bench, &format!("IPS {ips}"), Kind::BadCd);
        bench.install_stage1(context);
        bench.passes(IOVA, DATA);
    }
}

/// Big endian tables are no error if no half is walked.
#[test]
fn cd_with_both_epd_records_f_translation() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let context = stage1.context.with(cd::EPD0, 1).with(cd::ENDI, 1);
    bench.install_stage1(context);
    for access in ACCESSES {
        bench.faults(access, IOVA, bench.fault1(Kind::Translation, access, IOVA));
    }
}

#[test]
fn illegal_nested_cd_records_c_bad_cd() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    bench.passes(IOVA, DATA);
    for (what, field, value) in [("V", cd::V, 0), ("TG0", cd::TG0, 3), ("A", cd::A, 0)] {
        bench.install_nested(nested.context.with(field, value), &nested.stage2);
        fails(&bench, what, Kind::BadCd);
    }
}

/// `CD.R` does not suppress configuration errors.
#[test]
fn config_error_is_recorded_with_cd_r_clear() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    bench.install_stage1(stage1.context.with(cd::R, 0).with(cd::TG0, 3));
    fails(&bench, "R = 0", Kind::BadCd);
}

#[test]
fn fixed_ste_translates_after_c_bad_ste() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    for _ in 0..3 {
        bench.install(Entry::default());
        bench.faults(Access::Write, IOVA, bench.event(Kind::BadSte));
        bench.install(ste::stage1(CONTEXT));
        bench.passes(IOVA, DATA);
    }
}

/// Memory attributes, and fields of features that the SMMU lacks: EL2, ATS,
/// permission overrides.
#[test]
fn ignored_ste_and_cd_fields_have_no_effect() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let good = ste::nested(CONTEXT + IPA_OFFSET, &nested.stage2);
    for (field, value) in [
        (S1_FMT, 3),
        (S1_DSS, 3),
        (S1_CIR_COR_CSH, 0x3f),
        (EATS, 3),
        (EATS, 1),
        (STRW, 1),
        (STRW, 2),
        (STRW, 3),
        (MEMORY, 0x1ff),
        (SHCFG, 3),
        (PRIVCFG, 2),
        (PRIVCFG, 3),
        (INSTCFG, 3),
        (S2_CACHING, 0x3f),
    ] {
        bench.install(good.with(field, value));
        bench.passes(IOVA, DATA);
        let record = bench.fault1(Kind::Translation, Access::Write, IOVA + 0x1000);
        bench.faults_when(format!("{field:?}"), Access::Write, IOVA + 0x1000, record);
    }
    for (field, value) in [
        (cd::CACHING0, 0x3f),
        (cd::WXN_UWXN, 3),
        (cd::ASET, 1),
        (cd::MAIR0, 0xffff_ffff),
        (cd::PAN, 1),
        (cd::E0PD0, 1),
    ] {
        bench.install_nested(nested.context.with(field, value), &nested.stage2);
        bench.passes(IOVA, DATA);
    }
}
