// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Nested translation: stage 2 translates stage 1's outputs and tables.

use smmuv3_qtest::{command, Access};

use crate::{
    bench::{
        machine, Bench, Nested, ACCESSES, CONTEXT, DATA, IOVA, IPA, IPA_BITS, IPA_OFFSET, NOWHERE,
        SID,
    },
    entries::{cd, ste},
    record::{Class, Kind, Record},
    tables::{
        bits::{
            self, AF, GLOBAL, PAGE, READ_ONLY, S2_MEMATTR, S2_READ, S2_WRITE, STAGE_1, STAGE_2,
            STAGE_2_DEVICE, TABLE, TABLE_READ_ONLY,
        },
        Granule, Tables,
    },
};

const INSIDE: u64 = 0x344;
const ADDRESS: u64 = IOVA + INSIDE;

/// Checks that reads and writes of [`ADDRESS`] give this stage-2 fault.
#[track_caller]
fn fails(bench: &Bench<'_>, what: &str, kind: Kind, class: Class, ipa: u64) {
    for access in ACCESSES {
        let mut record = bench.fault2(kind, access, ADDRESS, class, ipa);
        if kind == Kind::Permission && class == Class::Table {
            record = record.reading_table();
        }
        bench.faults_when(what, access, ADDRESS, record);
    }
}

#[test]
fn nested_every_granule_pair_translates() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for first in Granule::ALL {
        for second in Granule::ALL {
            for bits in [48, 39, 25] {
                bench.free_tables();
                let nested = Nested::new(&bench, [first, second], bits);
                bench.transfers(ADDRESS, DATA + INSIDE);
                // up to the end of the smaller page, and nothing beyond
                let end = first.size().min(second.size());
                bench.transfers(IOVA + end - 4, DATA + end - 4);
                let next = IOVA + end;
                if end < second.size() {
                    nested.stage1.map(next, IPA + end);
                    bench.transfers(next, DATA + end);
                }
                if end < first.size() {
                    let (write, class) = (Access::Write, Class::Input);
                    let record = bench.fault2(Kind::Translation, write, next, class, IPA + end);
                    bench.faults(write, next, record);
                }
            }
        }
    }
}

/// With blocks in either stage, the smaller page is translated.
#[test]
fn nested_every_block_pair_translates() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for first in Granule::ALL {
        for second in Granule::ALL {
            bench.free_tables();
            let nested = Nested::new(&bench, [first, second], 42);
            let inner = 1 << second.shift(2);
            let outer = 1 << first.shift(2);
            let output = DATA & !(inner - 1);
            nested.stage1.map_block(16 * outer, IPA, 2);
            nested.stage2.map_block(IPA, output, 2);
            bench.invalidate();
            for inside in [0x5_0340, outer.min(inner) - 4] {
                let address = output + inside;
                if (DATA..DATA + (64 << 20)).contains(&address) {
                    bench.transfers(16 * outer + inside, address);
                }
            }
            let inside = DATA % inner + 0x344;
            if inside < outer {
                bench.transfers(16 * outer + inside, output + inside);
            }
        }
    }
}

#[test]
fn nested_cd_is_fetched_through_stage2() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let elsewhere = DATA + 0x1_0000;
    machine.write_memory(elsewhere + 0x40, &nested.context.to_bytes());
    bench.set_cd(crate::entries::Entry::default());
    nested.stage2.map(IPA + 0x9000, elsewhere);
    bench.install(ste::nested(IPA + 0x9040, &nested.stage2));
    bench.passes(ADDRESS, DATA + INSIDE);
}

/// Descriptors of stage 2 that refuse a read, and their faults.
const REFUSALS: [(u64, Kind); 4] = [
    (0, Kind::Translation),
    ((1 << 44) | AF | S2_READ | PAGE, Kind::AddressSize),
    (DATA | S2_READ | S2_WRITE | PAGE, Kind::AccessFlag),
    (DATA | AF | PAGE, Kind::Permission),
];

