// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The reason why an STE or a CD is ILLEGAL reaches a developer: `C_BAD_STE` and
//! `C_BAD_CD` have no room for it.

use smmuv3_qtest::Access;

use crate::{
    bench::{machine, Bench, Stage1, IOVA},
    entries::{cd, ste, Entry},
    guest_errors::GuestErrors,
    tables::Granule,
};

const READ: Access = Access::Read;

#[test]
fn illegal_ste_and_cd_are_traced_with_the_reason() {
    let machine = machine("1")
        .args(["-trace", "smmuv3_illegal_config"])
        .start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let sid = bench.edu.sid();
    let mut expected = Vec::new();
    for (entry, reason) in [
        (Entry::default(), "STE.V is 0"),
        (
            ste::of(0b110),
            "STE.Config selects stage 2, but IDR0.S2P is 0",
        ),
        (
            ste::stage1(0x4000_0000).with(ste::S1_STALLD, 1),
            "STE.S1STALLD is 1, but IDR0.STALL_MODEL is not 0b00",
        ),
    ] {
        bench.install(entry);
        bench.refused(READ, IOVA);
        expected.push(format!("smmuv3_illegal_config sid={sid:#x} {reason}"));
    }
    let valid = stage1.context;
    for (entry, reason) in [
        (valid.with(cd::V, 0), "CD.V is 0"),
        (
            valid.with(cd::T0SZ, 40),
            "CD.T0SZ or CD.T1SZ is out of range",
        ),
    ] {
        bench.install_stage1(entry);
        bench.refused(READ, IOVA);
        expected.push(format!("smmuv3_illegal_config sid={sid:#x} {reason}"));
    }
    // legal configurations are not reported
    bench.install_stage1(valid);
    bench.install(ste::bypass());
    bench.install(ste::abort());
    bench.aborts(READ, IOVA);
    let finished = machine.quit();
    let mut lines: Vec<_> = finished
        .error_lines()
        .into_iter()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.dedup();
    assert_eq!(lines, expected);
}

/// A guest can cause any number of faults, so the log must be rate-limited.
#[test]
fn illegal_ste_is_logged_at_a_bounded_rate() {
    let mut expected = String::new();
    let log = GuestErrors::of(|bench| {
        let sid = bench.edu.sid();
        expected = format!("smmuv3.1: the STE of StreamID {sid:#x} is ILLEGAL: STE.V is 0");
        bench.install(Entry::default());
        for _ in 0..200 {
            bench.edu.access(READ, IOVA);
        }
    });
    log.assert_limited(|line| line == expected);
}
