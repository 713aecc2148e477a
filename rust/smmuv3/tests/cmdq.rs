// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Command queue at its edges: every size, every wrap, every budget.

use crate::common::{
    log::Event,
    machine::{CMDQ_BASE, CMDQ_CONS, CMDQ_PROD, CR0, QUEUE, RUNNING, STOPPED},
    vector_features, Machine,
};
use smmuv3::{command::Leniency, Cmdq, FlushPolicy, Progress};

const SYNC: [u64; 2] = [0x46, 0];

fn va(number: u64) -> [u64; 2] {
    [0x5_0000_0000_0012, (number << 12) | 1]
}

fn machine(log2size: u32, start: u32) -> Machine {
    Machine::resized(vector_features(), FlushPolicy::default(), log2size, start)
}

fn executed(machine: &Machine) -> Vec<[u64; 2]> {
    machine.host.log.executed()
}

#[test]
fn every_cmdq_size_wraps() {
    for log2size in 0..=19 {
        let entries = 1_u32 << log2size;
        let pointers = 2 * entries;
        for start in [0, 1 % pointers, entries - 1, entries, pointers - 1] {
            let mut machine = machine(log2size, start);
            let count = entries.min(3);
            let commands: Vec<_> = (1..=count.into()).map(va).collect();
            machine.submit(&commands);
            assert_eq!(executed(&machine), commands, "2^{log2size} from {start:#x}");
            assert_eq!(machine.rd(), (start + count) % pointers);
            assert_eq!(machine.error(), None);
        }
    }
}

#[test]
fn full_cmdq_is_consumed() {
    for log2size in 0..=12 {
        let entries = 1_u32 << log2size;
        let start = entries / 2;
        let mut machine = machine(log2size, start);
        let commands: Vec<_> = (1..=entries.into()).map(va).collect();
        machine.submit(&commands);
        assert_eq!(executed(&machine), commands, "2^{log2size}");
        assert_eq!(machine.rd(), start + entries);
    }
}

#[test]
fn cmdq_error_index_at_every_position() {
    for log2size in 0..=4 {
        let entries = 1_u32 << log2size;
        for start in 0..2 * entries {
            for bad in 0..entries {
                let mut machine = machine(log2size, start);
                let mut commands: Vec<_> = (1..=entries.into()).map(va).collect();
                commands[bad as usize] = [0, 0];
                machine.submit(&commands);
                assert_eq!(machine.error(), Some(1));
                assert_eq!(machine.rd(), (start + bad) % (2 * entries));
                assert_eq!(executed(&machine), commands[..bad as usize]);
            }
        }
    }
}

#[test]
fn cmdq_fetch_abort_at_every_index() {
    for start in [0, 9, 15, 16, 31] {
        for bad in 0..16_u32 {
            let mut machine = machine(4, start);
            let slot = u64::from((start + bad) % 16);
            let address = QUEUE + 16 * slot;
            machine.memory.unreadable.push(address + 15..address + 16);
            let commands: Vec<_> = (1..=16).map(va).collect();
            machine.submit(&commands);
            assert_eq!(machine.error(), Some(2));
            assert_eq!(machine.rd(), (start + bad) % 32);
            assert_eq!(executed(&machine), commands[..bad as usize]);
            machine.memory.unreadable.clear();
            machine.acknowledge();
            assert_eq!(machine.error(), None);
            assert_eq!(executed(&machine), commands);
        }
    }
}

#[test]
fn inconsistent_cmdq_indexes_consume_nothing() {
    for log2size in 1..=19 {
        let entries = 1_u32 << log2size;
        let mut machine = machine(log2size, entries - 1);
        machine.write(CMDQ_PROD, (entries - 2).into());
        assert_eq!((machine.rd(), machine.error()), (entries - 1, None));
        assert_eq!(machine.memory.reads, 0);
        machine.store_commands(entries - 1, &[SYNC]);
        machine.write(CMDQ_PROD, entries.into());
        assert_eq!(machine.rd(), entries);
    }
}

#[test]
fn cmdq_result_is_independent_of_budget() {
    for budget in [1, 2, 3, 62, 63, 64, 4096] {
        let mut machine = machine(8, 200);
        machine.budget = budget;
        let commands: Vec<_> = (1..=256).map(va).collect();
        machine.submit(&commands);
        assert_eq!(executed(&machine), commands);
        assert_eq!(machine.rd(), 200 + 256);
    }
}