#[test]
fn nested_cd_stage2_fault_has_class_cd() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let context = IPA + 0x9040;
    for (descriptor, kind) in REFUSALS {
        nested.stage2.set(context, 3, descriptor);
        bench.install(ste::nested(context, &nested.stage2));
        fails(&bench, "context", kind, Class::Cd, context);
    }
    // only reads access it
    let write_only = DATA | AF | S2_WRITE | PAGE;
    nested.stage2.set(context, 3, write_only);
    bench.invalidate();
    fails(&bench, "write-only", Kind::Permission, Class::Cd, context);
}

#[test]
fn nested_cd_beyond_stage2_has_class_cd() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let context = 1 << (IPA_BITS + 1);
    bench.install(ste::nested(context, &nested.stage2));
    fails(&bench, "beyond", Kind::Translation, Class::Cd, context);
}

#[test]
fn nested_unreadable_cd_records_pa() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    nested.stage2.map(IPA + 0x9000, NOWHERE);
    bench.install(ste::nested(IPA + 0x9040, &nested.stage2));
    let record = bench.event(Kind::CdFetch).fetching(NOWHERE + 0x40);
    for access in ACCESSES {
        bench.faults(access, ADDRESS, record);
    }
}

/// Runs `test` for each level, with the IPA of a descriptor of that level.
fn at_every_level(test: impl Fn(&Bench<'_>, &Nested<'_>, u32, u64)) {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        for level in 1..=3 {
            bench.free_tables();
            let nested = Nested::new(&bench, [granule, Granule::K4], 48);
            // a table in the pages from IPA + 16 MiB on, one page after another
            let slot = nested.stage1.descriptor(IOVA, level);
            let table = slot & !(granule.size() - 1);
            let table_ipa = IPA + (16 << 20);
            for page in (0..granule.size()).step_by(0x1000) {
                nested.stage2.map(table_ipa + page, table + page);
            }
            if level == nested.stage1.start {
                let base = table_ipa + (nested.stage1.base() - IPA_OFFSET) % granule.size();
                let context = nested.context.with_address(cd::TTB0, base);
                bench.install_nested(context, &nested.stage2);
            } else {
                nested.stage1.set(IOVA, level - 1, table_ipa | TABLE);
                bench.invalidate();
            }
            bench.passes(ADDRESS, DATA + INSIDE);
            test(&bench, &nested, level, table_ipa + slot % granule.size());
        }
    }
}

/// The record has the IPA of the descriptor, not of its table.
#[test]
fn nested_table_stage2_fault_has_class_tt() {
    at_every_level(|bench, nested, level, ipa| {
        for (descriptor, kind) in REFUSALS {
            nested.stage2.set(ipa, 3, descriptor);
            bench.invalidate();
            fails(bench, &format!("level {level}"), kind, Class::Table, ipa);
        }
    });
}

#[test]
fn nested_unreadable_descriptor_records_pa() {
    at_every_level(|bench, nested, level, ipa| {
        nested.stage2.map(ipa & !0xfff, NOWHERE);
        bench.invalidate();
        for access in ACCESSES {
            let record = bench.event(Kind::WalkAbort).of(access, ADDRESS);
            let record = record.stage1(Class::Table).fetching(NOWHERE | ipa & 0xfff);
            bench.faults_when(format!("level {level}"), access, ADDRESS, record);
        }
    });
}

/// An unreadable stage-2 descriptor in the walk for a CD, a stage-1 table and
/// the output.
#[test]
fn nested_stage2_walk_abort_has_class_of_access() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let abort = |access, class, ipa: u64| -> Record {
        let offset = nested.stage2.descriptor(ipa, 3) % 0x1000;
        let record = bench.event(Kind::WalkAbort).of(access, ADDRESS);
        record.stage2(class).fetching(NOWHERE + offset)
    };
    // far apart, so that each has its own tables
    let [context, table, output] = [IPA | (1 << 30), IPA | (2 << 30), IPA | (3 << 30)];
    let slot = nested.stage1.descriptor(IOVA, 3);
    nested.stage2.map(context, CONTEXT & !0xfff);
    nested.stage2.map(table, slot & !0xfff);
    nested.stage2.map(output, DATA);
    nested.stage1.map(IOVA, output);
    nested.stage1.set(IOVA, 2, table | TABLE);
    bench.install(ste::nested(context | CONTEXT & 0xfff, &nested.stage2));
    bench.passes(ADDRESS, DATA + INSIDE);
    for (class, ipa) in [
        (Class::Cd, context | CONTEXT & 0xfff),
        (Class::Table, table | slot & 0xfff),
        (Class::Input, output | INSIDE),
    ] {
        for access in ACCESSES {
            let record = abort(access, class, ipa);
            let good = nested.stage2.get(ipa, 2);
            nested.stage2.set(ipa, 2, NOWHERE | TABLE);
            bench.invalidate();
            bench.faults_when(format!("{class:?}"), access, ADDRESS, record);
            nested.stage2.set(ipa, 2, good);
        }
    }
    bench.invalidate();
    bench.passes(ADDRESS, DATA + INSIDE);
}

