// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! TLB invalidations that are collected across `CMD_SYNC`s (§4.4, §4.7.3).

use crate::common::{
    host::{EIO, ETIMEDOUT},
    log::Event,
    machine::{CR0, QUEUE, RUNNING, STOPPED},
    vector_features, Answer, Machine,
};
use smmuv3::{FlushPolicy, Progress};

const SYNC: [u64; 2] = [0x46, 0];
const SYNC_IRQ: [u64; 2] = [0x1046, 0];
const ATC_INV: [u64; 2] = [0x8_0000_0040, 52];

fn va(number: u64) -> [u64; 2] {
    [0x5_0000_0000_0012, (number << 12) | 1]
}

fn msi(address: u64, data: u64) -> [u64; 2] {
    [0x1046 | (data << 32), address]
}

fn collecting() -> FlushPolicy {
    FlushPolicy {
        collect_across_sync: true,
        ..FlushPolicy::default()
    }
}

fn machine() -> Machine {
    Machine::resized(vector_features(), collecting(), 8, 0)
}

fn executed(commands: impl IntoIterator<Item = [u64; 2]>) -> Vec<Event> {
    commands.into_iter().map(Event::Executed).collect()
}

/// Completion of a `CMD_SYNC` with the wired interrupt.
fn completed(rd: u32) -> [Event; 2] {
    [Event::SyncCompleted(rd), Event::CmdSync]
}

/// What a doorbell of several vCPUs is: one call of the host.
#[test]
fn tlbis_and_syncs_of_one_doorbell_are_one_call() {
    let mut machine = machine();
    let tlbis: Vec<_> = (1..=31).map(va).collect();
    let commands: Vec<_> = tlbis.iter().flat_map(|tlbi| [*tlbi, SYNC_IRQ]).collect();
    machine.submit(&commands);
    assert_eq!(machine.host.calls, std::slice::from_ref(&tlbis));
    let completions = (1..=31).flat_map(|count| completed(2 * count));
    let expected: Vec<_> = executed(tlbis).into_iter().chain(completions).collect();
    assert_eq!(machine.host.log.events(), expected);
    assert_eq!(machine.rd(), 62);
}

#[test]
fn sync_is_flush_without_collecting() {
    let mut machine = Machine::resized(vector_features(), FlushPolicy::default(), 8, 0);
    machine.submit(&[va(1), SYNC, va(2), SYNC]);
    assert_eq!(machine.host.calls, [[va(1)], [va(2)]]);
}

/// What a TLBI must not be executed together with completes the `CMD_SYNC` first.
#[test]
fn held_sync_completes_before_other_commands() {
    for other in [
        [0x8_0000_0005, 1], // CFGI_CD
        [0x8_0000_0006, 0], // CFGI_CD_ALL
        ATC_INV,
        [0x9_0000_0040, 52],   // of a stream without a device
        [0x8_0000_0003, 1],    // CFGI_STE
        [0x10_0000_0003, 1],   // of a stream without a device
        [0x8_0000_0004, 31],   // CFGI_ALL
        [0x8_0000_0001, 0],    // PREFETCH_CONFIG
        [0x8000_0000_0005, 1], // CFGI_CD of a StreamID out of range
        [0xff, 0],
    ] {
        let mut machine = machine();
        machine.submit(&[va(1), SYNC_IRQ, other, va(2), SYNC_IRQ]);
        let events = machine.host.log.events();
        let first = [&executed([va(1)])[..], &completed(2)].concat();
        assert_eq!(events[..3], first, "{other:x?}");
        assert_eq!(machine.host.calls[0], [va(1)], "{other:x?}");
    }
}

#[test]
fn sync_after_other_commands_is_not_held() {
    for other in [[0x8_0000_0005, 1], ATC_INV] {
        let mut machine = machine();
        machine.submit(&[va(1), other, SYNC_IRQ, va(2), SYNC_IRQ]);
        let events = [
            &executed([va(1), other])[..],
            &completed(3),
            &executed([va(2)]),
            &completed(5),
        ];
        assert_eq!(machine.host.log.events(), events.concat());
    }
}

#[test]
fn preceding_syncs_complete_before_illegal_command() {
    let mut machine = machine();
    let is_illegal = |words: &[u64; 2]| *words == va(3);
    machine.host.behaviour = Some(Box::new(move |_, commands| {
        match commands.iter().position(is_illegal) {
            Some(index) => Answer::error(EIO, index as u32),
            None => Answer::Done,
        }
    }));
    machine.submit(&[
        va(1),
        SYNC_IRQ,
        va(2),
        SYNC_IRQ,
        va(3),
        SYNC_IRQ,
        va(4),
        SYNC_IRQ,
    ]);
    let events = [
        &executed([va(1), va(2)])[..],
        &completed(2),
        &completed(4),
        &[Event::Gerror],
    ];
    assert_eq!(machine.host.log.events(), events.concat());
    assert_eq!((machine.error(), machine.rd()), (Some(1), 4));
}

