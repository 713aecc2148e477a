// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Finding Stream table entries (§3.3.1, §5.1, §6.3.24, §6.3.25).

use crate::common::{vector_features, Memory};
use proptest::prelude::*;
use smmuv3::{
    stream_table::{evaluate, fetch},
    BadSte, Features, Registers, Ste, SteFault, StreamConfig,
};

const TABLE: u64 = 0x8000_0000;
const SECOND: u64 = 0x9000_0000;

struct Table {
    registers: Registers,
    features: Features,
    memory: Memory,
}

impl Table {
    fn new(base: u64, config: u32) -> Self {
        let features = vector_features();
        let mut registers = Registers::reset(&features);
        registers.write(&features, 0x80, base, 8);
        registers.write(&features, 0x88, config.into(), 4);
        registers.write(&features, 0x20, 1, 4);
        Self {
            registers,
            features,
            memory: Memory::default(),
        }
    }

    /// Stores an entry that differs from others in its last word.
    fn store(&mut self, address: u64, mark: u64) {
        self.memory
            .store_words(address, &[0x9, 0, 0, 0, 0, 0, 0, mark]);
    }

    fn fetch(&mut self, sid: u32) -> Result<u64, SteFault> {
        let Ste(words) = fetch(
            &self.registers.stream_table(),
            &self.features,
            &mut self.memory,
            sid,
        )?;
        Ok(words[7])
    }

    fn evaluate(&mut self, sid: u32) -> StreamConfig {
        evaluate(
            &self.registers.stream_table(),
            &self.features,
            &mut self.memory,
            sid,
        )
    }
}

const BAD_STREAMID: Result<u64, SteFault> = Err(SteFault::BadStreamId);

const fn linear(log2size: u32) -> u32 {
    log2size
}

const fn two_level(log2size: u32, split: u32) -> u32 {
    (1 << 16) | (split << 6) | log2size
}

#[test]
fn linear_strtab_is_indexed_by_stream_id() {
    let mut table = Table::new(TABLE, linear(8));
    table.store(TABLE, 1);
    table.store(TABLE + 64 * 255, 2);
    assert_eq!(table.fetch(0), Ok(1));
    assert_eq!(table.fetch(255), Ok(2));
    assert_eq!(table.fetch(256), BAD_STREAMID);
    assert_eq!(table.fetch(u32::MAX), BAD_STREAMID);
}

#[test]
fn strtab_of_one_entry() {
    let mut table = Table::new(TABLE, linear(0));
    table.store(TABLE, 1);
    assert_eq!(table.fetch(0), Ok(1));
    assert_eq!(table.fetch(1), BAD_STREAMID);
}

#[test]
fn linear_strtab_is_aligned_to_log2size() {
    let mut table = Table::new(TABLE + 0x3fc0, linear(8));
    table.store(TABLE, 1);
    assert_eq!(table.fetch(0), Ok(1));
    // 2^20 entries are 64MB, though no more than 2^16 can be reached.
    let mut large = Table::new(TABLE + 0x3ff_ffc0, linear(20));
    large.store(TABLE + 64 * 0xffff, 2);
    assert_eq!(large.fetch(0xffff), Ok(2));
    assert_eq!(large.fetch(0x1_0000), BAD_STREAMID);
    // The largest value there is aligns everything away.
    let mut huge = Table::new(TABLE, linear(63));
    huge.store(64, 3);
    assert_eq!(huge.fetch(1), Ok(3));
}

#[test]
fn reserved_strtab_fmt_is_linear_and_split_is_6() {
    for format in [2, 3] {
        let mut table = Table::new(TABLE, (format << 16) | linear(8));
        table.store(TABLE + 64, 1);
        assert_eq!(table.fetch(1), Ok(1));
    }
    for split in [0, 5, 7, 9, 11, 31] {
        let mut table = Table::new(TABLE, two_level(8, split));
        table.memory.store_words(TABLE + 8, &[SECOND | 7]);
        table.store(SECOND + 64 * 3, 1);
        assert_eq!(table.fetch(64 + 3), Ok(1), "{split}");
    }
}

#[test]
fn strtab_fmt_is_res0_without_two_level() {
    let mut table = Table::new(TABLE, linear(8));
    table.features = table.features.with_st_level(0);
    // As a restored state could have it.
    table.registers.strtab_base_cfg = two_level(8, 6);
    table.store(TABLE + 64, 1);
    assert_eq!(table.fetch(1), Ok(1));
}

#[test]
fn strtab_every_split_reaches_second_level() {
    for split in [6, 8, 10] {
        let mut table = Table::new(TABLE, two_level(16, split));
        let index = 0x1234_u64 >> split;
        let within = 0x1234 & ((1 << split) - 1);
        table
            .memory
            .store_words(TABLE + 8 * index, &[SECOND | u64::from(split + 1)]);
        table.store(SECOND + 64 * within, 1);
        assert_eq!(table.fetch(0x1234), Ok(1), "{split}");
        assert_eq!(table.fetch(0x1_0000), BAD_STREAMID);
    }
}

