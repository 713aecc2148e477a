// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The counters of the Command queue, one by one. That they agree with the reference
//! model and the host's log for all programs is checked with those, by
//! `common/counters.rs`.

use crate::common::{
    batches::{drive, machine, Op},
    counters,
    host::{EAGAIN, EBADF, EINTR, EIO, ENOMEM, ETIMEDOUT},
    machine::{CR0, QUEUE, RUNNING, STOPPED},
    Answer, Machine,
};
use smmuv3::{
    cmdq::{CommandCounters, HostCounters, QueueCounters},
    command::Leniency,
    Cmdq, EioReport, FlushPolicy,
};

fn commands(machine: &Machine) -> CommandCounters {
    machine.cmdq.counters().commands()
}

fn queue(machine: &Machine) -> QueueCounters {
    machine.cmdq.counters().queue
}

fn host(machine: &Machine) -> HostCounters {
    machine.cmdq.counters().host
}

fn run(program: &[Op]) -> Machine {
    let mut machine = machine(FlushPolicy::default(), 8);
    drive(&mut machine, program, program.len(), |_| {});
    counters::check(&machine, program.len());
    machine
}

/// With a host that answers so, and then succeeds.
fn run_with(policy: FlushPolicy, answers: &[Answer], program: &[Op]) -> Machine {
    let mut machine = machine(policy, 8);
    machine.host.answers = answers.iter().copied().collect();
    drive(&mut machine, program, program.len(), |_| {});
    counters::check(&machine, program.len());
    machine
}

#[test]
fn new_cmdq_counters_are_zero() {
    let cmdq = Cmdq::new(FlushPolicy::default());
    assert_eq!(cmdq.counters().commands(), CommandCounters::default());
    assert_eq!(cmdq.counters().queue, QueueCounters::default());
    assert_eq!(cmdq.counters().host, HostCounters::default());
}

#[test]
fn commands_are_counted_by_kind() {
    let machine = run(&[
        Op::Va,
        Op::Va,
        Op::Asid,
        Op::Atc(0x8),
        Op::Atc(0x99),
        Op::Cd(0x18),
        Op::Ste(0x99),
        Op::SteRange,
        Op::Prefetch,
        Op::Sync,
        Op::SyncIrq,
    ]);
    assert_eq!(
        commands(&machine),
        CommandCounters {
            consumed: 11,
            cfgi_ste: 1,
            cfgi_range: 1,
            cfgi_cd: 1,
            tlbi: 3,
            atc_inv: 2,
            sync: 2,
            prefetch: 1,
            other: 0,
            illegal: 0,
            forwarded: 5,
            without_effect: 2,
        }
    );
}

/// The command is fetched again as the `CMD_SYNC` that the driver has put in its place.
#[test]
fn illegal_command_is_counted_but_not_consumed() {
    let machine = run(&[Op::Va, Op::Reserved, Op::Va]);
    let counted = commands(&machine);
    assert_eq!((counted.illegal, counted.other, counted.sync), (1, 0, 1));
    assert_eq!((counted.tlbi, counted.consumed), (2, 3));
    assert_eq!(queue(&machine).errors_ill, 1);
}

/// It is legal by what is executed in its place.
#[test]
fn tolerated_command_is_counted_as_tlbi() {
    let mut machine = machine(FlushPolicy::default(), 8);
    machine.cmdq = Cmdq::new(FlushPolicy::default()).with_leniency(Leniency::El2Tlbi);
    machine.submit(&[[0x20, 0]]);
    let counted = commands(&machine);
    assert_eq!((counted.tlbi, counted.illegal), (1, 0));
    assert_eq!((counted.forwarded, counted.consumed), (1, 1));
}

#[test]
fn ignored_atc_inv_is_counted_without_effect() {
    let mut machine = machine(FlushPolicy::default(), 8);
    machine.write(CR0, RUNNING & !STOPPED);
    machine.submit(&[Op::Atc(0x8).words(1), Op::Va.words(2)]);
    let counted = commands(&machine);
    assert_eq!((counted.atc_inv, counted.without_effect), (1, 1));
    assert_eq!(counted.forwarded, 1);
}

