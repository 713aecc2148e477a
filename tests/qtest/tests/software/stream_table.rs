// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! STE lookup: linear and two-level tables, and records of streams without an
//! STE.

use smmuv3_qtest::{
    smmu::{reg, SMMUEN},
    Access,
};

use crate::{
    bench::{machine, Bench, ACCESSES, DATA, LOG2SIZE, NOWHERE, RECINVSID, SID, STREAM_TABLE},
    entries::{ste, Entry},
    record::{Kind, Record},
};

const ADDRESS: u64 = DATA + 0x4_0104;
/// Bytes in a descriptor of the first level.
const L1_BYTES: u64 = 8;

/// A two-level table for the device's stream.
struct TwoLevels<'a, 'b> {
    bench: &'b Bench<'a>,
    split: u32,
    second: u64,
}

impl<'a, 'b> TwoLevels<'a, 'b> {
    /// Installs a table in which the device's stream bypasses.
    #[track_caller]
    fn new(bench: &'b Bench<'a>, split: u32) -> Self {
        let second = bench.allocate(64 << split);
        let levels = Self {
            bench,
            split,
            second,
        };
        bench.machine.fill_memory(STREAM_TABLE, 64 << LOG2SIZE, 0);
        levels.point_to(second, u64::from(split) + 1);
        levels.set(ste::bypass());
        levels.use_with_log2size(LOG2SIZE);
        levels
    }

    /// Returns the offset of the stream's descriptor in the first level.
    fn first(&self) -> u64 {
        L1_BYTES * u64::from(SID >> self.split)
    }

    /// Returns the offset of the stream's STE in its second-level table.
    fn entry(&self) -> u64 {
        64 * u64::from(SID & ((1 << self.split) - 1))
    }

    /// Writes the descriptor of the first level.
    #[track_caller]
    fn point_to(&self, second: u64, span: u64) {
        let at = STREAM_TABLE + self.first();
        self.bench.machine.write64(at, second | span);
        if self.bench.smmu.read(reg::CR0) & SMMUEN != 0 {
            self.bench.invalidate();
        }
    }

    #[track_caller]
    fn set(&self, entry: Entry) {
        let at = self.second + self.entry();
        self.bench.machine.write_memory(at, &entry.to_bytes());
        self.bench.invalidate();
    }

    #[track_caller]
    fn use_with_log2size(&self, log2size: u32) {
        use_table(
            self.bench,
            STREAM_TABLE,
            (1 << 16) | (self.split << 6) | log2size,
        );
    }
}

/// Programs another Stream table.
#[track_caller]
fn use_table(bench: &Bench<'_>, base: u64, format: u32) {
    let smmu = &bench.smmu;
    smmu.disable(SMMUEN);
    smmu.write64(reg::STRTAB_BASE, base);
    smmu.write(reg::STRTAB_BASE_CFG, format);
    smmu.enable(SMMUEN);
    bench.invalidate();
}

/// Checks that the device's transactions are aborted with this record.
#[track_caller]
fn fails(bench: &Bench<'_>, record: Record) {
    for access in ACCESSES {
        bench.faults(access, ADDRESS, record);
    }
}

#[test]
fn two_level_strtab_walks_every_split() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for split in [6, 8, 10] {
        let levels = TwoLevels::new(&bench, split);
        bench.passes(ADDRESS, ADDRESS);
        levels.set(ste::abort());
        bench.aborts(Access::Write, ADDRESS);
    }
}

/// `Span` covers 2^(Span - 1) STEs. The stream is the last one inside, then the
/// first one outside.
#[test]
fn l1std_span_covers_its_streams() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for split in [6, 8, 10] {
        let levels = TwoLevels::new(&bench, split);
        // the StreamID needs 6 bits
        assert_eq!(SID, 0x20);
        for span in 7..=u64::from(split) + 1 {
            levels.point_to(levels.second, span);
            bench.passes(ADDRESS, ADDRESS);
        }
        for span in 1..=6 {
            levels.point_to(levels.second, span);
            fails(&bench, bench.event(Kind::BadStreamId));
        }
    }
}

#[test]
fn invalid_l1std_span_records_c_bad_streamid() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    for split in [6, 8, 10] {
        let levels = TwoLevels::new(&bench, split);
        let too_large = u64::from(split) + 2;
        for span in [0, too_large, 12, 31] {
            levels.point_to(levels.second, span);
            fails(&bench, bench.event(Kind::BadStreamId));
        }
        levels.point_to(levels.second, too_large - 1);
        bench.passes(ADDRESS, ADDRESS);
    }
}

