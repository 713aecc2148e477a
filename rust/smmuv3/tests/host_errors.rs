// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A host that fails: the consequences of each errno, at each index.

use crate::common::{
    host::{
        E2BIG, EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP,
        ETIMEDOUT,
    },
    vector_features, Answer, Machine,
};
use smmuv3::{cmdq::Cmdq, EioReport, FlushPolicy};

const SYNC_IRQ: [u64; 2] = [0x1046, 0];

fn va(number: u64) -> [u64; 2] {
    [0x5_0000_0000_0012, (number << 12) | 1]
}

fn atc(sid: u64, number: u64) -> [u64; 2] {
    [0x40 | (sid << 32), number << 12]
}

fn cd(sid: u64) -> [u64; 2] {
    [0x05 | (sid << 32), 1]
}

fn machine_with(policy: FlushPolicy) -> Machine {
    let mut machine = Machine::resized(vector_features(), policy, 8, 0);
    machine.host.streams = [8, 0x18, 0x19, 0x1a].into_iter().collect();
    machine
}

fn machine() -> Machine {
    machine_with(FlushPolicy::default())
}

fn erratum() -> FlushPolicy {
    FlushPolicy {
        repeat_tlbi_cfgi: true,
        ..FlushPolicy::default()
    }
}

fn block_start() -> FlushPolicy {
    FlushPolicy {
        eio: EioReport::BlockStart,
        ..FlushPolicy::default()
    }
}

/// Answers `errno` to every call that holds `poison`, as the kernel does.
fn refuse(machine: &mut Machine, errno: i32, poison: [u64; 2], tells_index: bool) {
    machine.host.behaviour = Some(Box::new(move |_, commands| {
        match commands.iter().position(|words| *words == poison) {
            Some(index) => Answer::error(errno, if tells_index { index as u32 } else { 0 }),
            None => Answer::Done,
        }
    }));
}

fn program(count: u64) -> Vec<[u64; 2]> {
    (1..=count).map(va).chain([SYNC_IRQ]).collect()
}

#[test]
fn host_rejected_command_found_at_every_index() {
    for (policy, tells_index) in [
        (FlushPolicy::default(), true),
        (block_start(), false),
        (block_start(), true),
        (erratum(), true),
    ] {
        for index in 0..63_usize {
            let mut machine = machine_with(policy);
            let commands = program(63);
            refuse(&mut machine, EIO, commands[index], tells_index);
            machine.submit(&commands);
            assert_eq!((machine.rd(), machine.error()), (index as u32, Some(1)));
            let executed = machine.host.log.executed();
            for (at, words) in commands.iter().enumerate().take(63) {
                let times = executed.iter().filter(|done| *done == words).count();
                let expected = match at < index {
                    true if policy.repeat_tlbi_cfgi => 2,
                    at_all => usize::from(at_all),
                };
                assert_eq!(times, expected, "{at} of {index}, {policy:?}");
            }
            assert_eq!((machine.signals.gerror, machine.signals.cmd_sync), (1, 0));
        }
    }
}

#[test]
fn out_of_range_entry_num_is_ignored() {
    for entry_num in [4, 63, u32::MAX] {
        let mut machine = machine();
        machine.host.behaviour = Some(Box::new(move |_, commands| {
            if commands.contains(&va(3)) {
                Answer::error(EIO, entry_num)
            } else {
                Answer::Done
            }
        }));
        machine.submit(&program(4));
        assert_eq!((machine.rd(), machine.error()), (2, Some(1)));
        assert_eq!(machine.host.log.executed(), [va(1), va(2)]);
    }
}

#[test]
fn commands_of_unplugged_device_are_dropped() {
    for policy in [FlushPolicy::default(), block_start(), erratum()] {
        let mut machine = machine_with(policy);
        machine.host.vanishing.insert(8);
        refuse(&mut machine, EIO, cd(8), policy.eio == EioReport::Offender);
        machine.submit(&[va(1), cd(8), va(2), cd(0x18), SYNC_IRQ]);
        assert_eq!((machine.rd(), machine.error()), (5, None));
        assert_eq!(machine.signals.cmd_sync, 1);
        let mut executed = machine.host.log.executed();
        executed.sort_unstable();
        executed.dedup();
        assert_eq!(executed, [cd(0x18), va(1), va(2)]);
    }
}

