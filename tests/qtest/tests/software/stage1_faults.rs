// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Faults of stage 1 and their records.

use smmuv3_qtest::{command, smmu::reg, Access};

use crate::{
    bench::{machine, Bench, Stage1, ACCESSES, CONTEXT, DATA, IOVA, NOWHERE},
    entries::{cd, ste},
    record::{Class, Kind, Record},
    tables::{
        bits::{
            AF, BLOCK, GLOBAL, NOT_GLOBAL, PAGE, READ_ONLY, STAGE_1, TABLE, TABLE_NO_USER,
            TABLE_READ_ONLY, USER,
        },
        Granule, Tables, DEFINED_OUTPUT_SIZES, RESERVED_OUTPUT_SIZES,
    },
};

/// Checks that reads and writes of [`IOVA`] give this kind of fault.
#[track_caller]
fn fails(bench: &Bench<'_>, what: &str, kind: Kind) {
    for access in ACCESSES {
        bench.faults_when(what, access, IOVA, bench.fault1(kind, access, IOVA));
    }
}

/// Input address sizes for each start level.
const SIZES: [(Granule, u32); 10] = [
    (Granule::K4, 48),
    (Granule::K4, 39),
    (Granule::K4, 30),
    (Granule::K16, 48),
    (Granule::K16, 47),
    (Granule::K16, 36),
    (Granule::K16, 25),
    (Granule::K64, 48),
    (Granule::K64, 42),
    (Granule::K64, 29),
];

/// Runs `test` for each level of each granule and size, with [`IOVA`] mapped.
fn at_every_level(test: impl Fn(&Bench<'_>, &Stage1<'_>, u32)) {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for (granule, bits) in SIZES {
        for level in granule.start(bits)..=3 {
            bench.free_tables();
            let stage1 = Stage1::new(&bench, granule, bits);
            bench.passes(IOVA, DATA);
            test(&bench, &stage1, level);
        }
    }
}

#[test]
fn stage1_invalid_descriptor_records_f_translation() {
    at_every_level(|bench, stage1, level| {
        // all bits except the valid bit
        for descriptor in [0, 0b10, !1] {
            stage1.tables.set(IOVA, level, descriptor);
            bench.invalidate();
            fails(bench, &format!("level {level}"), Kind::Translation);
        }
    });
}

/// With 48-bit addresses the only blocks are those of 1 GiB, 2 MiB, 32 MiB and
/// 512 MiB. A block descriptor in the last level is Reserved.
#[test]
fn reserved_block_level_is_translation_fault() {
    at_every_level(|bench, stage1, level| {
        if !stage1.tables.granule.blocks().contains(&level) {
            let shift = stage1.tables.granule.shift(level);
            let output = DATA >> shift << shift;
            stage1.tables.set(IOVA, level, output | STAGE_1 | BLOCK);
            bench.invalidate();
            fails(bench, &format!("level {level}"), Kind::Translation);
        }
    });
}

/// Returns the record of a stage-1 descriptor at `address` that cannot be read.
fn walk_abort(bench: &Bench<'_>, access: Access, address: u64) -> Record {
    let record = bench.event(Kind::WalkAbort).of(access, IOVA);
    record.stage1(Class::Table).fetching(address)
}

#[test]
fn stage1_unreadable_descriptor_records_address() {
    at_every_level(|bench, stage1, level| {
        let tables = &stage1.tables;
        let slot = tables.descriptor(IOVA, level);
        let offset = if level == tables.start {
            let offset = slot - tables.base();
            bench.install_stage1(stage1.context.with_address(cd::TTB0, NOWHERE));
            offset
        } else {
            tables.set(IOVA, level - 1, NOWHERE | TABLE);
            slot % tables.granule.size()
        };
        bench.invalidate();
        for access in ACCESSES {
            let record = walk_abort(bench, access, NOWHERE + offset);
            bench.faults_when(format!("level {level}"), access, IOVA, record);
        }
    });
}

