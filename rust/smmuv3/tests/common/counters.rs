// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What the counters of a Command queue must say after a run, by what the host, the
//! interrupts and the observer have seen.

use smmuv3::{
    cmdq::{CommandCounters, HostCounters},
    Progress,
};

use super::{
    host::{EAGAIN, EINTR, EIO, ENOMEM, ETIMEDOUT},
    Machine,
};

/// Checks every counter that has a second source. `consumed` is how many commands the
/// guest has seen consumed.
pub fn check(machine: &Machine, consumed: usize) {
    assert_eq!(machine.cmdq.counters().host, host(machine));
    let commands = machine.cmdq.counters().commands();
    let without_effect = commands.without_effect;
    let forwarded = commands.forwarded;
    assert_eq!(
        commands,
        CommandCounters {
            consumed: consumed as u64,
            forwarded,
            without_effect,
            ..fetched(machine)
        }
    );
    // No program has a CMD_CFGI_STE whose StreamID is out of range.
    let with_other_effects = commands.sync + commands.cfgi_ste + commands.cfgi_range;
    assert_eq!(
        forwarded + without_effect + with_other_effects + commands.illegal,
        machine.observer.fetched.len() as u64
    );
    runs(machine);
}

/// The host's own log.
fn host(machine: &Machine) -> HostCounters {
    let (host, counted) = (&machine.host, machine.cmdq.counters().host);
    let errors = |errnos: &[i32]| {
        let errors = host.errors.iter();
        errors.filter(|errno| errnos.contains(errno)).count() as u64
    };
    let known = [EIO, ENOMEM, ETIMEDOUT, EINTR, EAGAIN];
    let mut sizes = [0; 6];
    for call in &host.calls {
        let place = [1, 3, 7, 15, 31, 63]
            .iter()
            .position(|&most| call.len() <= most);
        sizes[place.expect("1 to 63 commands")] += 1;
    }
    // Each repeats a call that failed, or follows one.
    assert!(counted.retries + counted.bisections <= host.errors.len() as u64);
    HostCounters {
        calls: host.calls.len() as u64,
        commands: host.calls.iter().map(|call| call.len() as u64).sum(),
        time_ns: host.durations().sum(),
        longest_ns: host.durations().max().unwrap_or(0),
        sizes,
        retries: counted.retries,
        bisections: counted.bisections,
        eio: errors(&[EIO]),
        enomem: errors(&[ENOMEM]),
        etimedout: errors(&[ETIMEDOUT]),
        eintr: errors(&[EINTR, EAGAIN]),
        other: host.errors.len() as u64 - errors(&known),
    }
}

/// The commands by kind, as the observer has seen them.
fn fetched(machine: &Machine) -> CommandCounters {
    let mut commands = CommandCounters::default();
    for (opcode, is_legal) in &machine.observer.fetched {
        let kind = match opcode {
            _ if !is_legal => &mut commands.illegal,
            0x01..=0x02 => &mut commands.prefetch,
            0x03 => &mut commands.cfgi_ste,
            0x04 => &mut commands.cfgi_range,
            0x05..=0x06 => &mut commands.cfgi_cd,
            0x10..=0x30 => &mut commands.tlbi,
            0x40 => &mut commands.atc_inv,
            0x46 => &mut commands.sync,
            _ => &mut commands.other,
        };
        *kind += 1;
    }
    commands
}

fn runs(machine: &Machine) {
    let queue = machine.cmdq.counters().queue;
    let ended = |how: Progress| {
        let all = machine.progress.iter();
        all.filter(|progress| **progress == how).count() as u64
    };
    assert_eq!(queue.runs, machine.observer.runs);
    assert_eq!(queue.slices, ended(Progress::More));
    assert_eq!(queue.deferred, ended(Progress::Deferred));
    let errors = queue.errors_ill + queue.errors_abt + queue.errors_atc_inv_sync;
    assert_eq!(errors, machine.observer.errors);
}
