// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation by stage 2 alone.

use crate::{
    bench::{install_stage2, machine, Bench, Stage1, CONTEXT, DATA, IOVA},
    entries::ste,
    tables::{bits::STAGE_2_DEVICE, Granule, Tables},
};

/// Input address sizes for each start level: the smallest, the largest with one
/// table, and those with concatenated tables, up to 16 tables or 44 bits.
const SIZES: [(Granule, u32, &[u32]); 9] = [
    (Granule::K4, 2, &[25, 30, 31, 34]),
    (Granule::K4, 1, &[31, 39, 40, 43]),
    (Granule::K4, 0, &[40, 44]),
    (Granule::K16, 3, &[25, 26, 29]),
    (Granule::K16, 2, &[26, 36, 37, 40]),
    (Granule::K16, 1, &[37, 44]),
    (Granule::K64, 3, &[25, 29, 30, 33]),
    (Granule::K64, 2, &[30, 42, 43, 44]),
    (Granule::K64, 1, &[43, 44]),
];

#[test]
fn stage2_concatenated_tables_translate() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    for (granule, start, sizes) in SIZES {
        for bits in sizes {
            bench.free_tables();
            let tables = Tables::stage2_from(&bench, granule, *bits, start);
            let pages = [0, IOVA, tables.last_page()];
            for (page, ipa) in pages.into_iter().enumerate() {
                tables.map(ipa, DATA + page as u64 * 0x1_0000);
            }
            bench.install(ste::stage2(&tables));
            for (page, ipa) in pages.into_iter().enumerate() {
                bench.transfers(ipa + 0x340, DATA + page as u64 * 0x1_0000 + 0x340);
            }
        }
    }
}

#[test]
fn stage2_every_block_translates() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        for level in granule.blocks() {
            let tables = Tables::stage2(&bench, granule, 42);
            let size = 1 << granule.shift(*level);
            let output = DATA & !(size - 1);
            tables.map_block(5 * size, output, *level);
            bench.install(ste::stage2(&tables));
            for inside in [DATA % size, DATA % size + 0x12_3454] {
                bench.transfers(5 * size + inside, output + inside);
            }
        }
    }
}

/// `S2PTW` applies to reads for stage 1 only. Firmware sets it with stage 2
/// alone and maps all memory as Device memory.
#[test]
fn s2ptw_without_stage1_refuses_nothing() {
    for stage in ["2", "nested"] {
        let machine = machine(stage).start();
        let bench = Bench::new(&machine);
        let tables = install_stage2(&bench, Granule::K4, 39);
        tables.map_with(IOVA, DATA, 3, STAGE_2_DEVICE);
        bench.install(ste::stage2(&tables).with(ste::S2_PTW, 1));
        for _ in 0..2 {
            bench.transfers(IOVA, DATA);
        }
    }
}

/// The C device aborts QEMU on the Reserved encodings.
#[test]
fn reserved_s2ps_selects_largest_oas() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    let tables = install_stage2(&bench, Granule::K4, 32);
    for s2ps in 0..8 {
        bench.install(ste::stage2(&tables).with(ste::S2_PS, s2ps));
        bench.transfers(IOVA, DATA);
    }
}

#[test]
fn stage2_ignores_stage1_ste_fields() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let tables = install_stage2(&bench, Granule::K4, 39);
    bench.install(
        ste::stage2(&tables)
            .with(ste::S1_STALLD, 1)
            .with_address(ste::S1_CONTEXT_PTR, 0xff_ffff_ffff_ffc0),
    );
    bench.transfers(IOVA, DATA);
}

#[test]
fn stage1_ignores_stage2_ste_fields() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let stage1 = Stage1::new(&bench, Granule::K4, 39);
    bench.set_cd(stage1.context);
    bench.install(
        ste::stage1(CONTEXT)
            .with(ste::S2_VMID, 9)
            .with(ste::S2_T0SZ, 63)
            .with(ste::S2_SL0, 3)
            .with(ste::S2_TG, 3)
            .with(ste::S2_AA64, 0)
            .with(ste::S2_ENDI, 1)
            .with(ste::S2_S, 1)
            .with_address(ste::S2_TTB, 0xf_ffff_ffff_fff0),
    );
    bench.transfers(IOVA, DATA);
}