#[test]
fn reserved_strtab_split_is_6() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    TwoLevels::new(&bench, 6);
    for split in [0, 5, 7, 31] {
        use_table(&bench, STREAM_TABLE, (1 << 16) | (split << 6) | LOG2SIZE);
        bench.passes(ADDRESS, ADDRESS);
    }
}

#[test]
fn stream_beyond_strtab_records_c_bad_streamid() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    bench.install(ste::bypass());
    for log2size in [6, 7, 12] {
        use_table(&bench, STREAM_TABLE, log2size);
        bench.passes(ADDRESS, ADDRESS);
    }
    for log2size in [0, 1, 5] {
        use_table(&bench, STREAM_TABLE, log2size);
        fails(&bench, bench.event(Kind::BadStreamId));
    }
    let levels = TwoLevels::new(&bench, 6);
    for log2size in [0, 1, 5] {
        levels.use_with_log2size(log2size);
        fails(&bench, bench.event(Kind::BadStreamId));
    }
}

#[test]
fn c_bad_streamid_is_recorded_only_with_recinvsid() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    bench.install(ste::bypass());
    for (recinvsid, recorded) in [(0, false), (RECINVSID, true), (0, false)] {
        bench.smmu.disable(SMMUEN);
        bench.smmu.write(reg::CR2, recinvsid);
        use_table(&bench, STREAM_TABLE, 5);
        if recorded {
            fails(&bench, bench.event(Kind::BadStreamId));
        } else {
            bench.aborts(Access::Write, ADDRESS);
            bench.aborts(Access::Read, ADDRESS);
        }
    }
    // other errors are recorded
    use_table(&bench, NOWHERE, LOG2SIZE);
    let entry = NOWHERE + 64 * u64::from(SID);
    fails(&bench, bench.event(Kind::SteFetch).fetching(entry));
}

#[test]
fn unreadable_ste_records_f_ste_fetch_with_address() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    let fetch = |address| bench.event(Kind::SteFetch).fetching(address);
    for base in [NOWHERE, (1 << 44) - (1 << 20)] {
        use_table(&bench, base, LOG2SIZE);
        fails(&bench, fetch(base + 64 * u64::from(SID)));
    }
    for split in [6, 8, 10] {
        let levels = TwoLevels::new(&bench, split);
        levels.point_to(NOWHERE, u64::from(split) + 1);
        fails(&bench, fetch(NOWHERE + levels.entry()));
        use_table(&bench, NOWHERE, (1 << 16) | (split << 6) | LOG2SIZE);
        fails(&bench, fetch(NOWHERE + levels.first()));
    }
}

/// The base is aligned to the size of the table, or of its first level.
#[test]
fn strtab_base_is_aligned_to_table_size() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    bench.install(ste::bypass());
    for low in [0x40, 0x1000, 0x3_ffc0] {
        use_table(&bench, STREAM_TABLE | low, LOG2SIZE);
        bench.passes(ADDRESS, ADDRESS);
    }
    // 2^(12 - 8) descriptors of 8 bytes
    let levels = TwoLevels::new(&bench, 8);
    let two_levels = (1 << 16) | (8 << 6) | LOG2SIZE;
    use_table(&bench, STREAM_TABLE | 0x40, two_levels);
    bench.passes(ADDRESS, ADDRESS);
    use_table(&bench, STREAM_TABLE | 0x80, two_levels);
    fails(&bench, bench.event(Kind::BadStreamId));
    // and that of the second level to the size of its span
    levels.use_with_log2size(LOG2SIZE);
    levels.point_to(levels.second | 0x40, 9);
    bench.passes(ADDRESS, ADDRESS);
}

/// The C device does not go back to linear tables.
#[test]
fn strtab_changed_to_linear_is_indexed() {
    let machine = machine("1").start();
    let bench = Bench::new(&machine);
    TwoLevels::new(&bench, 8);
    bench.passes(ADDRESS, ADDRESS);
    machine.fill_memory(STREAM_TABLE, 64 << LOG2SIZE, 0);
    bench.set_ste(SID, ste::abort());
    use_table(&bench, STREAM_TABLE, LOG2SIZE);
    bench.aborts(Access::Write, ADDRESS);
    bench.install(ste::bypass());
    bench.passes(ADDRESS, ADDRESS);
}
