// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The consumer's time per command, without the host's.
//!
//! The throughput that is shown counts commands: 100 million a second are
//! 10 ns each.

use divan::{black_box, counter::ItemsCount, Bencher};
use smmuv3::{
    command::decode, Backend, BusAbort, Cmdq, Features, FlushPolicy, GuestMemory, HostError,
    Interrupts, Invalidation, Platform, Progress, Registers, StreamConfig, StreamId,
};

/// log2 of the numbers of commands in the queue.
const SIZES: [u32; 2] = [8, 19];

/// The device's budget for one run of the Command queue.
const BUDGET: u32 = 4096;

const QUEUE: u64 = 0x4000_0000;

/// Commands of a guest that unmaps pages of one address space: sometimes also those
/// for a Context descriptor or a device's ATC, and a `CMD_SYNC` after some 16.
fn command(number: u64) -> [u64; 2] {
    match number % 16 {
        15 => [0x46, 0],
        7 => [0x8_0000_0040, number << 12],
        3 => [0x5_0000_0000_0012, (number << 12) | 0x701],
        _ => [0x5_0000_0000_0012, (number << 12) | 1],
    }
}

fn features() -> Features {
    Features::arm_smmuv3().with_ats(true).with_ssidsize(20)
}

struct Queue(Vec<u8>);

impl Queue {
    fn new(log2size: u32) -> Self {
        let words = (0..1 << log2size).flat_map(command);
        Self(words.flat_map(u64::to_le_bytes).collect())
    }
}

impl GuestMemory for Queue {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        let from = (address - QUEUE) as usize;
        let bytes = self.0.get(from..from + buffer.len()).ok_or(BusAbort)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), BusAbort> {
        Err(BusAbort)
    }
}

/// Has the device 8 and executes everything at once.
struct Nothing;

impl Backend for Nothing {
    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        black_box(commands);
        Ok(())
    }

    fn next_stream(&mut self, first: StreamId, last: StreamId) -> Option<StreamId> {
        (first <= 8 && 8 <= last).then_some(8)
    }

    fn set_stream(&mut self, _: StreamId, _: &StreamConfig) -> bool {
        false
    }

    fn quarantine(&mut self, _: StreamId) {}

    fn fail_closed(&mut self) {}

    fn is_gone(&mut self) -> bool {
        false
    }
}

impl Interrupts for Nothing {
    fn cmd_sync(&mut self) {}

    fn gerror(&mut self) {}
}

#[divan::bench(args = SIZES)]
fn decoding(bencher: Bencher<'_, '_>, log2size: u32) {
    let features = features();
    let commands: Vec<_> = (0..1 << log2size).map(command).collect();
    bencher
        .counter(ItemsCount::new(commands.len()))
        .bench_local(|| {
            for words in &commands {
                // By reference: a result by value would be copied right after it was
                // stored piece by piece, and the copy would be measured.
                let decoded = decode(black_box(*words), &features);
                black_box(&decoded);
            }
        });
}

#[divan::bench(args = SIZES)]
fn consuming(bencher: Bencher<'_, '_>, log2size: u32) {
    let features = features();
    let mut memory = Queue::new(log2size);
    let mut cmdq = Cmdq::new(FlushPolicy::default());
    let mut registers = Registers::reset(&features);
    registers.write(&features, 0x90, QUEUE | u64::from(log2size), 8);
    registers.write(&features, 0x20, 0x9, 4);
    bencher
        .counter(ItemsCount::new(1_u64 << log2size))
        .bench_local(|| {
            // Full: the same index with the other wrap flag.
            registers.cmdq_prod = registers.cmdq_cons ^ (1 << log2size);
            loop {
                let mut run = registers.begin_cmdq(&features);
                let progress = cmdq.consume(
                    &mut run,
                    &features,
                    Platform {
                        memory: &mut memory,
                        backend: &mut Nothing,
                        interrupts: &mut Nothing,
                        observer: &mut (),
                    },
                    BUDGET,
                );
                registers.finish_cmdq(run);
                if progress == Progress::Idle {
                    break;
                }
            }
            assert_eq!(registers.cmdq_cons, registers.cmdq_prod);
        });
}

fn main() {
    divan::main();
}