/// An external abort is not a translation fault, so `CD.R` does not suppress
/// its record.
#[test]
fn stage1_walk_eabt_is_recorded_with_cd_r_clear() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let offset = stage1.tables.descriptor(IOVA, 2) % 0x1000;
    stage1.tables.set(IOVA, 1, NOWHERE | TABLE);
    bench.install_stage1(stage1.context.with(cd::R, 0));
    let record = walk_abort(&bench, Access::Write, NOWHERE + offset);
    bench.faults(Access::Write, IOVA, record);
}

#[test]
fn address_outside_both_halves_is_f_translation() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        for bits in [48, 39, 25] {
            bench.free_tables();
            let low = Tables::stage1(&bench, granule, bits);
            let high = Tables::stage1(&bench, granule, bits);
            for tables in [&low, &high] {
                for page in [0, IOVA, tables.last_page()] {
                    tables.map(page, DATA);
                }
            }
            bench.install_stage1(cd::and_upper(cd::lower(&low), &high));
            bench.passes((1 << bits) - 4, DATA + granule.size() - 4);
            bench.passes(!0 << bits, DATA);
            let gap = [
                1 << bits,
                IOVA | (1 << bits),
                IOVA | (1 << 63),
                (!0 << bits) - 4,
            ];
            for iova in gap {
                for access in ACCESSES {
                    bench.faults(access, iova, bench.fault1(Kind::Translation, access, iova));
                }
            }
        }
    }
}

#[test]
fn epd_half_is_f_translation() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let tables = Tables::stage1(&bench, Granule::K4, 39);
    tables.map(IOVA, DATA);
    let both = cd::and_upper(cd::lower(&tables), &tables);
    let halves = [IOVA, (!0 << 39) + IOVA];
    for (off, field) in [(0, cd::EPD0), (1, cd::EPD1)] {
        bench.install_stage1(both);
        bench.passes(halves[off], DATA);
        bench.install_stage1(both.with(field, 1));
        let iova = halves[off];
        for access in ACCESSES {
            bench.faults(access, iova, bench.fault1(Kind::Translation, access, iova));
        }
        bench.passes(halves[1 - off], DATA);
    }
}

fn address_sizes(outputs: &[(u64, u32)]) {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    for (ips, bits) in outputs {
        bench.install_stage1(stage1.context.with(cd::IPS, *ips));
        for level in [3, 2, 1] {
            let kind = if level == 3 { PAGE } else { BLOCK };
            for output in [1 << bits, 1 << 47] {
                let good = stage1.tables.get(IOVA, level);
                stage1.tables.set(IOVA, level, output | STAGE_1 | kind);
                bench.invalidate();
                fails(
                    &bench,
                    &format!("IPS {ips}, level {level}"),
                    Kind::AddressSize,
                );
                stage1.tables.set(IOVA, level, good);
            }
        }
        bench.invalidate();
        bench.passes(IOVA, DATA);
    }
}

#[test]
fn output_beyond_ips_is_f_addr_size() {
    address_sizes(DEFINED_OUTPUT_SIZES);
}

/// The C device aborts QEMU.
#[test]
fn reserved_ips_faults_above_smmu_oas() {
    address_sizes(RESERVED_OUTPUT_SIZES);
}

/// The addresses of tables are checked, too (§3.4.3).
#[test]
fn next_table_beyond_ips_is_f_addr_size() {
    at_every_level(|bench, stage1, level| {
        if level < 3 {
            stage1.tables.set(IOVA, level, (1 << 44) | TABLE);
            bench.invalidate();
            fails(bench, &format!("level {level}"), Kind::AddressSize);
        }
    });
}

/// With 64 KiB pages and 48-bit addresses, bits 15:12 of a descriptor are not
/// part of the address.
#[test]
fn descriptor_64k_low_bits_are_not_address() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K64, 42);
    for level in [2, 3] {
        let good = stage1.tables.get(IOVA, level);
        stage1.tables.set(IOVA, level, good | 0xf000);
        bench.invalidate();
        bench.passes(IOVA + 0x2340, DATA + 0x2340);
        stage1.tables.set(IOVA, level, good);
    }
}

#[test]
fn stage1_clear_af_is_f_access() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    for level in [3, 2, 1] {
        let shift = Granule::K4.shift(level);
        let output = DATA >> shift << shift;
        stage1.tables.map_with(IOVA, output, level, USER);
        bench.install_stage1(stage1.context);
        fails(&bench, &format!("level {level}"), Kind::AccessFlag);
        bench.install_stage1(stage1.context.with(cd::AFFD, 1));
        bench.passes(IOVA, output + IOVA % (1 << shift));
    }
}

