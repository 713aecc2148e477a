// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The time of a transaction in software: a hit in the caches, or a walk of tables
//! in memory.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{
    smmu::{Nested, Smmu, READ, SID, TABLES1, TABLES2},
    tables::{Tables, STAGE1, STAGE2},
};
use divan::{black_box, counter::ItemsCount, Bencher};
use smmuv3::translation::{translate, Caches, Entry, Outcome, StreamContext, Tag};

/// The first of the guest's addresses, as Linux allocates them, and the number of
/// pages.
const BASE: u64 = 0xf000_0000;
const PAGES: u64 = 1024;
const IPA: u64 = 0x20_4000_0000;
const OUTPUT: u64 = 0x5_c000_0000;

/// Addresses in an order that the CPU cannot predict.
fn anywhere(number: u64) -> u64 {
    BASE + ((number.wrapping_mul(0x9e37_79b1) % PAGES) << 12)
}

fn stage1() -> Smmu {
    let mut tables = Tables::stage1(12, 48, TABLES1);
    let mut smmu = Smmu::stage1(&tables);
    for page in 0..PAGES {
        let (address, output) = (BASE + (page << 12), OUTPUT + (page << 12));
        tables.map(&mut smmu.memory, address, 3, output, STAGE1);
    }
    smmu
}

fn nested() -> Smmu {
    let stage2 = Tables::new(12, 44, 0, TABLES2);
    let mut nested = Nested::new(Tables::stage1(12, 48, TABLES1), stage2);
    for page in 0..PAGES {
        let (address, ipa) = (BASE + (page << 12), IPA + (page << 12));
        nested
            .stage1
            .map(&mut nested.smmu.memory, address, 3, ipa, STAGE1);
        nested.map2(ipa, 3, OUTPUT + (page << 12), STAGE2);
    }
    nested.back_tables();
    nested.smmu
}

/// Caches the stream's configuration and nothing else.
struct Configured(Option<StreamContext>);

impl Caches for Configured {
    fn note_split(&mut self, _: u8) {}

    fn context(&mut self, _: u32) -> Option<StreamContext> {
        self.0
    }

    fn insert_context(&mut self, _: u32, context: &StreamContext) {
        self.0 = Some(*context);
    }

    fn lookup(&mut self, _: Tag, _: u64) -> Option<Entry> {
        None
    }

    fn insert(&mut self, _: Tag, _: u64, _: &Entry) {}
}

/// Items are transactions.
fn transactions(
    bencher: Bencher<'_, '_>,
    mut smmu: Smmu,
    transaction: &mut dyn FnMut(&mut Smmu, u64),
) {
    bencher.counter(ItemsCount::new(PAGES)).bench_local(|| {
        for number in 0..PAGES {
            transaction(&mut smmu, black_box(anywhere(number)));
        }
    });
}

fn walk_all(bencher: Bencher<'_, '_>, tables: Smmu) {
    let mut caches = Configured(None);
    transactions(bencher, tables, &mut |smmu, address| {
        let Smmu {
            registers,
            features,
            memory,
            ..
        } = smmu;
        let outcome = translate(
            &registers.stream_table(),
            features,
            memory,
            &mut caches,
            SID,
            address,
            READ,
        );
        assert!(matches!(black_box(outcome), Outcome::Translated { .. }));
    });
}

#[divan::bench]
fn hit(bencher: Bencher<'_, '_>) {
    let mut smmu = stage1();
    for number in 0..PAGES {
        smmu.cached(anywhere(number), READ);
    }
    bencher.counter(ItemsCount::new(PAGES)).bench_local(|| {
        for number in 0..PAGES {
            let found = smmu.store.hit(SID, black_box(anywhere(number)), READ);
            assert!(black_box(found).is_some());
        }
    });
}

#[divan::bench]
fn hit_through_translate(bencher: Bencher<'_, '_>) {
    let mut warm = stage1();
    for number in 0..PAGES {
        warm.cached(anywhere(number), READ);
    }
    transactions(bencher, warm, &mut |smmu, address| {
        black_box(smmu.cached(address, READ));
    });
}

/// Four descriptors.
#[divan::bench]
fn miss_of_stage_1(bencher: Bencher<'_, '_>) {
    walk_all(bencher, stage1());
}

/// 24 descriptors: those of stage 1, and four of stage 2 for each of them and
/// for the page.
#[divan::bench]
fn miss_nested(bencher: Bencher<'_, '_>) {
    walk_all(bencher, nested());
}

/// Of stage 2, the tables' pages are cached.
#[divan::bench]
fn miss_nested_with_tlb(bencher: Bencher<'_, '_>) {
    let mut next = 0;
    transactions(bencher, nested(), &mut |smmu, address| {
        if next % PAGES == 0 {
            smmu.store.clear();
        }
        next += 1;
        black_box(smmu.cached(address, READ));
    });
}

/// The configuration as well: Stream table entry and Context descriptor.
#[divan::bench]
fn miss_of_everything(bencher: Bencher<'_, '_>) {
    transactions(bencher, stage1(), &mut |smmu, address| {
        black_box(smmu.walk(address, READ));
    });
}

fn main() {
    divan::main();
}