#[test]
fn nested_stage2_fault_records_ipa() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for granules in [[Granule::K4; 2], [Granule::K64, Granule::K4]] {
        bench.free_tables();
        let nested = Nested::new(&bench, granules, 39);
        for (descriptor, kind) in REFUSALS {
            nested.stage2.set(IPA, 3, descriptor);
            bench.invalidate();
            fails(&bench, "address", kind, Class::Input, IPA + INSIDE);
        }
        // beyond the input size of stage 2
        let beyond = 1 << IPA_BITS;
        nested.stage1.map(IOVA, beyond);
        bench.invalidate();
        fails(&bench, "beyond", Kind::Translation, Class::Input, beyond);
    }
}

/// An access needs the permission of both stages.
#[test]
fn nested_fault_records_its_stage() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let (both, read) = (STAGE_1, GLOBAL | READ_ONLY);
    for (stage1, stage2, refusing_read, refusing_write) in [
        (both, S2_READ | S2_WRITE, 0, 0),
        (both, S2_READ, 0, 2),
        (both, S2_WRITE, 2, 0),
        (both, 0, 2, 2),
        (read, S2_READ | S2_WRITE, 0, 1),
        (read, S2_READ, 0, 1),
        (read, S2_WRITE, 2, 1),
        (read, 0, 2, 1),
    ] {
        nested.stage1.map_with(IOVA, IPA, 3, stage1);
        nested.stage2.map_with(IPA, DATA, 3, AF | stage2);
        bench.invalidate();
        for _ in 0..2 {
            for (access, stage) in [
                (Access::Read, refusing_read),
                (Access::Write, refusing_write),
            ] {
                match stage {
                    0 if access == Access::Read => bench.reads(ADDRESS),
                    0 => bench.writes(ADDRESS, DATA + INSIDE),
                    1 => {
                        let record = bench.fault1(Kind::Permission, access, ADDRESS);
                        bench.faults(access, ADDRESS, record);
                    }
                    _ => {
                        let class = Class::Input;
                        let record = bench.fault2(Kind::Permission, access, ADDRESS, class, IPA);
                        bench.faults(access, ADDRESS, record);
                    }
                }
            }
        }
    }
}

/// The C device loses `APTable` when it caches a translation.
#[test]
fn nested_aptable_read_only_holds_after_read() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let table = nested.stage1.get(IOVA, 2);
    nested.stage1.set(IOVA, 2, table | TABLE_READ_ONLY);
    bench.invalidate();
    bench.reads(ADDRESS);
    let record = bench.fault1(Kind::Permission, Access::Write, ADDRESS);
    bench.faults(Access::Write, ADDRESS, record);
}

/// Encodings of `MemAttr`: all types of Device memory, and some of Normal.
const MEMORY_TYPES: [(u64, bool); 8] = [
    (0b0000, true),
    (0b0001, true),
    (0b0010, true),
    (0b0011, true),
    (0b0101, false),
    (0b0111, false),
    (0b1010, false),
    (0b1111, false),
];