/// Faults have this priority.
#[test]
fn stage1_first_of_two_faults_is_recorded() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let too_far = 1 << 44;
    for (descriptor, kind) in [
        (too_far | READ_ONLY, Kind::Translation),
        (too_far | READ_ONLY | PAGE, Kind::AddressSize),
        (DATA | READ_ONLY | PAGE, Kind::AccessFlag),
        (DATA | GLOBAL | READ_ONLY | PAGE, Kind::Permission),
    ] {
        stage1.tables.set(IOVA, 3, descriptor);
        bench.invalidate();
        let record = bench.fault1(kind, Access::Write, IOVA);
        bench.faults(Access::Write, IOVA, record);
    }
}

#[test]
fn read_only_page_faults_on_write() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let record = bench.fault1(Kind::Permission, Access::Write, IOVA);
    for granule in Granule::ALL {
        bench.free_tables();
        let stage1 = Stage1::new(&bench, granule, 42);
        stage1.tables.map_with(IOVA, DATA, 3, GLOBAL | READ_ONLY);
        bench.invalidate();
        bench.faults(Access::Write, IOVA, record);
        bench.reads(IOVA);
        // the cached entry must not permit more
        bench.faults(Access::Write, IOVA, record);
        bench.reads(IOVA);
        stage1.tables.map_with(IOVA, DATA, 3, GLOBAL);
        bench.invalidate();
        bench.passes(IOVA, DATA);
    }
}

/// Transactions of PCI functions are unprivileged data accesses (§3.9, §13.7),
/// so they need `AP[1]`.
#[test]
fn dma_to_privileged_page_is_refused() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        for level in [2, 3] {
            bench.free_tables();
            let stage1 = Stage1::new(&bench, granule, 42);
            let output = DATA & !((1 << granule.shift(level)) - 1);
            for privileged in [AF | NOT_GLOBAL, AF, AF | READ_ONLY] {
                stage1.tables.map_with(IOVA, output, level, privileged);
                bench.invalidate();
                for _ in 0..2 {
                    fails(&bench, &format!("{privileged:#x}"), Kind::Permission);
                }
            }
            stage1.tables.map_with(IOVA, output, level, STAGE_1);
            bench.invalidate();
            bench.reads(IOVA);
        }
    }
}

/// A permission that was removed must not stay in the TLB.
#[test]
fn dma_to_page_made_privileged_is_refused() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    bench.passes(IOVA, DATA);
    stage1.tables.map_with(IOVA, DATA, 3, STAGE_1 & !USER);
    bench.commands(&[command::tlbi_nh_va(cd::NUMBER, IOVA)]);
    fails(&bench, "made privileged", Kind::Permission);
    stage1.tables.map(IOVA, DATA);
    // more permissions need no command
    bench.passes(IOVA, DATA);
}

/// `STE.PRIVCFG` and `STE.INSTCFG` are RES0 without `IDR1.ATTR_PERMS_OVR`.
#[test]
fn dma_stays_unprivileged_with_privcfg() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    assert_eq!(bench.smmu.read(reg::IDR1) & (1 << 26), 0, "ATTR_PERMS_OVR");
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    for (privcfg, instcfg) in (0..16).map(|both| (both & 3, both >> 2)) {
        let entry = ste::stage1(CONTEXT)
            .with(ste::PRIVCFG, privcfg)
            .with(ste::INSTCFG, instcfg);
        stage1.tables.map_with(IOVA, DATA, 3, STAGE_1 & !USER);
        bench.install(entry);
        fails(&bench, &format!("{privcfg} {instcfg}"), Kind::Permission);
        stage1.tables.map(IOVA, DATA);
        bench.invalidate();
        bench.passes(IOVA, DATA);
    }
}