#[test]
fn timeout_retried_then_cerror_abt_at_first_command() {
    for retries in 0..4 {
        let mut machine = machine_with(FlushPolicy {
            timeout_retries: retries,
            ..FlushPolicy::default()
        });
        machine.host.afterwards = Some(Answer::error(ETIMEDOUT, 3));
        machine.submit(&program(4));
        assert_eq!((machine.rd(), machine.error()), (0, Some(2)));
        assert_eq!(machine.host.calls.len(), 1 + retries as usize);
        // The guest retries, and no invalidation is lost.
        machine.host.afterwards = None;
        machine.acknowledge();
        assert_eq!((machine.rd(), machine.error()), (5, None));
        assert_eq!(machine.host.log.executed(), program(4)[..4]);
    }
}

#[test]
fn timeout_in_later_batch_is_cerror_abt_there() {
    let mut machine = machine();
    machine.host.answers = [Answer::Done].into();
    machine.host.afterwards = Some(Answer::error(ETIMEDOUT, 0));
    machine.submit(&program(100));
    assert_eq!((machine.rd(), machine.error()), (63, Some(2)));
}

#[test]
fn enomem_halves_the_batch() {
    let mut machine = machine();
    machine.host.behaviour = Some(Box::new(|_, commands| match commands.len() {
        1 | 2 => Answer::Done,
        len => Answer::error(ENOMEM, len as u32),
    }));
    machine.submit(&program(5));
    assert_eq!((machine.rd(), machine.error()), (6, None));
    assert_eq!(machine.host.log.executed(), program(5)[..5]);
    let sizes: Vec<_> = machine.host.calls.iter().map(Vec::len).collect();
    assert_eq!(sizes, [5, 2, 3, 1, 2]);
}

#[test]
fn enomem_of_one_command_retried_then_cerror_abt() {
    for retries in 0..4 {
        let mut machine = machine_with(FlushPolicy {
            memory_retries: retries,
            ..FlushPolicy::default()
        });
        refuse(&mut machine, ENOMEM, va(3), true);
        machine.submit(&program(4));
        assert_eq!((machine.rd(), machine.error()), (2, Some(2)));
        let alone = machine.host.calls.iter().filter(|call| **call == [va(3)]);
        assert_eq!(alone.count(), 1 + retries as usize);
        assert_eq!(machine.host.log.executed(), [va(1), va(2)]);
    }
}

#[test]
fn eintr_is_retried_up_to_a_limit() {
    for errno in [EINTR, EAGAIN] {
        let mut machine = machine();
        machine.host.answers = std::iter::repeat_n(Answer::error(errno, 9), 16).collect();
        machine.submit(&program(3));
        assert_eq!((machine.rd(), machine.error()), (4, None));

        let mut stuck = self::machine();
        stuck.host.afterwards = Some(Answer::error(errno, 9));
        stuck.submit(&program(3));
        assert_eq!((stuck.rd(), stuck.error()), (0, Some(2)));
        assert_eq!(stuck.host.calls.len(), 17);
        assert_eq!(stuck.host.failed_closed, 0);
    }
}

#[test]
fn unexpected_errno_retried_once_then_all_streams_abort() {
    for errno in [
        EFAULT, EINVAL, E2BIG, EOPNOTSUPP, EBADF, ENOTTY, ENOENT, 9999, -1, 0,
    ] {
        let mut machine = machine();
        machine.host.answers = [Answer::error(errno, 2)].into();
        machine.submit(&program(3));
        assert_eq!((machine.rd(), machine.error()), (4, None), "{errno}");
        assert_eq!(machine.host.failed_closed, 0);

        let mut broken = self::machine();
        broken.host.afterwards = Some(Answer::error(errno, 2));
        broken.submit(&program(3));
        assert_eq!((broken.rd(), broken.error()), (0, Some(2)), "{errno}");
        assert_eq!(broken.host.calls.len(), 2);
        assert_eq!(broken.host.failed_closed, 1);
    }
}