#[test]
fn cmdq_run_ends_with_budget_and_flushes() {
    let mut machine = machine(8, 0);
    machine.write(CR0, STOPPED);
    machine.submit(&[va(1), va(2), va(3), SYNC]);
    machine.budget = 2;
    machine.registers.cr0 = 0x9;
    assert_eq!(machine.consume_once(), Progress::More);
    assert_eq!(machine.rd(), 2);
    assert_eq!(executed(&machine), [va(1), va(2)]);
    assert_eq!(machine.consume_once(), Progress::Idle);
    assert_eq!(machine.rd(), 4);
    machine.budget = 0;
    assert_eq!(machine.consume_once(), Progress::Idle);
}

#[test]
fn cmdq_run_ends_after_slow_host_call() {
    let mut machine = machine(8, 0);
    machine.host.is_slow = true;
    machine.host.streams.insert(8);
    machine.write(CR0, STOPPED);
    let mut commands: Vec<_> = (1..=100).map(va).collect();
    commands.extend([SYNC, [0x3 | (8 << 32), 1], va(101), SYNC]);
    machine.submit(&commands);
    machine.registers.cr0 = 0x9;
    // a full batch, the rest before the first CMD_SYNC, the entry, the second
    for consumed in [63, 101, 102] {
        assert_eq!(machine.consume_once(), Progress::More);
        assert_eq!(machine.rd(), consumed);
    }
    assert_eq!(machine.consume_once(), Progress::More);
    assert_eq!(machine.rd(), 104);
    assert_eq!(machine.consume_once(), Progress::Idle);
    // the last call but one is about the Context descriptors of that stream
    let sizes: Vec<_> = machine.host.calls.iter().map(Vec::len).collect();
    assert_eq!(sizes, [63, 37, 1, 1]);
    assert_eq!(machine.host.installed, [8]);
}

#[test]
fn cmdq_run_ends_after_slow_cfgi() {
    let mut machine = machine(4, 0);
    machine.host.is_slow = true;
    machine.write(CR0, STOPPED);
    // no device has these streams, but a device IOTLB may hold translations of them
    machine.submit(&[[0x3 | (8 << 32), 1], [0x4, 31], [0x3 | (9 << 32), 1]]);
    machine.registers.cr0 = 0x9;
    for consumed in 1..=3 {
        assert_eq!(machine.consume_once(), Progress::More);
        assert_eq!(machine.rd(), consumed);
    }
    assert_eq!(machine.consume_once(), Progress::Idle);
}

#[test]
fn cmdq_zero_budget_consumes_nothing() {
    let mut machine = machine(4, 0);
    machine.write(CR0, STOPPED);
    machine.submit(&[SYNC]);
    machine.registers.cr0 = 0x9;
    machine.budget = 0;
    assert_eq!(machine.consume_once(), Progress::More);
    assert_eq!((machine.rd(), machine.memory.reads), (0, 0));
}

#[test]
fn cmdq_fetch_is_contiguous_and_ends_at_prod() {
    let mut machine = machine(8, 0);
    // Slots behind PROD are not even read.
    machine
        .memory
        .unreadable
        .push(QUEUE + 16 * 20..QUEUE + 16 * 256);
    machine.submit(&(1..=20).map(va).collect::<Vec<_>>());
    assert_eq!((machine.memory.reads, machine.error()), (1, None));
}

#[test]
fn cmdq_slots_are_copied_before_msi_write() {
    let mut machine = Machine::new(vector_features().with_msi(true), FlushPolicy::default());
    // The MSI of the first command is written over the second.
    let msi = [0x1046 | (0x1234 << 32), QUEUE + 16];
    machine.submit(&[msi, va(1)]);
    assert_eq!(executed(&machine), [va(1)]);
    assert_eq!(machine.memory.load_u32(QUEUE + 16), 0x1234);
}

#[test]
fn smaller_cmdq_size_truncates_cons() {
    let mut machine = machine(8, 0xab);
    machine.write(CR0, STOPPED);
    machine.write64(CMDQ_BASE, QUEUE | 4);
    assert_eq!(machine.read(CMDQ_CONS), 0x0b);
    machine.write(CR0, RUNNING);
    assert_eq!(machine.rd(), 0x0b);
}