/// With `S2PTW` a stage-1 table in a page that stage 2 maps as Device memory is
/// a fault (§5.2), so that a guest cannot make the SMMU read device registers.
#[test]
fn s2ptw_refuses_table_in_device_page() {
    at_every_level(|bench, nested, level, ipa| {
        let entry = ste::nested(CONTEXT + IPA_OFFSET, &nested.stage2);
        let page = nested.stage2.get(ipa, 3) & bits::ADDRESS;
        for (memory_type, is_device) in MEMORY_TYPES {
            let attributes = STAGE_2_DEVICE | (memory_type << S2_MEMATTR);
            nested.stage2.map_with(ipa & !0xfff, page, 3, attributes);
            bench.install(entry);
            bench.passes(ADDRESS, DATA + INSIDE);
            bench.install(entry.with(ste::S2_PTW, 1));
            if is_device {
                let what = format!("level {level}, {memory_type:#06b}");
                for _ in 0..2 {
                    fails(bench, &what, Kind::Permission, Class::Table, ipa);
                }
            } else {
                bench.passes(ADDRESS, DATA + INSIDE);
            }
        }
        bench.install(entry);
    });
}

#[test]
fn s2ptw_refuses_cd_in_device_page() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let context = IPA + 0x9000 + CONTEXT % 0x1000;
    let entry = ste::nested(context, &nested.stage2);
    for (memory_type, is_device) in MEMORY_TYPES {
        let attributes = STAGE_2_DEVICE | (memory_type << S2_MEMATTR);
        let page = CONTEXT & !0xfff;
        nested.stage2.map_with(IPA + 0x9000, page, 3, attributes);
        bench.install(entry);
        bench.passes(ADDRESS, DATA + INSIDE);
        bench.install(entry.with(ste::S2_PTW, 1));
        if is_device {
            let what = format!("{memory_type:#06b}");
            fails(&bench, &what, Kind::Permission, Class::Cd, context);
        } else {
            bench.passes(ADDRESS, DATA + INSIDE);
        }
    }
}

/// The page is in the TLB, because the device itself may access it.
#[test]
fn s2ptw_refuses_table_in_cached_device_page() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let entry = ste::nested(CONTEXT + IPA_OFFSET, &nested.stage2);
    nested.stage2.map_with(IPA, DATA, 3, STAGE_2_DEVICE);
    bench.install(entry.with(ste::S2_PTW, 1));
    bench.passes(ADDRESS, DATA + INSIDE);
    // random content would map the page to itself
    let slot = nested.stage1.descriptor(IOVA, 3) % 0x1000;
    machine.write64(DATA + slot, IPA | STAGE_1 | PAGE);
    nested.stage1.set(IOVA, 2, IPA | TABLE);
    let command = command::tlbi_nh_va(cd::NUMBER, IOVA);
    bench.commands(&[command::with_vmid(command, ste::VMID)]);
    for _ in 0..2 {
        let ipa = IPA + slot;
        fails(&bench, "cached", Kind::Permission, Class::Table, ipa);
    }
    // without S2PTW the table is walked, with the cached entry
    bench.set_ste(SID, entry);
    bench.commands(&[command::cfgi_ste(SID)]);
    bench.passes(ADDRESS, DATA + INSIDE);
}

/// MSIs, for example, are writes to Device memory.
#[test]
fn s2ptw_permits_dma_to_device_page() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    nested.stage2.map_with(IPA, DATA, 3, STAGE_2_DEVICE);
    let entry = ste::nested(CONTEXT + IPA_OFFSET, &nested.stage2);
    bench.install(entry.with(ste::S2_PTW, 1));
    bench.transfers(ADDRESS, DATA + INSIDE);
}

/// The stage-1 fault has priority.
#[test]
fn nested_dma_to_privileged_page_is_refused() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    nested.stage1.map_with(IOVA, IPA, 3, STAGE_1 & !bits::USER);
    for attributes in [STAGE_2, AF] {
        nested.stage2.map_with(IPA, DATA, 3, attributes);
        bench.invalidate();
        for access in ACCESSES {
            let record = bench.fault1(Kind::Permission, access, ADDRESS);
            bench.faults(access, ADDRESS, record);
        }
    }
}