#[test]
fn destroyed_viommu_completes_invalidations() {
    let mut machine = machine();
    machine.host.is_gone = true;
    machine.host.afterwards = Some(Answer::error(ENOENT, 0));
    machine.submit(&program(3));
    assert_eq!((machine.rd(), machine.error()), (4, None));
    assert_eq!(machine.host.failed_closed, 0);
}

#[test]
fn errno_in_middle_batch_loses_no_command() {
    let errnos = [
        EIO, ETIMEDOUT, ENOMEM, EINTR, EAGAIN, EFAULT, EINVAL, E2BIG, EOPNOTSUPP, EBADF, ENOTTY,
        ENOENT,
    ];
    for errno in errnos {
        for index in 0..150_u64 {
            let mut machine = machine();
            let commands = program(150);
            refuse(&mut machine, errno, va(index + 1), true);
            machine.submit(&commands);
            let rd = machine.rd() as usize;
            let expected = match errno {
                EIO | ENOMEM => index as usize,
                _ => index as usize / 63 * 63,
            };
            assert_eq!(rd, expected, "errno {errno} at {index}");
            assert_eq!(machine.error(), Some(if errno == EIO { 1 } else { 2 }));
            let executed = machine.host.log.executed();
            assert_eq!(executed, commands[..rd], "errno {errno} at {index}");
        }
    }
}

/// A device that does not answer to ATS invalidations.
fn silence(machine: &mut Machine, sids: &'static [u64]) {
    machine.host.behaviour = Some(Box::new(|_, commands| {
        let silent = |words: &[u64; 2]| words[0] as u8 == 0x40 && sids.contains(&(words[0] >> 32));
        if commands.iter().any(silent) {
            Answer::error(ETIMEDOUT, 0)
        } else {
            Answer::Done
        }
    }));
}

#[test]
fn atc_timeout_is_reported_at_sync_and_quarantined() {
    let mut machine = machine();
    silence(&mut machine, &[8]);
    machine.submit(&[va(1), atc(8, 1), va(2), SYNC_IRQ, va(3), SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (3, Some(3)));
    assert_eq!(machine.host.quarantined, [8]);
    assert_eq!(machine.host.log.executed(), [va(1), va(2)]);
    let both: &[_] = &[va(1), atc(8, 1), va(2)];
    let tlbi: &[_] = &[va(1), va(2)];
    let alone: &[_] = &[atc(8, 1)];
    assert_eq!(machine.host.calls, [both, both, tlbi, alone, alone]);
    machine.acknowledge();
    assert_eq!((machine.rd(), machine.error()), (6, None));
    assert_eq!(machine.signals.cmd_sync, 2);
}

#[test]
fn atc_timeout_quarantines_only_its_stream() {
    let mut machine = machine();
    silence(&mut machine, &[0x18]);
    machine.submit(&[atc(8, 1), atc(0x18, 2), atc(0x19, 3), atc(8, 4), SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (4, Some(3)));
    assert_eq!(machine.host.quarantined, [0x18]);
    let mut executed = machine.host.log.executed();
    executed.sort_unstable();
    assert_eq!(executed, [atc(8, 1), atc(8, 4), atc(0x19, 3)]);
}

#[test]
fn two_atc_timeouts_quarantine_rest_without_retry() {
    let mut machine = machine();
    silence(&mut machine, &[8, 0x18, 0x19]);
    machine.submit(&[
        atc(8, 1),
        atc(0x18, 2),
        atc(0x19, 3),
        atc(0x1a, 4),
        SYNC_IRQ,
    ]);
    assert_eq!((machine.rd(), machine.error()), (4, Some(3)));
    assert_eq!(machine.host.quarantined, [8, 0x18, 0x19, 0x1a]);
    assert_eq!(machine.host.suspended, [0x19, 0x1a]);
    let sizes: Vec<_> = machine.host.calls.iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 4, 1, 1]);
}

