// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Range invalidation (§4.4.1.1): pages in the range are walked again.

use smmuv3_qtest::command::{self, Command, Range};

use crate::{
    bench::{install_stage2, machine, Bench, Nested, Stage1, DATA, IOVA, IPA},
    entries::{
        cd::{self, NUMBER},
        ste::VMID,
    },
    tables::{Granule, Tables},
};

/// Pairs of `NUM` and `SCALE`: the range has (`NUM` + 1) << `SCALE` pages.
const SHAPES: [(u64, u64); 8] = [
    (1, 0),
    (2, 0),
    (6, 0),
    (0, 1),
    (0, 3),
    (3, 1),
    (1, 2),
    (4, 0),
];

/// Maps and caches `count` pages from `iova` on, remaps them, and checks that
/// all are walked again after `command`.
#[track_caller]
fn remaps(
    bench: &Bench<'_>,
    granule: Granule,
    iova: u64,
    count: u64,
    map: impl Fn(u64, u64),
    command: Command,
) {
    let page = |index| index * granule.size();
    for shift in [0, 16, 32] {
        for index in 0..count {
            map(iova + page(index), DATA + page(index + shift));
        }
        bench.commands(&[command]);
        for index in 0..count {
            let address = DATA + page(index + shift) + 0x10;
            let word = bench.edu.write(iova + page(index) + 0x10);
            let arrived = bench.machine.read32(address);
            assert_eq!(arrived, word, "{command:x?}: page {index} of {count}");
        }
    }
    assert_eq!(bench.records(), [], "{command:x?}");
}

/// Returns ranges of these sizes with each TTL for pages.
fn ranges(granule: Granule) -> impl Iterator<Item = (Range, u64)> {
    let tg = granule.tg();
    SHAPES.into_iter().flat_map(move |(num, scale)| {
        [0, 3].map(|ttl| {
            let range = Range {
                tg,
                num,
                scale,
                ttl,
            };
            (range, (num + 1) << scale)
        })
    })
}

#[test]
fn range_tlbi_invalidates_every_page() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let stage1 = Stage1::new(&bench, granule, 42);
        let map = |iova, data| stage1.tables.map(iova, data);
        // aligned to a page only
        for first in [IOVA, IOVA + granule.size(), IOVA + 5 * granule.size()] {
            for (range, count) in ranges(granule) {
                let commands = [
                    command::tlbi_nh_va(NUMBER, first),
                    command::tlbi_nh_vaa(first),
                ];
                for command in commands {
                    remaps(&bench, granule, first, count, map, range.of(command));
                }
            }
        }
    }
}

#[test]
fn range_tlbi_invalidates_every_stage2_page() {
    let machine = machine("2").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let tables = install_stage2(&bench, granule, 42);
        let map = |iova, data| tables.map(iova, data);
        for first in [IOVA, IOVA + 3 * granule.size()] {
            for (range, count) in ranges(granule) {
                let command = range.of(command::tlbi_s2_ipa(VMID, first));
                remaps(&bench, granule, first, count, map, command);
            }
        }
    }
}

/// TG is the granule of the stage that the command invalidates.
#[test]
fn range_tlbi_invalidates_nested_granules() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for granules in [
        [Granule::K4; 2],
        [Granule::K64, Granule::K4],
        [Granule::K4, Granule::K64],
    ] {
        bench.free_tables();
        let nested = Nested::new(&bench, granules, 42);
        let inner = granules[1].size();
        for at in (0..48 * granules[0].size()).step_by(inner as usize) {
            nested.stage2.map(IPA + at, DATA + at);
        }
        bench.invalidate();
        let map = |iova, data: u64| nested.stage1.map(iova, data - DATA + IPA);
        for (range, count) in ranges(granules[0]) {
            for command in [
                command::tlbi_nh_va(NUMBER, IOVA),
                command::tlbi_nh_vaa(IOVA),
            ] {
                let command = command::with_vmid(range.of(command), VMID);
                remaps(&bench, granules[0], IOVA, count, map, command);
            }
        }
    }
}

/// `TTL` 3 with one page: only a hint, not a range.
#[test]
fn tlbi_with_ttl_invalidates_page() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let stage1 = Stage1::new(&bench, granule, 42);
        let map = |iova, data| stage1.tables.map(iova, data);
        let range = Range {
            tg: granule.tg(),
            ttl: 3,
            ..Range::default()
        };
        for command in [
            command::tlbi_nh_va(NUMBER, IOVA),
            command::tlbi_nh_vaa(IOVA),
        ] {
            remaps(&bench, granule, IOVA, 1, map, range.of(command));
        }
    }
}