#[test]
fn larger_cmdq_size_restores_cons() {
    let mut machine = machine(4, 0x13);
    machine.write(CR0, STOPPED);
    machine.write64(CMDQ_BASE, QUEUE | 8);
    machine.write(CR0, RUNNING);
    machine.submit(&[va(1)]);
    assert_eq!(executed(&machine), [va(1)]);
    assert_eq!(machine.rd(), 0x14);
}

/// Nothing that was fetched outlives the queue's being disabled (§3.21.2).
#[test]
fn command_rewritten_while_disabled_is_refetched() {
    let mut machine = machine(4, 0);
    machine.write(CR0, STOPPED);
    machine.submit(&[va(1), va(2), va(3), va(4)]);
    machine.budget = 2;
    machine.registers.cr0 = 0x9;
    assert_eq!(machine.consume_once(), Progress::More);
    machine.write(CR0, STOPPED);
    machine.store_commands(2, &[va(5), SYNC]);
    machine.write(CR0, RUNNING);
    assert_eq!(executed(&machine), [va(1), va(2), va(5)]);
    assert_eq!((machine.rd(), machine.error()), (4, None));
}

#[test]
fn nonfull_cmdq_wakes_waiting_producers() {
    let features = vector_features().with_sev(true);
    let mut machine = Machine::resized(features, FlushPolicy::default(), 2, 0);
    machine.submit(&[va(1), va(2), va(3)]);
    assert_eq!(machine.signals.sev, 0);
    machine.submit(&[va(1), va(2), va(3), va(4)]);
    assert_eq!(machine.signals.sev, 1);
}

fn deferring() -> Machine {
    let policy = FlushPolicy {
        defer_remainder: true,
        ..FlushPolicy::default()
    };
    let mut machine = Machine::resized(vector_features(), policy, 10, 0);
    machine.comes_back = false;
    machine
}

fn batches(machine: &Machine) -> Vec<usize> {
    machine.host.calls.iter().map(Vec::len).collect()
}

#[test]
fn doorbells_of_64_commands_batch_by_63() {
    let mut machine = deferring();
    let commands: Vec<_> = (1..=256).map(va).collect();
    for (count, portion) in commands.chunks(64).enumerate().take(3) {
        machine.submit(portion);
        // deferred commands are not consumed
        assert_eq!(machine.rd(), 63 * (count as u32 + 1));
    }
    machine.submit(&commands[192..]);
    machine.submit(&[SYNC]);
    assert_eq!(batches(&machine), [63, 63, 63, 63, 4]);
    assert_eq!(executed(&machine), commands);
    assert_eq!(machine.rd(), 257);
}

#[test]
fn deferred_commands_are_consumed_on_resume() {
    let mut machine = deferring();
    let commands: Vec<_> = (1..=70).map(va).collect();
    machine.submit(&commands);
    assert_eq!((batches(&machine), machine.rd()), (vec![63], 63));
    assert_eq!(
        machine.consume_once(),
        Progress::Idle,
        "too few to be put off again"
    );
    assert_eq!((batches(&machine), machine.rd()), (vec![63, 7], 70));
    assert_eq!(executed(&machine), commands);
}

#[test]
fn short_run_is_not_deferred() {
    let mut machine = deferring();
    machine.submit(&[va(1), va(2)]);
    assert_eq!((batches(&machine), machine.rd()), (vec![2], 2));
}

#[test]
fn full_batches_defer_nothing() {
    let mut machine = deferring();
    machine.submit(&(1..=126).map(va).collect::<Vec<_>>());
    assert_eq!((batches(&machine), machine.rd()), (vec![63, 63], 126));
}

#[test]
fn sync_or_error_prevents_deferral() {
    for (last, error) in [(SYNC, None), ([0xff, 0], Some(1)), ([0x3, 0], None)] {
        let mut machine = deferring();
        let mut commands: Vec<_> = (1..=65).map(va).collect();
        commands.push(last);
        machine.submit(&commands);
        assert_eq!(executed(&machine)[..65], commands[..65], "{last:x?}");
        assert_eq!(machine.error(), error);
        assert_eq!(machine.rd(), if error.is_some() { 65 } else { 66 });
    }
}

#[test]
fn commands_before_unreadable_slot_are_not_deferred() {
    for unreadable in [64_u32, 65, 70, 125] {
        let mut machine = deferring();
        let address = QUEUE + 16 * u64::from(unreadable);
        machine.memory.unreadable.push(address..address + 1);
        machine.submit(&(1..=150).map(va).collect::<Vec<_>>());
        assert_eq!(machine.rd(), unreadable);
        assert_eq!(machine.error(), Some(2), "unreadable: {unreadable}");
    }
}

