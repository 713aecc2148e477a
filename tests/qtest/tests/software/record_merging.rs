// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! One faulting transaction is one record (§7.2), although QEMU splits it into
//! pieces of 4 bytes; two transactions are two records (§7.3.1).

use smmuv3_qtest::{command::SYNC, smmu::EVENTQEN, Access};

use crate::{
    bench::{install_stage2, machine, Bench, Nested, Stage1, ACCESSES, DATA, IOVA},
    entries::Entry,
    record::{Class, Kind, Record},
    tables::Granule,
};

/// A page that is not mapped.
const UNMAPPED: u64 = IOVA + 0x4000;

/// Runs a test with a stage 1 that does not map [`UNMAPPED`].
#[track_caller]
fn with_stage1(test: impl FnOnce(&Bench<'_>)) {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    test(&bench);
}

#[track_caller]
fn transfer(bench: &Bench<'_>, access: Access, iova: u64, count: u64) {
    match access {
        Access::Read => bench.edu.read(iova, count),
        Access::Write => drop(bench.edu.write_bytes(iova, count)),
    }
}

/// Returns the record of an access to an unmapped page.
fn missing(bench: &Bench<'_>, access: Access, iova: u64) -> Record {
    bench.fault1(Kind::Translation, access, iova)
}

#[test]
fn faulting_access_of_any_size_is_one_record() {
    with_stage1(|bench| {
        for access in ACCESSES {
            for offset in [0, 1, 2, 3, 4, 6, 7, 8, 0x7fd] {
                for count in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 64, 1021, 2048] {
                    let iova = UNMAPPED + offset;
                    transfer(bench, access, iova, count);
                    let expected = missing(bench, access, iova);
                    assert_eq!(bench.records(), [expected], "{count} bytes");
                }
            }
        }
    });
}

#[test]
fn faulting_page_is_one_record_each() {
    with_stage1(|bench| {
        let next = UNMAPPED + 0x1000;
        for access in ACCESSES {
            let page = |iova| match access {
                Access::Read => bench.edu.read_all(iova),
                Access::Write => bench.edu.write_all(iova),
            };
            let record = |iova| missing(bench, access, iova);
            page(UNMAPPED);
            assert_eq!(bench.records(), [record(UNMAPPED)]);
            for offset in [4, 0x7fe, 0xfff] {
                page(UNMAPPED + offset);
                let both = [record(UNMAPPED + offset), record(next)];
                assert_eq!(bench.records(), both, "{offset:#x}");
            }
        }
    });
}

#[test]
fn fault_behind_mapped_page_is_one_record() {
    with_stage1(|bench| {
        for access in ACCESSES {
            transfer(bench, access, IOVA + 0xfe0, 0x100);
            let behind = missing(bench, access, IOVA + 0x1000);
            assert_eq!(bench.records(), [behind]);
        }
    });
}

#[test]
fn stage2_fault_is_one_record() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    install_stage2(&bench, Granule::K4, 39);
    for access in ACCESSES {
        let iova = UNMAPPED + 4;
        transfer(&bench, access, iova, 64);
        let record = bench.fault2(Kind::Translation, access, iova, Class::Input, UNMAPPED);
        assert_eq!(bench.records(), [record]);
    }
    Nested::new(&bench, [Granule::K4; 2], 39);
    for access in ACCESSES {
        transfer(&bench, access, UNMAPPED, 64);
        assert_eq!(bench.records(), [missing(&bench, access, UNMAPPED)]);
    }
}

/// Records without an input address are merged by the address of the access.
#[test]
fn config_error_is_one_record_per_access() {
    with_stage1(|bench| {
        let record = bench.event(Kind::BadSte);
        bench.set_ste(bench.edu.sid(), Entry([0; 8]));
        bench.invalidate();
        for access in ACCESSES {
            for _ in 0..2 {
                transfer(bench, access, UNMAPPED, 2048);
                assert_eq!(bench.records(), [record]);
            }
        }
        for address in [UNMAPPED + 8, UNMAPPED + 4, UNMAPPED] {
            transfer(bench, Access::Read, address, 4);
        }
        assert_eq!(bench.records(), [record; 3]);
    });
}

#[test]
fn repeated_access_is_new_record() {
    with_stage1(|bench| {
        for count in [1, 4, 8, 64] {
            for _ in 0..3 {
                transfer(bench, Access::Read, UNMAPPED, count);
            }
            let record = missing(bench, Access::Read, UNMAPPED);
            assert_eq!(bench.records(), [record; 3], "{count} bytes");
        }
    });
}

/// An access that does not start where the last piece ends is another
/// transaction.
#[test]
fn noncontiguous_access_is_new_record() {
    with_stage1(|bench| {
        let at = |offset| missing(bench, Access::Read, UNMAPPED + offset);
        for (first, second) in [(0, 8), (8, 4), (4, 0), (0, 0x1000)] {
            transfer(bench, Access::Read, UNMAPPED + first, 4);
            transfer(bench, Access::Read, UNMAPPED + second, 4);
            assert_eq!(bench.records(), [at(first), at(second)]);
        }
        transfer(bench, Access::Read, UNMAPPED, 4);
        transfer(bench, Access::Write, UNMAPPED + 4, 4);
        let write = missing(bench, Access::Write, UNMAPPED + 4);
        assert_eq!(bench.records(), [at(0), write]);
    });
}

/// A command or another access in between separates two accesses.
#[test]
fn commands_and_accesses_separate_records() {
    with_stage1(|bench| {
        let at = |offset| missing(bench, Access::Read, UNMAPPED + offset);
        let separated_by = |what: &dyn Fn()| {
            transfer(bench, Access::Read, UNMAPPED, 4);
            what();
            transfer(bench, Access::Read, UNMAPPED + 4, 4);
            assert_eq!(bench.records(), [at(0), at(4)]);
        };
        separated_by(&|| bench.commands(&[SYNC]));
        separated_by(&|| bench.edu.read(IOVA, 4));
        separated_by(&|| {
            bench.edu.write(IOVA);
        });
    });
}

/// Without anything in between, the SMMU cannot distinguish two adjacent
/// accesses from one: they are one record.
#[test]
fn adjacent_accesses_are_one_record() {
    with_stage1(|bench| {
        for access in ACCESSES {
            transfer(bench, access, UNMAPPED, 8);
            transfer(bench, access, UNMAPPED + 8, 4);
            assert_eq!(bench.records(), [missing(bench, access, UNMAPPED)]);
            bench.commands(&[SYNC]);
        }
    });
}

/// An access is not merged with one from before the queue was disabled.
#[test]
fn reenabled_eventq_records_next_access() {
    with_stage1(|bench| {
        transfer(bench, Access::Read, UNMAPPED, 4);
        assert_eq!(bench.records().len(), 1);
        bench.smmu.disable(EVENTQEN);
        transfer(bench, Access::Read, UNMAPPED + 4, 4);
        bench.smmu.enable(EVENTQEN);
        transfer(bench, Access::Read, UNMAPPED + 8, 4);
        let next = missing(bench, Access::Read, UNMAPPED + 8);
        assert_eq!(bench.records(), [next]);
        assert_eq!(bench.machine.read32(DATA), 0);
    });
}
