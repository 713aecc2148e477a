// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands of an SMMU that has caches of its own beside those of a host. Property tests
//! check the same on random programs and hosts (`common/batches.rs`).

use crate::common::{
    host::{EINTR, EIO, ETIMEDOUT},
    vector_features, Answer, Machine,
};
use smmuv3::FlushPolicy;

const SYNC: [u64; 2] = [0x46, 0];
const RESERVED: [u64; 2] = [0, 0];

fn va(number: u64) -> [u64; 2] {
    [0x5_0000_0000_0012, (number << 12) | 1]
}

fn atc(sid: u64) -> [u64; 2] {
    [0x40 | (sid << 32), 52]
}

fn cd(sid: u64) -> [u64; 2] {
    [0x05 | (sid << 32), 1]
}

/// Returns a machine with own caches, and the device 8 on the host.
fn machine() -> Machine {
    let mut machine = Machine::new(vector_features(), FlushPolicy::default()).with_caches();
    machine.host.streams = [8].into_iter().collect();
    machine
}

#[test]
fn streams_without_vdevice_are_executed_locally_only() {
    let mut machine = machine();
    let commands = [cd(9), atc(9), va(1), cd(8), atc(8)];
    machine.submit(&[&commands[..], &[SYNC]].concat());
    assert_eq!((machine.rd(), machine.error()), (6, None));
    assert_eq!(machine.host.local, commands);
    assert_eq!(machine.host.log.executed(), [va(1), cd(8), atc(8)]);
    let counted = machine.cmdq.counters().commands();
    assert_eq!((counted.forwarded, counted.without_effect), (5, 0));
}

#[test]
fn repeated_batch_repeats_nothing_locally() {
    for errno in [EINTR, ETIMEDOUT] {
        let mut machine = machine();
        machine.host.answers = [Answer::error(errno, 0), Answer::error(errno, 1)].into();
        machine.submit(&[va(1), va(2), SYNC]);
        assert!(machine.host.calls.len() > 1, "{errno}");
        assert_eq!(machine.host.local, [va(1), va(2)], "{errno}");
    }
}

#[test]
fn command_refused_by_host_is_executed_locally() {
    let mut machine = machine();
    machine.host.afterwards = Some(Answer::error(EIO, 0));
    machine.submit(&[va(1), va(2), SYNC]);
    assert_eq!((machine.rd(), machine.error()), (0, Some(1)));
    assert_eq!(machine.host.local, [va(1), va(2)]);
}

#[test]
fn illegal_command_is_not_executed_locally() {
    let mut machine = machine();
    machine.submit(&[va(1), RESERVED, va(2)]);
    assert_eq!((machine.rd(), machine.error()), (1, Some(1)));
    assert_eq!(machine.host.local, [va(1)]);
}

#[test]
fn ignored_atc_inv_is_not_executed_locally() {
    let mut machine = machine();
    machine.write(0x20, 0x8);
    machine.submit(&[atc(8), atc(9), va(1), SYNC]);
    assert_eq!((machine.rd(), machine.error()), (4, None));
    assert_eq!(machine.host.local, [va(1)]);
    assert_eq!(machine.cmdq.counters().commands().without_effect, 2);
}

/// vhost may take its time to answer: the deadline is checked after each command.
#[test]
fn local_commands_that_wait_end_at_deadline() {
    let mut machine = machine();
    machine.write(0x20, 0x1);
    machine.submit(&[va(1), va(2), va(3)]);
    machine.registers.cr0 = 0x9;
    machine.host.is_slow_locally = true;
    for done in 1..=3 {
        machine.consume_once();
        assert_eq!(machine.host.local.len(), done);
        assert_eq!(machine.rd(), done as u32);
    }
}
