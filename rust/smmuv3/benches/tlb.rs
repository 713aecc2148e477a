// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A full TLB's time per transaction and per command.

use divan::{black_box, counter::ItemsCount, Bencher};
use smmuv3::translation::{Entry, Permissions, Range, Tag, Tlb, TlbiScope};

/// Number of entries of a TLB.
const ENTRIES: u64 = 4096;
/// The first of the guest's addresses, as Linux allocates them.
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

/// Addresses in an order that the CPU cannot predict.
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

/// A TLB that also has a few blocks of other sizes, so that a look-up tries more keys.
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

/// Each insertion evicts an entry.
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

/// Items are commands, which invalidate all entries of a TLB one after the other.
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

/// A command that affects no entry, but compares all of them.
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

/// A guest that maps strictly, for each buffer: a miss, the walk's entry, some
/// transactions, and the command that invalidates the entry.
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
