// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What a full TLB costs per transaction and per command.

use divan::{black_box, counter::ItemsCount, Bencher};
use smmuv3::translation::{Entry, Permissions, Range, Tag, Tlb, TlbiScope};

/// As many entries as a TLB has.
const ENTRIES: u64 = 4096;
/// Where the guest's addresses begin, as Linux gives them out.
const BASE: u64 = 0xf000_0000;

const TAG: Tag = Tag {
    vmid: 0,
    asid: Some(5),
};

const fn page(log2_bytes: u8) -> Entry {
    Entry {
        output: 0x1_0000_0000,
        log2_bytes,
        stage1: Permissions::ALL,
        stage2: Permissions::ALL,
        device: false,
        global: false,
    }
}

const fn address(number: u64) -> u64 {
    BASE + (number << 12)
}

/// Addresses without an order that the machine could guess.
fn anywhere(number: u64) -> u64 {
    address(number.wrapping_mul(0x9e37_79b1) % ENTRIES)
}

fn fill(tlb: &mut Tlb, entries: u64) {
    for number in 0..entries {
        tlb.insert(TAG, address(number), &page(12));
    }
}

fn full() -> Tlb {
    let mut tlb = Tlb::new();
    fill(&mut tlb, ENTRIES);
    tlb
}

/// The same with a few blocks of other sizes: there is more to look for.
fn mixed() -> Tlb {
    let mut tlb = full();
    for log2_bytes in [16, 21, 30] {
        tlb.insert(TAG, 1 << 40, &page(log2_bytes));
    }
    tlb
}

fn lookups(bencher: Bencher<'_, '_>, tlb: &Tlb, tag: Tag) {
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        for number in 0..ENTRIES {
            black_box(tlb.lookup(tag, black_box(anywhere(number))));
        }
    });
}

#[divan::bench]
fn hit(bencher: Bencher<'_, '_>) {
    lookups(bencher, &full(), TAG);
}

#[divan::bench]
fn hit_among_four_sizes(bencher: Bencher<'_, '_>) {
    lookups(bencher, &mixed(), TAG);
}

#[divan::bench]
fn miss(bencher: Bencher<'_, '_>) {
    let other = Tag {
        asid: Some(6),
        ..TAG
    };
    lookups(bencher, &full(), other);
}

#[divan::bench]
fn miss_among_four_sizes(bencher: Bencher<'_, '_>) {
    let other = Tag {
        asid: Some(6),
        ..TAG
    };
    lookups(bencher, &mixed(), other);
}

/// Each makes room for itself.
#[divan::bench]
fn insert(bencher: Bencher<'_, '_>) {
    let mut tlb = full();
    let mut next = ENTRIES;
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        for number in next..next + ENTRIES {
            tlb.insert(TAG, address(number), &page(12));
        }
        next = (next + ENTRIES) % (1 << 30);
    });
}

/// Items are commands, which take everything away from a TLB bit by bit.
fn invalidations(bencher: Bencher<'_, '_>, make: fn() -> Tlb, pages: u64) {
    let commands = ENTRIES / pages;
    bencher
        .counter(ItemsCount::new(commands))
        .with_inputs(make)
        .bench_local_values(|mut tlb| {
            for number in 0..commands {
                let first = address(number * pages);
                tlb.invalidate(black_box(&TlbiScope::Address {
                    vmid: TAG.vmid,
                    asid: TAG.asid,
                    range: Range {
                        first,
                        last: first + (pages << 12) - 1,
                    },
                    leaf: true,
                }));
            }
            tlb
        });
}

#[divan::bench(args = [1, 16, 256, 1024, 4096])]
fn invalidate_pages(bencher: Bencher<'_, '_>, pages: u64) {
    invalidations(bencher, full, pages);
}

#[divan::bench]
fn invalidate_one_page_among_four_sizes(bencher: Bencher<'_, '_>) {
    invalidations(bencher, mixed, 1);
}

/// Hits nothing, but all entries are looked at.
#[divan::bench]
fn invalidate_another_asid(bencher: Bencher<'_, '_>) {
    let mut tlb = full();
    bencher.bench_local(|| {
        tlb.invalidate(black_box(&TlbiScope::Asid {
            vmid: TAG.vmid,
            asid: 6,
        }));
    });
}

#[divan::bench]
fn invalidate_all(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(full).bench_local_values(|mut tlb| {
        tlb.invalidate(black_box(&TlbiScope::All));
        tlb
    });
}

/// What a guest that maps strictly does for each buffer: a miss, the walk's
/// entry, some transactions, and the command that takes it away.
#[divan::bench]
fn mapping_used_and_unmapped(bencher: Bencher<'_, '_>) {
    let mut tlb = full();
    bencher.counter(ItemsCount::new(ENTRIES)).bench_local(|| {
        for number in 0..ENTRIES {
            let iova = black_box(anywhere(number) + (1 << 30));
            black_box(tlb.lookup(TAG, iova));
            tlb.insert(TAG, iova, &page(12));
            for _ in 0..4 {
                black_box(tlb.lookup(TAG, iova));
            }
            tlb.invalidate(&TlbiScope::Address {
                vmid: TAG.vmid,
                asid: TAG.asid,
                range: Range::page(iova, 12),
                leaf: true,
            });
        }
    });
}

fn main() {
    divan::main();
}