/// `APTable[0]` of any level applies to all levels below.
#[test]
fn dma_below_table_without_user_is_refused() {
    at_every_level(|bench, stage1, level| {
        if level == 3 {
            return;
        }
        let good = stage1.tables.get(IOVA, level);
        for hierarchy in [TABLE_NO_USER, TABLE_NO_USER | TABLE_READ_ONLY] {
            stage1.tables.set(IOVA, level, good | hierarchy);
            bench.invalidate();
            fails(bench, &format!("level {level}"), Kind::Permission);
        }
        // except with CD.HAD, which disables hierarchical attributes
        bench.install_stage1(stage1.context.with(cd::HAD0, 1));
        bench.passes(IOVA, DATA);
        bench.install_stage1(stage1.context);
    });
}

#[test]
fn aptable_read_only_applies_to_all_below() {
    at_every_level(|bench, stage1, level| {
        if level == 3 {
            return;
        }
        let record = bench.fault1(Kind::Permission, Access::Write, IOVA);
        let good = stage1.tables.get(IOVA, level);
        stage1.tables.set(IOVA, level, good | TABLE_READ_ONLY);
        bench.invalidate();
        bench.faults(Access::Write, IOVA, record);
        bench.reads(IOVA);
        bench.faults(Access::Write, IOVA, record);
    });
}

/// The C device loses `APTable` when it caches a translation.
#[test]
fn aptable_read_only_holds_after_read() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let good = stage1.tables.get(IOVA, 2);
    stage1.tables.set(IOVA, 2, good | TABLE_READ_ONLY);
    bench.invalidate();
    bench.reads(IOVA);
    let record = bench.fault1(Kind::Permission, Access::Write, IOVA);
    bench.faults(Access::Write, IOVA, record);
}

#[test]
fn cd_had_disables_aptable() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let tables = Tables::stage1(&bench, Granule::K4, 39);
    tables.map(IOVA, DATA);
    let table = tables.get(IOVA, 2);
    tables.set(IOVA, 2, table | TABLE_READ_ONLY | TABLE_NO_USER);
    let halves = [IOVA, (!0 << 39) + IOVA];
    let both = cd::and_upper(cd::lower(&tables), &tables);
    for had in 0..4 {
        bench.install_stage1(both.with(cd::HAD0, had & 1).with(cd::HAD1, had >> 1));
        for (half, iova) in halves.into_iter().enumerate() {
            if (had >> half) & 1 == 1 {
                bench.passes(iova, DATA);
            } else {
                let record = bench.fault1(Kind::Permission, Access::Write, iova);
                bench.faults(Access::Write, iova, record);
            }
        }
    }
}

#[test]
fn cd_r_clear_records_no_fault() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let cases = [
        (0, Kind::Translation),
        ((1 << 44) | STAGE_1 | PAGE, Kind::AddressSize),
        (DATA | PAGE, Kind::AccessFlag),
        (DATA | GLOBAL | READ_ONLY | PAGE, Kind::Permission),
    ];
    for (descriptor, kind) in cases {
        stage1.tables.set(IOVA, 3, descriptor);
        bench.install_stage1(stage1.context.with(cd::R, 0));
        bench.aborts(Access::Write, IOVA);
        bench.install_stage1(stage1.context);
        let record = bench.fault1(kind, Access::Write, IOVA);
        bench.faults(Access::Write, IOVA, record);
    }
    bench.install_stage1(stage1.context.with(cd::R, 0));
    bench.aborts(Access::Read, IOVA | (1 << 45));
}

/// The input address is recorded with all its bits.
#[test]
fn fault_record_has_address_of_access() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    for iova in [0x1000, 0x1ffc, 0x12_3454, 0x7f_ffff_fffc, !3, 1 << 52] {
        for access in ACCESSES {
            bench.faults(access, iova, bench.fault1(Kind::Translation, access, iova));
        }
    }
}

/// No data reach the device.
#[test]
fn refused_read_transfers_no_data() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    for descriptor in [0, DATA | PAGE, DATA | (1 << 44) | STAGE_1 | PAGE] {
        bench.transfers(IOVA, DATA);
        stage1.tables.set(IOVA, 3, descriptor);
        bench.invalidate();
        assert_eq!(bench.refused(Access::Read, IOVA).len(), 1);
        assert_ne!(bench.read_by_device(), machine.read32(DATA));
        stage1.tables.map(IOVA, DATA);
        bench.invalidate();
    }
}
