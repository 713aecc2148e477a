// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! `CR0.SMMUEN` and `GBPA`: the attachments of devices while the SMMU is
//! disabled, and when it is enabled.

use smmuv3_qtest::smmu::{reg, CMDQEN, EVENTQEN, SMMUEN};

use crate::{
    bench::{sid, ste, Bench, Guest, GBPA_ABORT, NOWHERE, TABLE, TABLE_LOG2},
    journal::On,
};

/// Returns STEs, and the attachment that each selects.
fn entries() -> [([u64; 2], On); 5] {
    let stage1 = ste::stage1(0x4100_0000);
    [
        (ste::INVALID, On::Abort),
        (ste::ABORT, On::Abort),
        (ste::BYPASS, On::Bypass),
        (stage1, On::Nested(stage1)),
        (ste::STAGE2, On::Abort),
    ]
}

#[test]
fn device_starts_on_bypass() {
    let bench = Bench::with_one_device();
    bench.expect("at start", &[("d0", On::Bypass)]);
    bench.finish();
}

#[test]
fn smmuen_attaches_by_ste() {
    for (entry, on) in entries() {
        let bench = Bench::with_one_device();
        let smmu = bench.smmu();
        smmu.write_ste(sid(1), entry);
        bench.expect("before SMMUEN", &[("d0", On::Bypass)]);
        smmu.enable(SMMUEN);
        bench.expect("after SMMUEN 0->1", &[("d0", on)]);
        bench.finish();
    }
}

#[test]
fn smmuen_clear_attaches_by_gbpa() {
    for (gbpa, disabled) in [(0, On::Bypass), (GBPA_ABORT, On::Abort)] {
        for (entry, on) in entries() {
            let bench = Bench::with_one_device();
            let smmu = bench.smmu();
            smmu.gbpa(gbpa);
            bench.expect("GBPA", &[("d0", disabled)]);
            smmu.write_ste(sid(1), entry);
            smmu.enable(SMMUEN);
            smmu.commands(&[smmuv3_qtest::command::cfgi_ste(sid(1))]);
            bench.expect("SMMUEN=1", &[("d0", on)]);
            smmu.disable(SMMUEN);
            bench.expect("after SMMUEN 1->0", &[("d0", disabled)]);
            let nested = bench.journal().objects().get("nested").copied();
            assert_eq!(nested, None, "stage 1 is left behind");
            bench.finish();
        }
    }
}

#[test]
fn gbpa_abort_applies_without_smmuen() {
    let bench = Bench::with_two_devices();
    let smmu = bench.smmu();
    smmu.gbpa(GBPA_ABORT);
    bench.expect("ABORT=1", &[("d0", On::Abort), ("d1", On::Abort)]);
    smmu.gbpa(0);
    bench.expect("ABORT=0", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    smmu.write(reg::GBPA, GBPA_ABORT);
    bench.expect("without Update", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    bench.finish();
}

#[test]
fn gbpa_attaches_nothing_with_smmuen() {
    for (entry, on) in entries() {
        let bench = Bench::with_one_device();
        let smmu = bench.smmu();
        smmu.write_ste(sid(1), entry);
        smmu.enable(SMMUEN);
        smmu.commands(&[smmuv3_qtest::command::cfgi_ste(sid(1))]);
        for gbpa in [GBPA_ABORT, 0, GBPA_ABORT] {
            bench.mark();
            smmu.gbpa(gbpa);
            bench.expect("after a GBPA write", &[("d0", on)]);
            assert_eq!(bench.changes(), [""; 0], "nothing is attached");
        }
        smmu.disable(SMMUEN);
        bench.expect("after SMMUEN 1->0", &[("d0", On::Abort)]);
        bench.finish();
    }
}

#[test]
fn every_device_attaches_by_its_own_ste() {
    let bench = Bench::with_two_devices();
    let smmu = bench.smmu();
    let stage1 = ste::stage1(0x4200_0000);
    smmu.write_ste(sid(1), stage1);
    smmu.write_ste(sid(2), ste::BYPASS);
    smmu.enable(SMMUEN);
    let (d0, d1) = (On::Nested(stage1), On::Bypass);
    bench.expect("after SMMUEN 0->1", &[("d0", d0), ("d1", d1)]);
    smmu.install(sid(2), ste::ABORT);
    bench.expect("d1 is configured", &[("d0", d0), ("d1", On::Abort)]);
    bench.finish();
}

#[test]
fn smmuen_with_stream_outside_strtab_aborts() {
    let bench = Bench::with_two_devices();
    let smmu = bench.smmu();
    smmu.write_ste(sid(1), ste::BYPASS);
    smmu.write_ste(sid(2), ste::BYPASS);
    smmu.enable(SMMUEN);
    bench.expect("the whole table", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    smmu.disable(SMMUEN);
    bench.expect("disabled", &[("d0", On::Bypass), ("d1", On::Bypass)]);
    // StreamIDs 0 to 0x7ff
    smmu.write(reg::STRTAB_BASE_CFG, TABLE_LOG2 - 1);
    smmu.enable(SMMUEN);
    bench.expect("a smaller table", &[("d0", On::Abort), ("d1", On::Abort)]);
    bench.finish();
}

#[test]
fn smmuen_with_strtab_outside_ram_aborts() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    smmu.write64(reg::STRTAB_BASE, NOWHERE);
    smmu.enable(SMMUEN);
    bench.expect("the STE cannot be read", &[("d0", On::Abort)]);
    smmu.disable(SMMUEN);
    bench.expect("disabled", &[("d0", On::Bypass)]);
    smmu.write64(reg::STRTAB_BASE, TABLE);
    smmu.write_ste(sid(1), ste::BYPASS);
    smmu.enable(SMMUEN);
    bench.expect("a good table", &[("d0", On::Bypass)]);
    bench.finish();
}

#[test]
fn cr0_write_keeping_smmuen_attaches_nothing() {
    let bench = Bench::with_one_device();
    let smmu = bench.smmu();
    let stage1 = ste::stage1(0x4100_0000);
    smmu.enable(SMMUEN);
    smmu.install(sid(1), stage1);
    bench.mark();
    smmu.disable(CMDQEN);
    smmu.enable(EVENTQEN);
    smmu.enable(CMDQEN);
    bench.expect("SMMUEN=1 all the time", &[("d0", On::Nested(stage1))]);
    assert_eq!(bench.changes(), [""; 0]);
    bench.finish();
}