#[test]
fn failed_call_completes_no_held_sync() {
    let mut machine = machine();
    machine.host.afterwards = Some(Answer::error(ETIMEDOUT, 0));
    machine.submit(&[va(1), SYNC_IRQ, va(2), SYNC_IRQ]);
    assert_eq!(machine.host.log.events(), [Event::Gerror]);
    assert_eq!((machine.error(), machine.rd()), (Some(2), 0));
    machine.host.afterwards = None;
    machine.acknowledge();
    let events = [
        &[Event::Gerror][..],
        &executed([va(1), va(2)]),
        &completed(2),
        &completed(4),
    ];
    assert_eq!(machine.host.log.events(), events.concat());
}

/// `CERROR_ATC_INV_SYNC` belongs to the first `CMD_SYNC` that follows, even if there are
/// TLBIs in between (§3.9.1.4).
#[test]
fn atc_timeout_is_reported_at_next_sync() {
    let mut machine = machine();
    machine.host.behaviour = Some(Box::new(|_, commands| match commands[0][0] as u8 {
        0x40 => Answer::error(ETIMEDOUT, 0),
        _ => Answer::Done,
    }));
    machine.budget = 1;
    machine.submit(&[ATC_INV, va(1), SYNC_IRQ, va(2), SYNC_IRQ]);
    assert_eq!((machine.error(), machine.rd()), (Some(3), 2));
    machine.budget = 4096;
    machine.acknowledge();
    assert_eq!((machine.error(), machine.rd()), (None, 5));
}

#[test]
fn held_syncs_and_tlbis_are_bounded() {
    let mut machine = machine();
    let commands = [&[va(1)][..], &[SYNC; 70], &[va(2), SYNC]].concat();
    machine.submit(&commands);
    assert_eq!(machine.host.calls, [[va(1)], [va(2)]], "64 CMD_SYNCs");
    machine.host.calls.clear();
    let pairs: Vec<_> = (1..=64).flat_map(|page| [va(page), SYNC]).collect();
    machine.submit(&pairs);
    let sizes: Vec<_> = machine.host.calls.iter().map(Vec::len).collect();
    assert_eq!(sizes, [63, 1]);
}

#[test]
fn held_syncs_complete_when_run_ends() {
    let mut machine = machine();
    machine.write(CR0, STOPPED);
    machine.submit(&[va(1), SYNC_IRQ, va(2), SYNC_IRQ]);
    machine.registers.cr0 = RUNNING as u32;
    machine.budget = 2;
    assert_eq!(machine.consume_once(), Progress::More);
    let events = [&executed([va(1)])[..], &completed(2)].concat();
    assert_eq!((machine.host.log.events(), machine.rd()), (events, 2));
    machine.budget = 3;
    assert_eq!(machine.consume_once(), Progress::Idle);
    assert_eq!((machine.signals.cmd_sync, machine.rd()), (2, 4));
}

/// The first MSI is written over the second `CMD_SYNC`, which is consumed as fetched.
#[test]
fn held_sync_is_not_read_again() {
    let features = vector_features().with_msi(true);
    let mut machine = Machine::new(features, collecting());
    machine.submit(&[va(1), msi(QUEUE + 3 * 16, 0xff), va(2), msi(0x2000_0000, 7)]);
    let events = [
        &executed([va(1), va(2)])[..],
        &[Event::SyncCompleted(2), Event::Msi(QUEUE + 3 * 16, 0xff)],
        &[Event::SyncCompleted(4), Event::Msi(0x2000_0000, 7)],
    ];
    assert_eq!(machine.host.log.events(), events.concat());
    assert_eq!(machine.error(), None);
}

/// A `CMD_SYNC` waits for what precedes it; commands behind it may be deferred.
#[test]
fn held_syncs_are_never_deferred() {
    let policy = FlushPolicy {
        defer_remainder: true,
        ..collecting()
    };
    let tlbis: Vec<_> = (1..=62).map(va).collect();
    for (tail, rd) in [(&[va(64), va(65)][..], 64), (&[va(64), SYNC], 66)] {
        let mut machine = Machine::resized(vector_features(), policy, 8, 0);
        machine.comes_back = false;
        machine.submit(&[&tlbis[..], &[SYNC_IRQ, va(63)], tail].concat());
        assert_eq!((machine.signals.cmd_sync, machine.rd()), (1, rd));
    }
}

/// Both passes are complete before the first `CMD_SYNC` is.
#[test]
fn erratum_repeats_collected_tlbis() {
    let policy = FlushPolicy {
        repeat_tlbi_cfgi: true,
        ..collecting()
    };
    let mut machine = Machine::resized(vector_features(), policy, 8, 0);
    machine.submit(&[va(1), SYNC_IRQ, va(2), SYNC_IRQ]);
    let tlbis = executed([va(1), va(2), va(1), va(2)]);
    let events = [&tlbis[..], &completed(2), &completed(4)];
    assert_eq!(machine.host.log.events(), events.concat());
}
