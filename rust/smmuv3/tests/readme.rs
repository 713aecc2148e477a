// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The example of `README.md`: compiled, run, and compared with the README's
//! text.

#![allow(missing_docs)]

use smmuv3::{
    Backend, BusAbort, Cmdq, Features, FlushPolicy, GuestMemory, HostError, Interrupts,
    Invalidation, Platform, Progress, Registers, StreamConfig, StreamId,
};

/// Guest physical address of the Command queue.
const QUEUE: u64 = 0x4000_0000;
/// Offsets of registers in page 0 (§6.2).
const CR0: u64 = 0x20;
const CMDQ_BASE: u64 = 0x90;
const CMDQ_PROD: u64 = 0x98;
const CMDQ_CONS: u64 = 0x9c;

/// One page of guest memory, at [`QUEUE`].
struct Memory([u8; 4096]);

impl GuestMemory for Memory {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        let start = address.checked_sub(QUEUE).ok_or(BusAbort)? as usize;
        let bytes = self
            .0
            .get(start..)
            .and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(BusAbort)?);
        Ok(())
    }

    fn write(&mut self, _address: u64, _data: &[u8]) -> Result<(), BusAbort> {
        Err(BusAbort)
    }
}

/// Records the commands of each call of `IOMMU_HWPT_INVALIDATE`. No device is assigned.
#[derive(Default)]
struct Recorder {
    calls: Vec<Vec<[u64; 2]>>,
}

impl Backend for Recorder {
    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        let words = commands.iter().map(Invalidation::to_words);
        self.calls.push(words.collect());
        Ok(())
    }

    fn next_stream(&mut self, _first: StreamId, _last: StreamId) -> Option<StreamId> {
        None
    }

    fn set_stream(&mut self, _sid: StreamId, _config: &StreamConfig) -> bool {
        false
    }

    fn quarantine(&mut self, _sid: StreamId) {}

    fn fail_closed(&mut self) {}

    fn is_gone(&mut self) -> bool {
        false
    }
}

/// Counts interrupts.
#[derive(Default)]
struct Counters {
    cmd_sync: u32,
    gerror: u32,
}

impl Interrupts for Counters {
    fn cmd_sync(&mut self) {
        self.cmd_sync += 1;
    }

    fn gerror(&mut self) {
        self.gerror += 1;
    }
}

fn drive_a_queue() {
    let commands: [[u64; 2]; 3] = [
        [0x12 | (5 << 48), 0x1000], // CMD_TLBI_NH_VA (§4.4.2.4): ASID 5, address 0x1000
        [0x11 | (5 << 48), 0],      // CMD_TLBI_NH_ASID (§4.4.2.2): ASID 5
        [0x46 | (1 << 12), 0],      // CMD_SYNC (§4.7.3) with CS = SIG_IRQ
    ];
    let mut memory = Memory([0; 4096]);
    for (slot, word) in memory.0.chunks_exact_mut(8).zip(commands.iter().flatten()) {
        slot.copy_from_slice(&word.to_le_bytes());
    }

    // The guest driver: a queue of 16 entries, enabled, with three commands in it.
    let features = Features::arm_smmuv3();
    let mut registers = Registers::reset(&features);
    registers.write(&features, CMDQ_BASE, QUEUE | 4, 8);
    registers.write(&features, CR0, 1 << 3, 4);
    let effects = registers.write(&features, CMDQ_PROD, 3, 4);
    assert!(effects.cmdq);

    // The device: one run of the Command queue, bounded to 4096 commands.
    let mut host = Recorder::default();
    let mut interrupts = Counters::default();
    let mut run = registers.begin_cmdq(&features);
    let progress = Cmdq::new(FlushPolicy::default()).consume(
        &mut run,
        &features,
        Platform {
            memory: &mut memory,
            backend: &mut host,
            interrupts: &mut interrupts,
            observer: &mut (),
        },
        4096,
    );
    registers.finish_cmdq(run);

    assert_eq!(progress, Progress::Idle);
    assert_eq!(host.calls, [commands[..2].to_vec()]);
    assert_eq!(registers.read(&features, CMDQ_CONS, 4), 3);
    assert_eq!((interrupts.cmd_sync, interrupts.gerror), (1, 0));
}

#[test]
fn readme_example_runs() {
    drive_a_queue();
}

#[test]
fn readme_shows_the_tested_example() {
    let readme = include_str!("../README.md");
    let shown = readme
        .split_once("```rust\n")
        .and_then(|(_, rest)| rest.split_once("```\n"))
        .map(|(block, _)| block)
        .expect("README.md has a Rust example");
    assert!(
        include_str!("readme.rs").contains(shown),
        "the example in README.md is not the one in tests/readme.rs"
    );
}
