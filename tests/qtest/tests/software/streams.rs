// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Bypass, abort and translation by STE and GBPA.

use smmuv3_qtest::{
    command, edu, pci,
    smmu::{reg, SMMUEN},
    Access, Edu,
};

use crate::{
    bench::{machine, Bench, Stage1, ACCESSES, CONTEXT, DATA, IOVA, SID},
    entries::{cd, ste},
    record::Kind,
    tables::{Granule, Tables},
};

const UPDATE: u32 = 1 << 31;
const ABORT: u32 = 1 << 20;

/// An address of RAM, so that untranslated accesses reach memory.
const ADDRESS: u64 = DATA + 0x5_0340;

#[test]
fn ste_bypasses_or_aborts_dma() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    bench.install(ste::bypass());
    bench.transfers(ADDRESS, ADDRESS);
    for config in 0b000..=0b011 {
        bench.install(ste::of(config));
        for access in ACCESSES {
            bench.aborts(access, ADDRESS);
        }
    }
    bench.install(ste::bypass());
    bench.transfers(ADDRESS, ADDRESS);
}

#[test]
fn gbpa_controls_dma_without_smmuen() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    bench.install(ste::abort());
    bench.smmu.disable(SMMUEN);
    for (gbpa, passes) in [(0, true), (ABORT, false), (0, true)] {
        bench.smmu.write(reg::GBPA, UPDATE | gbpa);
        machine.write32(ADDRESS, 0);
        let word = bench.edu.write(ADDRESS);
        assert_eq!(machine.read32(ADDRESS) == word, passes, "GBPA {gbpa:#x}");
        assert_eq!(bench.records(), []);
    }
}

#[test]
fn gbpa_is_ignored_with_smmuen() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    bench.install(ste::bypass());
    bench.smmu.write(reg::GBPA, UPDATE | ABORT);
    bench.writes(ADDRESS, ADDRESS);
}

#[test]
fn smmuen_starts_and_stops_translation() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    stage1.tables.map(ADDRESS & !0xfff, DATA);
    bench.invalidate();
    for _ in 0..3 {
        bench.smmu.enable(SMMUEN);
        bench.writes(ADDRESS, DATA + (ADDRESS & 0xfff));
        bench.smmu.disable(SMMUEN);
        bench.writes(ADDRESS, ADDRESS);
    }
}

/// Bypassed addresses are limited to the output size (§3.4).
#[test]
fn bypass_beyond_oas_is_f_addr_size() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    bench.install(ste::bypass());
    for access in ACCESSES {
        for iova in [1 << 44, (1 << 63) | ADDRESS] {
            let fault = bench.fault1(Kind::AddressSize, access, iova);
            bench.faults(access, iova, fault);
        }
    }
    bench.transfers(ADDRESS, ADDRESS);
}

#[test]
fn each_device_translates_by_its_own_ste() {
    let machine = machine("1")
        .device(format!("{},bus=pcie.0,addr=5", edu::DEVICE))
        .device(format!("{},bus=pcie.0,addr=6.5", edu::DEVICE))
        .start();
    let others = [pci::sid(0, 5), pci::sid(0, 6) | 5];
    let edus = [1, 2].map(|index| Edu::new(&machine, others[index - 1], index as u64));
    let bench = Bench::new(&machine);
    let context = |index: u64| CONTEXT + 64 * index;
    let tables = [0, 1].map(|index| {
        let tables = Tables::stage1(&bench, Granule::K4, 39);
        tables.map(IOVA, DATA + 0x1000 * index);
        let entry = cd::lower(&tables).with(cd::ASID, index);
        machine.write_memory(context(index), &entry.to_bytes());
        tables
    });
    bench.set_ste(others[0], ste::stage1(context(1)));
    bench.set_ste(others[1], ste::bypass());
    bench.install(ste::stage1(context(0)));

    let arrives = |edu: &Edu<'_>, iova, address| {
        let word = edu.write(iova);
        assert_eq!(machine.read32(address), word, "{:#x}", edu.sid());
        assert_eq!(bench.records(), []);
    };
    arrives(&bench.edu, IOVA, DATA);
    arrives(&edus[0], IOVA, DATA + 0x1000);
    arrives(&edus[1], ADDRESS, ADDRESS);

    // a change for one device does not affect the others
    bench.set_ste(others[0], ste::abort());
    bench.commands(&[command::cfgi_ste(others[0])]);
    edus[0].write(IOVA);
    assert_eq!(bench.records(), []);
    arrives(&bench.edu, IOVA, DATA);
    tables[0].set(IOVA, 3, 0);
    bench.invalidate();
    let fault = bench.fault1(Kind::Translation, Access::Write, IOVA);
    bench.faults(Access::Write, IOVA, fault);
    assert_eq!(bench.edu.sid(), SID);
    arrives(&edus[1], ADDRESS, ADDRESS);
}

/// An MSI is a write that the guest's tables must map.
#[test]
fn msi_write_is_translated() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    bench.edu.program_msi(IOVA + 0x40, 0x4d51);
    let raised = || {
        machine.write32(DATA + 0x40, 0);
        bench.edu.raise();
        machine.read32(DATA + 0x40)
    };
    assert_eq!(raised(), 0x4d51);
    assert_eq!(bench.records(), []);
    stage1.tables.set(IOVA, 3, 0);
    bench.invalidate();
    assert_eq!(raised(), 0);
    let fault = bench.fault1(Kind::Translation, Access::Write, IOVA + 0x40);
    assert_eq!(bench.records(), [fault]);
}