#[test]
fn tlbi_with_ttl_invalidates_block() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let tables = Tables::stage1(&bench, granule, 42);
        bench.install_stage1(cd::lower(&tables));
        let size = 1_u64 << granule.shift(2);
        let pages_log2 = u64::from(granule.shift(2) - granule.bits());
        let output = DATA & !(size - 1);
        let (iova, inside) = (7 * size, DATA % size);
        for (scale, ttl) in [(pages_log2, 0), (pages_log2, 2), (0, 2)] {
            let range = Range {
                tg: granule.tg(),
                num: 0,
                scale,
                ttl,
            };
            let command = range.of(command::tlbi_nh_va(NUMBER, iova));
            tables.set(iova, 2, 0);
            tables.map_block(iova, output, 2);
            bench.commands(&[command]);
            bench.passes(iova + inside, DATA);
            tables.set(iova, 2, 0);
            tables.map(iova + inside, DATA + 0x10_0000);
            bench.commands(&[command]);
            bench.passes(iova + inside, DATA + 0x10_0000);
            // pages are not of that level, so the command needs another TTL
            bench.invalidate();
        }
    }
}

/// A range of any size and start that includes the page.
#[test]
fn range_tlbi_may_cover_address_space() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for granule in Granule::ALL {
        bench.free_tables();
        let tables = Tables::stage1(&bench, granule, 42);
        let both = cd::and_upper(cd::lower(&tables), &tables);
        bench.install_stage1(both);
        let upper = !0 << 42;
        for (first, iova) in [(0, IOVA), (IOVA, IOVA), (upper, upper + IOVA)] {
            for (num, scale) in [(31, 31), (0, 31), (31, 30), (30, 29), (31, 20)] {
                let range = Range {
                    tg: granule.tg(),
                    num,
                    scale,
                    ttl: 0,
                };
                for command in [
                    command::tlbi_nh_va(NUMBER, first),
                    command::tlbi_nh_vaa(first),
                ] {
                    let map = |_, data| tables.map(IOVA, data);
                    remaps(&bench, granule, iova, 1, map, range.of(command));
                }
            }
        }
    }
}

/// The range ends at the last address; the effect beyond is not specified.
#[test]
fn range_tlbi_stops_at_last_address() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    let tables = Tables::stage1(&bench, Granule::K4, 39);
    bench.install_stage1(cd::upper(&tables));
    let last = !0xfff;
    for (num, scale) in [(1, 0), (31, 31), (2, 5)] {
        let range = Range {
            tg: 1,
            num,
            scale,
            ttl: 0,
        };
        for command in [
            command::tlbi_nh_va(NUMBER, last),
            command::tlbi_nh_vaa(last),
        ] {
            let map = |_, data| tables.map(last, data);
            remaps(&bench, Granule::K4, last, 1, map, range.of(command));
        }
        bench.commands(&[range.of(command::tlbi_s2_ipa(VMID, last))]);
    }
}

/// The affected addresses are UNPREDICTABLE, but the command must complete.
#[test]
fn unaligned_range_tlbi_is_consumed() {
    let machine = machine("nested").start();
    let bench = Bench::new(&machine);
    for granule in [Granule::K16, Granule::K64] {
        bench.free_tables();
        let stage1 = Stage1::new(&bench, granule, 42);
        for address in [IOVA + 0x1000, IOVA + 0x3000, IOVA - 0x1000, !0xfff] {
            for (num, scale, ttl) in [(0, 0, 3), (1, 0, 0), (31, 31, 0), (7, 3, 1), (4, 2, 2)] {
                let range = Range {
                    tg: granule.tg(),
                    num,
                    scale,
                    ttl,
                };
                bench.passes(IOVA, DATA);
                bench.commands(&[
                    range.of(command::tlbi_nh_va(NUMBER, address)),
                    range.of(command::tlbi_nh_vaa(address)),
                    range.of(command::tlbi_s2_ipa(VMID, address)),
                ]);
                bench.passes(IOVA, DATA);
            }
        }
        // and an aligned range still works
        stage1.tables.map(IOVA, DATA + 0x1_0000);
        bench.commands(&[command::tlbi_nh_va(NUMBER, IOVA)]);
        bench.passes(IOVA, DATA + 0x1_0000);
    }
}
