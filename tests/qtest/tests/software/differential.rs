// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The same random tables and accesses with both devices must have the same
//! results. Cases in which the C device is known to violate the specification
//! are left out, because other tests cover them: concatenated tables, table
//! permissions, reserved blocks, output sizes, privileged pages, and a stage 2
//! that refuses stage-1 tables.

use smmuv3_qtest::{qemu, qemu_c, Access, Machine, Random};

use crate::{
    bench::{machine_of, Bench, ACCESSES, CONTEXT, DATA, IPA, IPA_OFFSET, SID},
    entries::{cd, ste, Entry},
    record::Record,
    tables::{
        bits::{AF, NOT_GLOBAL, READ_ONLY, S2_READ, S2_WRITE, USER},
        Granule, Tables,
    },
};

const UNIT: u64 = 0x1_0000;
const UNITS: u64 = 16;

/// Returns an address with the low bits of [`DATA`], so that blocks reach it,
/// too.
fn address(random: &mut Random) -> u64 {
    let block = random.next() % 4;
    let unit = random.next() % UNITS;
    let offset = random.next() % (UNIT / 4) * 4;
    (block << 30) | (DATA % (1 << 30)) | (unit * UNIT) | offset
}

/// The state of both devices, one field for each.
struct Pair<'a> {
    benches: [Bench<'a>; 2],
}

/// Tables with the same contents.
struct Twins<'a> {
    tables: [Tables<'a>; 2],
}

impl Twins<'_> {
    fn set(&self, address: u64, level: u32, descriptor: u64) {
        for tables in &self.tables {
            tables.set(address, level, descriptor);
        }
    }

    /// Changes the mapping of an address.
    fn change(&self, random: &mut Random, address: u64, base: u64, stage2: bool) {
        let tables = &self.tables[0];
        // not the mappings of stage 1's own tables
        let top = tables.start.max(u32::from(base == DATA && stage2));
        let broken = random.of(&[3, 3, 3, 3, 2, top]).max(top);
        let bits = random.next();
        if bits % 8 == 0 {
            // anything that is not valid
            self.set(address, broken, random.next() & !1);
            return;
        }
        let block = tables.granule.blocks()[0].max(tables.start);
        let level = if bits % 8 < 3 { block } else { 3 };
        let permissions = if stage2 {
            [S2_READ | S2_WRITE, S2_READ | S2_WRITE, S2_READ, 0][(bits >> 8) as usize % 4]
        } else {
            (((bits >> 8) & 1) * READ_ONLY) | USER | NOT_GLOBAL
        };
        let flag = if (bits >> 16) & 7 == 0 { 0 } else { AF };
        let span = 1_u64 << tables.granule.shift(level);
        let place = base + (bits >> 24) % UNITS * UNIT;
        let output = if level == 3 { place } else { base } & !(span - 1);
        let kind = if level == 3 { 3 } else { 1 };
        self.set(address, level, output | permissions | flag | kind);
    }
}

impl<'a> Pair<'a> {
    fn new(machines: [&'a Machine; 2]) -> Self {
        Self {
            benches: machines.map(Bench::new),
        }
    }

    fn twins(&'a self, make: impl Fn(&'a Bench<'a>) -> Tables<'a>) -> Twins<'a> {
        Twins {
            tables: [make(&self.benches[0]), make(&self.benches[1])],
        }
    }

    fn free_tables(&self) {
        for bench in &self.benches {
            bench.free_tables();
        }
    }

    /// Returns the result of an access: the address of its word, and the
    /// records.
    fn outcome(bench: &Bench<'_>, access: Access, iova: u64) -> (Vec<u64>, Vec<Record>) {
        bench.invalidate();
        let inside = iova % UNIT;
        let places: Vec<u64> = (0..UNITS).map(|unit| DATA + unit * UNIT + inside).collect();
        let mut arrived = Vec::new();
        if access == Access::Write {
            let word = bench.edu.write(iova);
            let there = |at: &u64| bench.machine.read32(*at) == word;
            arrived = places.into_iter().filter(there).collect();
        } else {
            bench.edu.read(iova, 4);
        }
        let mut records = bench.records();
        for record in &mut records {
            // the C device records all bits of an IPA
            record.0[3] &= !0xfff;
        }
        (arrived, records)
    }