const TLBI_NSNH_ALL: [u64; 2] = [0x30, 0];

/// `CMD_TLBI_EL2_*` with operands, by address also with a granule and no range,
/// which no ID register makes legal (§4.4.1.1).
fn el2_tlbis() -> Vec<[u64; 2]> {
    let operands = [0x7_0000_0000_0000, (0x123 << 12) | 1];
    let granule_alone = [0, (0x123 << 12) | (1 << 10)];
    [0x20, 0x21, 0x22, 0x23]
        .into_iter()
        .flat_map(|opcode| {
            [[0, 0], operands, granule_alone].map(|[word0, word1]| [word0 | opcode, word1])
        })
        .collect()
}

/// With any stages, because firmware does not check them.
#[test]
fn el2_tlbi_without_hyp_invalidates_all_if_lenient() {
    let stage1 = vector_features();
    for features in [
        stage1,
        stage1.with_s2p(true),
        stage1.with_s1p(false).with_s2p(true),
    ] {
        for command in el2_tlbis() {
            let mut machine = Machine::new(features, FlushPolicy::default());
            machine.cmdq = Cmdq::new(FlushPolicy::default()).with_leniency(Leniency::El2Tlbi);
            machine.submit(&[command, SYNC]);
            assert_eq!(machine.error(), None, "{command:x?}");
            assert_eq!(machine.rd(), 2);
            assert_eq!(executed(&machine), [TLBI_NSNH_ALL]);
            assert_eq!(machine.observer.tolerated, [command[0] as u8]);
        }
    }
}

#[test]
fn el2_tlbi_without_hyp_is_illegal_if_strict() {
    for command in el2_tlbis() {
        let mut machine = machine(4, 0);
        machine.submit(&[command, SYNC]);
        assert_eq!(machine.error(), Some(1), "{command:x?}");
        assert_eq!(machine.rd(), 0);
        assert!(machine.observer.tolerated.is_empty());
    }
}

/// A command that the ID registers make legal must follow the specification.
#[test]
fn el2_tlbi_with_hyp_is_strict_even_if_lenient() {
    let features = vector_features().with_s2p(true).with_hyp(true);
    let mut machine = Machine::new(features, FlushPolicy::default());
    machine.cmdq = Cmdq::new(FlushPolicy::default()).with_leniency(Leniency::El2Tlbi);
    machine.submit(&[[0x20, 0], [0x22, 1 << 10], SYNC]);
    assert_eq!(machine.error(), Some(1));
    assert_eq!(machine.rd(), 1);
    assert_eq!(executed(&machine), [TLBI_NSNH_ALL]);
    assert!(machine.observer.tolerated.is_empty());
}

#[test]
fn lenient_cmdq_rejects_other_illegal_opcodes() {
    for opcode in 0..=0xff_u8 {
        let run = |leniency| {
            let mut machine = machine(4, 0);
            machine.cmdq = Cmdq::new(FlushPolicy::default()).with_leniency(leniency);
            machine.submit(&[[opcode.into(), 0], SYNC]);
            (machine.error(), machine.rd())
        };
        let lenient = run(Leniency::El2Tlbi);
        if (0x20..=0x23).contains(&opcode) {
            assert_eq!(lenient, (None, 2), "{opcode:#x}");
        } else {
            assert_eq!(lenient, run(Leniency::Strict), "{opcode:#x}");
        }
    }
}

/// Preceding commands are complete before the replacement, or in the same batch, and
/// no following command is executed before the `CMD_SYNC`.
#[test]
fn lenient_el2_tlbi_keeps_order() {
    let mut machine = machine(4, 0);
    machine.cmdq = Cmdq::new(FlushPolicy::default()).with_leniency(Leniency::El2Tlbi);
    machine.submit(&[va(1), [0x20, 0], va(2), [0x1046, 0], va(3)]);
    let events = [
        Event::Executed(va(1)),
        Event::Executed(TLBI_NSNH_ALL),
        Event::Executed(va(2)),
        Event::SyncCompleted(4),
        Event::CmdSync,
        Event::Executed(va(3)),
    ];
    assert_eq!(machine.host.log.events(), events);
}
