// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! System reset drops all state.

use smmuv3_qtest::{
    smmu::{reg, SMMUEN},
    Access,
};

use crate::{
    bench::{machine, Bench, Stage1, CONTEXT, DATA, IOVA, SID},
    entries::{cd, ste},
    record::Kind,
    tables::{Granule, Tables},
};

#[test]
fn reset_returns_to_bypass() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    bench.passes(IOVA, DATA);
    machine.system_reset();
    bench.edu.program();
    assert_eq!(bench.smmu.read(reg::CR0) & SMMUEN, 0);
    bench.writes(DATA + 0x40, DATA + 0x40);
}

/// After a reset no invalidation is needed.
#[test]
fn reset_flushes_all_caches() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let again = || {
        machine.system_reset();
        bench.edu.program();
        bench.program();
    };
    bench.passes(IOVA, DATA);
    stage1.tables.map(IOVA, DATA + 0x1000);
    again();
    bench.passes(IOVA, DATA + 0x1000);

    let other = Tables::stage1(&bench, Granule::K64, 42);
    other.map(IOVA, DATA + 0x2_0000);
    bench.set_cd(cd::lower(&other));
    again();
    bench.passes(IOVA, DATA + 0x2_0000);

    bench.set_ste(SID, ste::bypass());
    again();
    bench.passes(DATA, DATA);
    bench.set_ste(SID, ste::stage1(CONTEXT));
    again();
    bench.passes(IOVA, DATA + 0x2_0000);
}

#[test]
fn reset_empties_eventq() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    bench.edu.access(Access::Write, IOVA + 0x1000);
    assert_eq!(bench.smmu.read(reg::EVENTQ_PROD), 1);
    machine.system_reset();
    assert_eq!(bench.smmu.read(reg::EVENTQ_PROD), 0);
    bench.edu.program();
    bench.program();
    let fault = bench.fault1(Kind::Translation, Access::Write, IOVA + 0x1000);
    bench.faults(Access::Write, IOVA + 0x1000, fault);
}