#[test]
fn tlbi_timeout_keeps_preceding_atc_inv_pending() {
    let mut machine = machine();
    machine.host.afterwards = Some(Answer::error(ETIMEDOUT, 0));
    machine.submit(&[atc(8, 1), va(1), atc(8, 2), SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (0, Some(2)));
    assert!(machine.host.quarantined.is_empty());
    machine.host.afterwards = None;
    machine.acknowledge();
    assert_eq!((machine.rd(), machine.error()), (4, None));
    assert_eq!(machine.host.log.executed(), [atc(8, 1), va(1), atc(8, 2)]);
}

#[test]
fn atc_timeout_and_illegal_command_both_reported() {
    let mut machine = machine();
    machine.host.behaviour = Some(Box::new(|_, commands| {
        if let Some(index) = commands.iter().position(|words| *words == va(2)) {
            return Answer::error(EIO, index as u32);
        }
        if commands.contains(&atc(8, 1)) {
            return Answer::error(ETIMEDOUT, 0);
        }
        Answer::Done
    }));
    machine.submit(&[atc(8, 1), va(1), va(2), SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (2, Some(1)));
    assert_eq!(machine.host.log.executed(), [va(1)]);
    machine.store_commands(2, &[[0x46, 0]]);
    machine.acknowledge();
    // The CMD_SYNC in place of the illegal command is the next one.
    assert_eq!((machine.rd(), machine.error()), (2, Some(3)));
    machine.acknowledge();
    assert_eq!((machine.rd(), machine.error()), (4, None));
}

#[test]
fn reset_discards_pending_atc_timeout() {
    let mut machine = machine();
    silence(&mut machine, &[8]);
    machine.submit(&[atc(8, 1)]);
    assert_eq!((machine.rd(), machine.error()), (1, None));
    machine.cmdq.reset();
    machine.submit(&[SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (2, None));
}

#[test]
fn illegal_sync_reports_no_atc_timeout() {
    let mut machine = machine();
    silence(&mut machine, &[8]);
    machine.submit(&[atc(8, 1), [0x3046, 0], SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (1, Some(1)));
    machine.store_commands(1, &[va(1)]);
    machine.acknowledge();
    assert_eq!((machine.rd(), machine.error()), (2, Some(3)));
}

#[test]
fn erratum_batches_split_by_class_in_order() {
    let mut machine = machine_with(erratum());
    machine.submit(&[
        atc(8, 1),
        va(1),
        cd(8),
        atc(8, 2),
        atc(0x18, 3),
        va(2),
        SYNC_IRQ,
    ]);
    let first: &[_] = &[atc(8, 1)];
    let second: &[_] = &[va(1), cd(8)];
    let third: &[_] = &[atc(8, 2), atc(0x18, 3)];
    let last: &[_] = &[va(2)];
    assert_eq!(
        machine.host.calls,
        [first, second, second, third, last, last]
    );
    assert_eq!((machine.rd(), machine.error()), (7, None));
}

#[test]
fn erratum_illegal_command_keeps_preceding_repeat() {
    let mut machine = machine_with(erratum());
    refuse(&mut machine, EIO, va(3), true);
    machine.submit(&[va(1), va(2), va(3), atc(8, 1), SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (2, Some(1)));
    let all: &[_] = &[va(1), va(2), va(3)];
    let older: &[_] = &[va(1), va(2)];
    assert_eq!(machine.host.calls, [all, older, older]);
}

#[test]
fn erratum_failed_repeat_restarts_both_passes() {
    let mut machine = machine_with(erratum());
    machine.host.answers = [
        Answer::Done,
        Answer::error(ETIMEDOUT, 0),
        Answer::error(ETIMEDOUT, 0),
    ]
    .into();
    machine.submit(&[va(1), va(2), SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (0, Some(2)));
    machine.acknowledge();
    assert_eq!((machine.rd(), machine.error()), (3, None));
    let all: &[_] = &[va(1), va(2)];
    assert_eq!(machine.host.calls, [all; 5]);
}

#[test]
fn erratum_reattach_invalidates_cds_twice() {
    let mut machine = machine_with(erratum());
    machine.submit(&[[0x8_0000_0003, 1], SYNC_IRQ]);
    let cds: &[_] = &[[0x8_0000_0006, 0]];
    assert_eq!(machine.host.calls, [cds, cds]);
    assert_eq!(machine.host.installed, [8]);
}

#[test]
fn failed_cd_invalidation_on_reattach_aborts_stream() {
    let mut machine = machine();
    refuse(&mut machine, EIO, [0x8_0000_0006, 0], true);
    machine.submit(&[[0x8_0000_0003, 1], SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (2, None));
    assert_eq!(machine.host.quarantined, [8]);
}

#[test]
fn enomem_on_reattach_is_retried() {
    let mut machine = machine();
    machine.host.afterwards = Some(Answer::error(ENOMEM, 1));
    machine.submit(&[SYNC_IRQ, [0x8_0000_0003, 1], SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (1, Some(2)));
    machine.host.afterwards = None;
    machine.acknowledge();
    assert_eq!((machine.rd(), machine.error()), (3, None));
    assert_eq!(machine.host.installed, [8, 8]);
}

#[test]
fn unassigned_stream_makes_no_host_call() {
    let mut machine = machine();
    machine.submit(&[
        [0x99_0000_0003, 1],
        [0x99_0000_0005, 1],
        [0x99_0000_0006, 0],
        [0x99_0000_0040, 52],
        [0x9c_0000_0004, 1],
        SYNC_IRQ,
    ]);
    assert_eq!((machine.rd(), machine.error()), (6, None));
    assert!(machine.host.calls.is_empty() && machine.host.installed.is_empty());
}

#[test]
fn unbound_stream_accepts_only_attach() {
    let mut machine = machine();
    machine.host.unknown.insert(8);
    machine.submit(&[cd(8), atc(8, 1), [0x8_0000_0003, 1], SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (4, None));
    assert_eq!(machine.host.installed, [8]);
    let cds: &[_] = &[[0x8_0000_0006, 0]];
    assert_eq!(machine.host.calls, [cds]);
}

#[test]
fn atc_inv_ignored_without_smmuen() {
    let mut machine = machine();
    machine.write(0x20, 0x8);
    machine.submit(&[atc(8, 1), va(1), SYNC_IRQ]);
    assert_eq!((machine.rd(), machine.error()), (3, None));
    assert_eq!(machine.host.log.executed(), [va(1)]);
    // Illegal takes precedence over ignored (§4.1.3).
    machine.submit(&[[0x8_0000_0040, 53]]);
    assert_eq!((machine.rd(), machine.error()), (3, Some(1)));
}

#[test]
fn cmdq_error_without_irq_enable_is_silent() {
    let mut machine = machine();
    machine.write(0x50, 0);
    machine.submit(&[[0, 0]]);
    assert_eq!((machine.error(), machine.signals.gerror), (Some(1), 0));
    // Enabling it later does not deliver it (§6.3.16).
    machine.write(0x50, 1);
    assert_eq!(machine.signals.gerror, 0);
}

/// Acknowledges errors as Linux does, which lets the same command be executed
/// again; at most `times`. Returns how many errors there were.
fn acknowledge_up_to(machine: &mut Machine, times: usize) -> usize {
    let mut errors = 0;
    while machine.error().is_some() && errors < times {
        errors += 1;
        machine.acknowledge();
    }
    errors
}

/// Errors that the queue has in a row before the host is given up on.
const MAX_ERRORS: usize = 8;

#[test]
fn host_failing_forever_is_lost() {
    for errno in [EBADF, EFAULT, ENOTTY, ENOMEM, ETIMEDOUT, EINTR, EAGAIN] {
        let mut machine = machine();
        machine.host.afterwards = Some(Answer::error(errno, 0));
        machine.submit(&program(70));
        let errors = acknowledge_up_to(&mut machine, 1000);
        assert_eq!(errors, MAX_ERRORS, "errno {errno}");
        assert_eq!((machine.rd(), machine.error()), (71, None), "errno {errno}");
        assert_eq!(machine.host.given_up, 1);
        assert_eq!(machine.signals.cmd_sync, 1);
    }
}

#[test]
fn host_errors_with_progress_are_no_stall() {
    let mut machine = machine();
    for number in 0..5 * MAX_ERRORS as u64 {
        machine.host.answers = vec![Answer::error(ETIMEDOUT, 0); 2].into();
        machine.submit(&[va(number), SYNC_IRQ]);
        assert_eq!(acknowledge_up_to(&mut machine, 1000), 1);
        assert_eq!(machine.error(), None);
    }
    assert_eq!(machine.host.given_up, 0);
}

#[test]
fn command_failing_forever_is_a_stall() {
    let mut machine = machine();
    refuse(&mut machine, ENOMEM, va(40), false);
    machine.submit(&program(62));
    assert_eq!(machine.rd(), 39, "those before it are complete");
    assert_eq!(acknowledge_up_to(&mut machine, 1000), MAX_ERRORS);
    assert_eq!((machine.rd(), machine.host.given_up), (63, 1));
}

#[test]
fn illegal_command_or_fetch_abort_is_no_stall() {
    let mut machine = machine();
    machine.submit(&[[0, 0]]);
    assert_eq!(acknowledge_up_to(&mut machine, 100), 100);
    assert_eq!(machine.error(), Some(1));
    assert_eq!(machine.host.given_up, 0);
}

#[test]
fn enomem_forever_is_lost_within_flush() {
    for errno in [EBADF, ENOMEM, ETIMEDOUT, EINTR] {
        for patience in 1..4 {
            let mut machine = machine();
            machine.host.afterwards = Some(Answer::error(errno, 0));
            machine.host.patience = Some(patience);
            machine.submit(&[va(1), atc(8, 1), atc(0x18, 1), va(2), SYNC_IRQ]);
            acknowledge_up_to(&mut machine, 1000);
            assert_eq!((machine.rd(), machine.error()), (5, None));
            // after two timeouts the third call asks whether it is one device
            let expected = if errno == ETIMEDOUT {
                3.min(patience + 1)
            } else {
                patience
            };
            assert_eq!(machine.host.calls.len(), expected, "errno {errno}");
        }
    }
}

#[test]
fn atc_timeout_with_enomem_quarantines_one_stream() {
    for patience in 1..6 {
        let mut machine = machine();
        silence(&mut machine, &[0x18]);
        machine.host.patience = Some(patience);
        machine.submit(&[va(1), atc(8, 1), atc(0x18, 1), va(2), SYNC_IRQ]);
        assert_eq!((machine.rd(), machine.error()), (4, Some(3)));
        assert_eq!(machine.host.given_up, 0);
        let suspended = &machine.host.suspended;
        let held = |sid: &u32| machine.host.quarantined.contains(sid) && !suspended.contains(sid);
        assert!(!held(&8), "a device that answers is not held");
        assert!(machine.host.quarantined.contains(&0x18));
    }
}

#[test]
fn stream_stuck_on_stage1_keeps_error() {
    let mut machine = machine();
    machine.host.afterwards = Some(Answer::error(EBADF, 0));
    machine.host.is_stuck = true;
    machine.submit(&program(3));
    assert_eq!(acknowledge_up_to(&mut machine, 100), 100);
    assert_eq!((machine.rd(), machine.error()), (0, Some(2)));
    assert!(machine.host.given_up > 0);
    machine.host.is_stuck = false;
    machine.acknowledge();
    assert_eq!((machine.rd(), machine.error()), (4, None));
}

#[test]
fn reset_clears_host_failure_count() {
    let mut machine = machine();
    machine.host.afterwards = Some(Answer::error(EBADF, 0));
    machine.submit(&program(1));
    assert_eq!(
        acknowledge_up_to(&mut machine, MAX_ERRORS - 1),
        MAX_ERRORS - 1
    );
    machine.cmdq.reset();
    machine.acknowledge();
    assert_eq!(machine.error(), Some(2), "the count begins at 1 again");
}

/// The VMM is replaced between a `CMD_ATC_INV` that fails and the `CMD_SYNC` that reports it.
#[test]
fn failed_atc_inv_is_reported_by_next_consumer() {
    for is_passed_on in [true, false] {
        let mut machine = machine();
        silence(&mut machine, &[8]);
        machine.submit(&[atc(8, 1)]);
        assert_eq!((machine.rd(), machine.error()), (1, None));
        assert!(machine.cmdq.atc_inv_failed());
        machine.cmdq = Cmdq::new(FlushPolicy::default());
        machine.cmdq.resume_from(is_passed_on);
        machine.submit(&[SYNC_IRQ]);
        assert_eq!(machine.error(), is_passed_on.then_some(3));
        assert!(!machine.cmdq.atc_inv_failed());
    }
}
