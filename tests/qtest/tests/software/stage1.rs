// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation by stage 1 alone.

use smmuv3_qtest::Access;

use crate::{
    bench::{machine, Bench, Stage1, DATA, IOVA},
    entries::{cd, ste},
    record::Kind,
    tables::{
        bits::{GLOBAL, TABLE},
        Granule, Tables,
    },
};

/// Input address sizes: the largest and the smallest for each start level.
const SIZES: [(Granule, &[u32]); 3] = [
    (Granule::K4, &[48, 40, 39, 31, 30, 25]),
    (Granule::K16, &[48, 47, 37, 36, 26, 25]),
    (Granule::K64, &[48, 43, 42, 30, 29, 25]),
];

#[test]
fn stage1_every_granule_and_level_translates() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for (granule, sizes) in SIZES {
        for bits in sizes {
            bench.free_tables();
            let tables = Tables::stage1(&bench, granule, *bits);
            let pages = [0, IOVA, tables.last_page()];
            for (page, iova) in pages.into_iter().enumerate() {
                tables.map(iova, DATA + page as u64 * 0x1_0000);
            }
            bench.install_stage1(cd::lower(&tables));
            for (page, iova) in pages.into_iter().enumerate() {
                let data = DATA + page as u64 * 0x1_0000;
                bench.transfers(iova + 0x340, data + 0x340);
                bench.transfers(iova, data);
                let last = granule.size() - 4;
                bench.transfers(iova + last, data + last);
            }
        }
    }
}

#[test]
fn stage1_every_block_translates() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        for level in granule.blocks() {
            let tables = Tables::stage1(&bench, granule, 42);
            let size = 1 << granule.shift(*level);
            let output = DATA & !(size - 1);
            tables.map_block(5 * size, output, *level);
            bench.install_stage1(cd::lower(&tables));
            for inside in [DATA % size, DATA % size + 0x12_3454] {
                bench.transfers(5 * size + inside, output + inside);
            }
        }
    }
}

/// A first table is aligned to its own size (64 bytes for the smallest).
#[test]
fn small_first_table_has_own_alignment() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    bench.allocate(64);
    let tables = Tables::stage1(&bench, Granule::K4, 31);
    assert_ne!(tables.base() % 0x1000, 0);
    tables.map(IOVA | (1 << 30), DATA);
    bench.install_stage1(cd::lower(&tables));
    bench.transfers(IOVA | (1 << 30), DATA);
}

/// Installs a CD whose halves have their own granules and sizes.
fn install_halves(bench: &Bench<'_>, lower: (Granule, u32), upper: (Granule, u32)) {
    let low = Tables::stage1(bench, lower.0, lower.1);
    let high = Tables::stage1(bench, upper.0, upper.1);
    low.map(IOVA, DATA);
    high.map(IOVA, DATA + 0x10_0000);
    high.map(high.last_page(), DATA + 0x20_0000);
    bench.install_stage1(cd::and_upper(cd::lower(&low), &high));
}

#[test]
fn upper_half_has_its_own_tables() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for upper in Granule::ALL {
        for (lower, bits) in [
            (Granule::K4, 48),
            (Granule::K16, 39),
            (Granule::K64, 30),
            (upper, 25),
        ] {
            bench.free_tables();
            install_halves(&bench, (lower, 39), (upper, bits));
            let first = !0 << bits;
            bench.transfers(IOVA + 8, DATA + 8);
            bench.transfers((first + IOVA) + 8, DATA + 0x10_0008);
            let last = upper.size() - 4;
            bench.transfers(!3, DATA + 0x20_0000 + last);
        }
    }
}

#[test]
fn upper_half_translates_with_epd0() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let tables = Tables::stage1(&bench, Granule::K4, 39);
    tables.map(IOVA, DATA);
    bench.install_stage1(cd::upper(&tables));
    let iova = (!0 << 39) + IOVA;
    bench.transfers(iova, DATA);
    let fault = bench.fault1(Kind::Translation, Access::Write, IOVA);
    bench.faults(Access::Write, IOVA, fault);
}

#[test]
fn tbi_ignores_top_byte_per_half() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let low = Tables::stage1(&bench, Granule::K4, 48);
    let high = Tables::stage1(&bench, Granule::K4, 48);
    low.map(IOVA, DATA);
    high.map(IOVA, DATA + 0x1000);
    let halves = cd::and_upper(cd::lower(&low), &high);
    let tagged = |tag: u64, upper: bool| {
        let sign = if upper { 0xff_ffff_u64 << 48 } else { 0 };
        IOVA | sign & !(0xff << 56) | (tag << 56)
    };
    for tbi in 0..4 {
        let context = halves.with(cd::TBI0, tbi & 1).with(cd::TBI1, tbi >> 1);
        bench.install_stage1(context);
        for (upper, own, data) in [(false, 0, DATA), (true, 0xff, DATA + 0x1000)] {
            let ignored = (tbi >> u32::from(upper)) & 1 == 1;
            bench.transfers(tagged(own, upper), data);
            for tag in [0x01, 0x80, 0x5a, 0xff - own] {
                let iova = tagged(tag, upper);
                if ignored {
                    bench.transfers(iova, data);
                } else {
                    let fault = bench.fault1(Kind::Translation, Access::Write, iova);
                    bench.faults_when(format!("TBI {tbi:#b}"), Access::Write, iova, fault);
                }
            }
        }
    }
}