#[test]
fn nested_stage1_faults_equal_stage1_alone() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    for (descriptor, kind) in [
        (0, Kind::Translation),
        ((1 << 44) | STAGE_1 | PAGE, Kind::AddressSize),
        (IPA | bits::USER | PAGE, Kind::AccessFlag),
        (IPA | GLOBAL | READ_ONLY | PAGE, Kind::Permission),
    ] {
        nested.stage1.set(IOVA, 3, descriptor);
        bench.invalidate();
        let record = bench.fault1(kind, Access::Write, ADDRESS);
        bench.faults(Access::Write, ADDRESS, record);
    }
}

/// `CD.R` applies to stage 1, `STE.S2R` to stage 2.
#[test]
fn nested_fault_recording_is_per_stage() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let write = Access::Write;
    let fault1 = bench.fault1(Kind::Translation, write, ADDRESS);
    let fault2 = bench.fault2(Kind::Translation, write, ADDRESS, Class::Input, IPA);
    for (record1, record2) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        bench.set_cd(nested.context.with(cd::R, record1));
        let entry = ste::nested(CONTEXT + IPA_OFFSET, &nested.stage2);
        bench.install(entry.with(ste::S2_R, record2));
        for (tables, address, recorded, fault) in [
            (&nested.stage1, IOVA, record1, fault1),
            (&nested.stage2, IPA, record2, fault2),
        ] {
            let good = tables.get(address, 3);
            tables.set(address, 3, 0);
            bench.invalidate();
            let expected = if recorded == 1 { vec![fault] } else { vec![] };
            assert_eq!(bench.refused(write, ADDRESS), expected);
            tables.set(address, 3, good);
        }
        bench.invalidate();
        bench.passes(ADDRESS, DATA + INSIDE);
    }
}

/// The C device translates the TTBs when it decodes the CD.
#[test]
fn nested_unused_ttb_may_be_anywhere() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K4; 2], 39);
    let missing = Tables::stage1(&bench, Granule::K4, 39).seen_at(IPA + (1 << 30));
    bench.install_nested(cd::and_upper(nested.context, &missing), &nested.stage2);
    bench.passes(ADDRESS, DATA + INSIDE);
    // an upper address walks it
    let upper = (!0 << 39) + ADDRESS;
    let descriptor = missing.base() + 8 * ((upper >> 30) % 512);
    for access in ACCESSES {
        let record = bench.fault2(Kind::Translation, access, upper, Class::Table, descriptor);
        bench.faults(access, upper, record);
    }
    bench.passes(ADDRESS, DATA + INSIDE);
}

/// Stage 2 may map the 16 pages of a 64 KiB table anywhere. The C device
/// translates only the table's first address.
#[test]
fn nested_stage1_table_may_be_scattered() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let nested = Nested::new(&bench, [Granule::K64, Granule::K4], 42);
    let table = IPA + (16 << 20);
    let scattered = |page: u64| DATA + (8 << 20) + (page * 7 % 16) * 0x3000;
    for page in 0..16 {
        nested.stage2.map(table + page * 0x1000, scattered(page));
        // the first descriptor of the page
        let descriptor = (IPA + 0x1_0000 * page) | STAGE_1 | PAGE;
        machine.write64(scattered(page), descriptor);
        nested
            .stage2
            .map(IPA + 0x1_0000 * page, DATA + 0x1000 * page);
    }
    nested.stage1.set(IOVA, 2, table | TABLE);
    bench.invalidate();
    // 512 descriptors of 64 KiB are in a page
    let block = IOVA & !0x1fff_ffff;
    for page in 0..16 {
        let iova = block + page * 512 * 0x1_0000;
        bench.passes(iova + 8, DATA + 0x1000 * page + 8);
    }
    // and the first table, too
    let first = IPA + (32 << 20);
    for page in 0..16 {
        nested
            .stage2
            .map(first + page * 0x1000, scattered(page) + 0x1000);
        machine.write64(scattered(page) + 0x1000, table | TABLE);
    }
    bench.install_nested(nested.context.with_address(cd::TTB0, first), &nested.stage2);
    for page in 0..16 {
        let iova = page * 512 * 0x2000_0000;
        bench.passes(iova + 8, DATA + 8);
    }
}