#[test]
fn call_sizes_are_counted_by_powers_of_two() {
    let mut machine = machine(FlushPolicy::default(), 8);
    for size in [1, 2, 3, 4, 31, 32, 63] {
        let program = vec![Op::Va; size];
        drive(&mut machine, &program, size, |_| {});
    }
    let counted = host(&machine);
    assert_eq!(counted.sizes, [1, 2, 1, 0, 1, 2]);
    assert_eq!((counted.calls, counted.commands), (7, 136));
}

#[test]
fn host_errors_are_counted_by_kind() {
    let run = |errnos: &[i32]| {
        let answers: Vec<_> = errnos
            .iter()
            .map(|errno| Answer::error(*errno, 0))
            .collect();
        run_with(FlushPolicy::default(), &answers, &[Op::Va])
    };
    let counted = host(&run(&[ENOMEM, EINTR, EAGAIN, EBADF]));
    assert_eq!((counted.enomem, counted.eintr, counted.other), (1, 2, 1));
    assert_eq!((counted.calls, counted.retries), (5, 4));

    let stopped = run(&[ETIMEDOUT, EIO]);
    let last = host(&stopped);
    assert_eq!((last.etimedout, last.eio), (1, 1));
    assert_eq!(queue(&stopped).errors_ill, 1);
}

#[test]
fn bisections_are_counted() {
    let policy = FlushPolicy {
        eio: EioReport::BlockStart,
        ..FlushPolicy::default()
    };
    // The second of four: halves of four, then of the first two.
    let mut machine = machine(policy, 8);
    let poison = Op::Va.words(2);
    machine.host.behaviour = Some(Box::new(move |_, commands| {
        if commands.contains(&poison) {
            Answer::error(EIO, 0)
        } else {
            Answer::Done
        }
    }));
    drive(&mut machine, &[Op::Va; 4], 4, |_| {});
    counters::check(&machine, 4);
    assert_eq!((host(&machine).bisections, host(&machine).retries), (2, 0));
}

#[test]
fn failed_atc_inv_is_counted_at_its_sync() {
    let timeouts = [Answer::error(ETIMEDOUT, 0); 2];
    let machine = run_with(FlushPolicy::default(), &timeouts, &[Op::Atc(8), Op::Sync]);
    assert_eq!(queue(&machine).errors_atc_inv_sync, 1);
    // The CMD_SYNC that reports it is fetched again.
    assert_eq!(
        (commands(&machine).sync, commands(&machine).consumed),
        (2, 2)
    );
}

#[test]
fn unreadable_command_is_counted_as_abort() {
    let mut machine = machine(FlushPolicy::default(), 4);
    machine.memory.unreadable.push(QUEUE + 16..QUEUE + 32);
    machine.submit(&[Op::Va.words(1), Op::Va.words(2)]);
    let counted = commands(&machine);
    assert_eq!((counted.tlbi, counted.consumed), (1, 1));
    assert_eq!(queue(&machine).errors_abt, 1);
}

#[test]
fn slices_and_deferrals_are_counted() {
    let mut sliced = machine(FlushPolicy::default(), 8);
    sliced.budget = 4;
    drive(&mut sliced, &[Op::Va; 10], 10, |_| {});
    counters::check(&sliced, 10);
    assert_eq!((queue(&sliced).runs, queue(&sliced).slices), (3, 2));

    let policy = FlushPolicy {
        defer_remainder: true,
        ..FlushPolicy::default()
    };
    let mut deferred = machine(policy, 8);
    drive(&mut deferred, &[Op::Va; 64], 64, |_| {});
    counters::check(&deferred, 64);
    assert_eq!((queue(&deferred).runs, queue(&deferred).deferred), (2, 1));
}

#[test]
fn idle_doorbell_is_no_run() {
    let mut machine = machine(FlushPolicy::default(), 8);
    machine.submit(&[]);
    assert_eq!(queue(&machine).runs, 0);
}

/// Nothing is on stage 1, so the host is not called.
#[test]
fn waived_commands_are_no_host_calls() {
    let mut machine = machine(FlushPolicy::default(), 8);
    machine.host.is_local = true;
    drive(&mut machine, &[Op::Va, Op::Sync], 2, |_| {});
    assert_eq!(host(&machine), HostCounters::default());
    assert_eq!(commands(&machine).forwarded, 1);
}

#[test]
fn reset_keeps_counters() {
    let mut machine = run(&[Op::Va, Op::Sync]);
    let before = commands(&machine);
    machine.cmdq.reset();
    machine.cmdq.set_policy(FlushPolicy::default());
    assert_eq!(commands(&machine), before);
}