/// Bits between the input range and the top byte must still be canonical.
#[test]
fn tbi_does_not_widen_input_range() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    bench.install_stage1(stage1.context.with(cd::TBI0, 1).with(cd::TBI1, 1));
    bench.transfers(IOVA | (0x33 << 56), DATA);
    for bit in [39, 47, 55] {
        let iova = IOVA | (1 << bit) | (0x33 << 56);
        let fault = bench.fault1(Kind::Translation, Access::Write, iova);
        bench.faults(Access::Write, iova, fault);
    }
}

#[test]
fn dma_follows_tables_across_pages() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        let stage1 = Stage1::new(&bench, granule, 39);
        let size = granule.size();
        let (first, second) = (DATA + 5 * size, DATA + 2 * size);
        stage1.tables.map(IOVA, first);
        stage1.tables.map(IOVA + size, second);
        bench.invalidate();
        let bytes = bench.edu.write_bytes(IOVA + size - 0x300, 0x800);
        let mut arrived = machine.read_memory(first + size - 0x300, 0x300);
        arrived.extend(machine.read_memory(second, 0x500));
        assert_eq!(arrived, bytes, "{granule:?}");
        assert_eq!(bench.records(), []);

        let (back, dump) = (IOVA + size - 0x300, DATA + 8 * size);
        bench.edu.read(back, 0x800);
        bench.install(ste::bypass());
        bench.edu.deliver(dump, 0x800);
        assert_eq!(machine.read_memory(dump, 0x800), bytes, "{granule:?}");
        assert_eq!(bench.records(), []);
    }
}

#[test]
fn dma_stops_at_unmapped_page() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    Stage1::new(&bench, Granule::K4, 39);
    let start = IOVA + 0x1000 - 0x100;
    machine.fill_memory(DATA, 0x2000, 0);
    let bytes = bench.edu.write_bytes(start, 0x200);
    assert_eq!(machine.read_memory(DATA + 0xf00, 0x100), bytes[..0x100]);
    assert_eq!(machine.read_memory(DATA + 0x1000, 0x1000), [0; 0x1000]);
    let records = bench.records();
    let fault = bench.fault1(Kind::Translation, Access::Write, IOVA + 0x1000);
    assert_eq!(records.first(), Some(&fault), "{records:?}");
}

/// Software bits, and attributes that do not affect data permissions.
#[test]
fn stage1_other_descriptor_bits_have_no_effect() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    let leaf = stage1.tables.get(IOVA, 3);
    // memory attributes, shareability, nG, contiguous, PXN, XN, software's
    for bits in [0x7 << 2, 0x3 << 8, 1 << 11, 1 << 52, 3 << 53, 0xf << 55] {
        stage1.tables.set(IOVA, 3, leaf | bits);
        bench.invalidate();
        bench.transfers(IOVA, DATA);
    }
    stage1.tables.set(IOVA, 3, leaf);
    let table = stage1.tables.get(IOVA, 2);
    // ignored bits, PXNTable, XNTable
    for bits in [0x3ff << 2, 0x7f << 52, 1 << 59, 1 << 60] {
        stage1.tables.set(IOVA, 2, table | bits);
        bench.invalidate();
        bench.transfers(IOVA, DATA);
    }
}

/// The C device aborts QEMU on the Reserved encodings.
#[test]
fn reserved_ips_selects_largest_oas() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    for ips in 0..8 {
        bench.install_stage1(stage1.context.with(cd::IPS, ips));
        bench.transfers(IOVA, DATA);
    }
}

/// With `EPDx` the fields of that half are ignored.
#[test]
fn epd_ignores_fields_of_its_half() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let tables = Tables::stage1(&bench, Granule::K4, 39);
    tables.map(IOVA, DATA);
    let nowhere = 0xffff_ffff_fff0;
    let lower = cd::lower(&tables).with(cd::T1SZ, 63).with(cd::TG1, 0);
    bench.install_stage1(lower.with_address(cd::TTB1, nowhere));
    bench.transfers(IOVA, DATA);
    let upper = cd::upper(&tables).with(cd::T0SZ, 63).with(cd::TG0, 3);
    bench.install_stage1(upper.with_address(cd::TTB0, nowhere));
    bench.transfers((!0 << 39) + IOVA, DATA);
}

/// A self-map, as kernels use it: an entry of the first table points to the
/// table itself.
#[test]
fn self_referencing_table_translates() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 48);
    let own = 0x1ff << 39;
    stage1
        .tables
        .set(own, 0, stage1.tables.base() | TABLE | GLOBAL);
    bench.invalidate();
    bench.transfers(IOVA, DATA);
    // the same entry in each level
    let seen = own | (0x1ff << 30) | (0x1ff << 21) | (0x1ff << 12);
    let unused = 8 * 0x100;
    bench.transfers(seen + unused, stage1.tables.base() + unused);
}