#[test]
fn strtab_first_level_is_aligned_to_size() {
    // 2^(16-8) descriptors are 2KB.
    let mut table = Table::new(TABLE + 0x7c0, two_level(16, 8));
    table.memory.store_words(TABLE, &[SECOND | 9]);
    table.store(SECOND, 1);
    assert_eq!(table.fetch(0), Ok(1));
    // One descriptor, but no table is aligned to less than 64 bytes.
    let mut small = Table::new(TABLE + 0x40, two_level(4, 8));
    small.memory.store_words(TABLE + 0x40, &[SECOND | 5]);
    small.store(SECOND + 64 * 15, 2);
    assert_eq!(small.fetch(15), Ok(2));
    assert_eq!(small.fetch(16), BAD_STREAMID);
}

#[test]
fn strtab_span_limits_stream_ids() {
    for split in [6_u32, 8, 10] {
        for span in 0..32_u32 {
            let mut table = Table::new(TABLE, two_level(16, split));
            table.memory.store_words(TABLE, &[SECOND | u64::from(span)]);
            let valid = (1..=11).contains(&span) && span <= split + 1;
            for sid in [0, 1, 2, (1 << split) - 1] {
                table.store(SECOND + 64 * u64::from(sid), 1);
                let reached = valid && sid < 1 << (span - 1);
                let expected = if reached { Ok(1) } else { BAD_STREAMID };
                assert_eq!(table.fetch(sid), expected, "{split} {span} {sid}");
            }
        }
    }
}

#[test]
fn strtab_second_level_is_aligned_and_truncated() {
    let mut table = Table::new(TABLE, two_level(16, 8));
    let pointer = (SECOND + 0x3fc0) | (0xff << 44) | (1 << 5) | 9;
    table.memory.store_words(TABLE, &[pointer]);
    table.store(SECOND + 64, 1);
    assert_eq!(table.fetch(1), Ok(1));
}

#[test]
fn strtab_fetch_abort_reports_address() {
    let mut table = Table::new(TABLE, two_level(16, 8));
    table.memory.store_words(TABLE + 8, &[SECOND | 9]);
    table.memory.unreadable.push(SECOND + 64..SECOND + 65);
    table.memory.unreadable.push(TABLE + 16..TABLE + 17);
    let abort = |address| Err(SteFault::FetchAbort { address });
    assert_eq!(table.fetch(0x101), abort(SECOND + 64));
    assert_eq!(table.fetch(0x200), abort(TABLE + 16));
    assert_eq!(table.evaluate(0x101), StreamConfig::Abort);
}

#[test]
fn disabled_smmu_uses_gbpa_without_ste_fetch() {
    let mut table = Table::new(TABLE, linear(8));
    let features = table.features;
    table.registers.write(&features, 0x20, 0, 4);
    assert_eq!(table.evaluate(0), StreamConfig::Bypass);
    table.registers.write(&features, 0x44, 0x8010_0000, 4);
    assert_eq!(table.evaluate(0), StreamConfig::Abort);
    assert_eq!(table.evaluate(0x1_0000), StreamConfig::Abort);
    assert_eq!(table.memory.reads, 0);
}

#[test]
fn enabled_smmu_uses_ste() {
    let mut table = Table::new(TABLE, linear(8));
    table.store(TABLE, 0);
    assert_eq!(table.evaluate(0), StreamConfig::Bypass);
    assert_eq!(table.evaluate(1), StreamConfig::Bad(BadSte::Invalid));
    assert_eq!(table.evaluate(256), StreamConfig::Abort);
    table
        .memory
        .store_words(TABLE + 128, &[0x1234_5000 | 0xb, 0xa8]);
    let ste = [0x1234_5000 | 0xb, 0xa8];
    assert_eq!(table.evaluate(2), StreamConfig::Stage1 { ste });
}

#[test]
fn strtab_last_written_fmt_is_used() {
    let mut table = Table::new(TABLE, two_level(8, 6));
    let features = table.features;
    table.registers.write(&features, 0x20, 0, 4);
    table.registers.write(&features, 0x88, linear(8).into(), 4);
    table.registers.write(&features, 0x20, 1, 4);
    table.store(TABLE + 64, 1);
    assert_eq!(table.fetch(1), Ok(1));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_strtab_lookup_is_total(
        idr in any::<[u32; 6]>(),
        base: u64,
        config: u32,
        sid: u32,
        l1std: u64,
    ) {
        let features = Features { idr, iidr: 0, aidr: 1 };
        let mut registers = Registers::reset(&features);
        registers.strtab_base = base;
        registers.strtab_base_cfg = config;
        registers.cr0 = 1;
        let mut memory = Everywhere(l1std);
        let registers = registers.stream_table();
        let _ = fetch(&registers, &features, &mut memory, sid);
        let _ = evaluate(&registers, &features, &mut memory, sid);
    }
}

/// The same eight bytes at every address.
struct Everywhere(u64);

impl smmuv3::GuestMemory for Everywhere {
    fn read(&mut self, _: u64, buffer: &mut [u8]) -> Result<(), smmuv3::BusAbort> {
        for (byte, value) in buffer.iter_mut().zip(self.0.to_le_bytes().iter().cycle()) {
            *byte = *value;
        }
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), smmuv3::BusAbort> {
        Ok(())
    }
}