    #[track_caller]
    fn same(&self, what: &str, access: Access, iova: u64) -> bool {
        let [rust, c] = [&self.benches[0], &self.benches[1]];
        let rust = Self::outcome(rust, access, iova);
        let c = Self::outcome(c, access, iova);
        assert_eq!(rust, c, "{what}: {access:?} of {iova:#x}, Rust and C");
        rust.1.is_empty()
    }

    /// Random changes of one stage alone or of both, and accesses.
    fn compare(&'a self, stage: &str, seed: u64) {
        let mut random = Random::new(seed);
        let mut passed = 0;
        for _ in 0..12 {
            self.free_tables();
            let granules = [random.of(&Granule::ALL), random.of(&Granule::ALL)];
            let bits = random.of(&[32, 36, 39, 42, 48]);
            let nested = stage == "nested";
            let offset = if nested { IPA_OFFSET } else { 0 };
            let first = self.twins(|bench| match stage {
                "2" => Tables::stage2(bench, granules[0], bits.min(44)),
                _ => Tables::stage1(bench, granules[0], bits).seen_at(offset),
            });
            let second = self.twins(|bench| bench.stage2_for_tables(granules[1]));
            for (index, bench) in self.benches.iter().enumerate() {
                let entry = match stage {
                    "2" => ste::stage2(&first.tables[index]),
                    "1" => ste::stage1(CONTEXT),
                    _ => ste::nested(CONTEXT + IPA_OFFSET, &second.tables[index]),
                };
                if stage != "2" {
                    bench.set_cd(context(&random, &first.tables[index]));
                }
                bench.set_ste(SID, entry);
            }
            random.next();
            for step in 0..40 {
                let iova = address(&mut random);
                let base = if nested { IPA } else { DATA };
                first.change(&mut random, iova, base, stage == "2");
                if nested {
                    let ipa = IPA + random.next() % UNITS * UNIT;
                    second.change(&mut random, ipa, DATA, true);
                }
                for input in [iova, address(&mut random)] {
                    let access = random.of(&ACCESSES);
                    let what = format!("{granules:?}, {bits}, step {step} of {seed:#x}");
                    passed += u32::from(self.same(&what, access, input));
                }
            }
        }
        assert!(passed > 50, "{passed} accesses passed: nothing to compare");
    }
}

/// Returns random CD fields that affect faults. The generator is copied, so
/// that both devices get the same values.
fn context(random: &Random, tables: &Tables<'_>) -> Entry {
    let mut random = random.clone();
    let bits = random.next();
    cd::lower(tables)
        .with(cd::AFFD, u64::from(bits % 4 == 0))
        .with(cd::R, u64::from((bits >> 8) & 7 != 0))
        .with(cd::TBI0, (bits >> 16) & 1)
        .with(cd::TBI1, (bits >> 16) & 1)
}

fn with_both(stage: &str, seeds: [u64; 2]) {
    let machines = [qemu(), qemu_c()].map(|binary| machine_of(binary, stage).start());
    let pair = Pair::new([&machines[0], &machines[1]]);
    for seed in seeds {
        pair.compare(stage, seed);
    }
}

#[test]
fn c_and_rust_translate_alike_with_stage1() {
    with_both("1", [0xd1f1, 0xd1f2]);
}

#[test]
fn c_and_rust_translate_alike_with_stage2() {
    with_both("2", [0xd1f3, 0xd1f4]);
}

#[test]
fn c_and_rust_translate_alike_nested() {
    with_both("nested", [0xd1f5, 0xd1f6]);
}
