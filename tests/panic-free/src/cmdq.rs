// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Command queue's consumer and its batches (§4.1, §7.1).

use smmuv3::{
    batch::{self, Batch, Failure, FlushPolicy, Granules},
    cmdq::{
        Claim, Cmdq, CommandCounters, Counters, HostCounters, Released, SharedHostCounters, Token,
    },
    command::{Invalidation, Tlbi},
    registers::{CmdqRun, Registers},
    Backend, Features, GuestMemory, Interrupts, Observer, Platform, Progress,
};

use crate::surroundings::{Executor, Least, Lines, Memory, Tracing};

/// Consumes commands.
#[inline(never)]
pub fn consume(
    consumer: &mut Cmdq,
    run: &mut CmdqRun,
    features: &Features,
    (memory, backend): (&mut dyn GuestMemory, &mut dyn Backend),
    (interrupts, observer): (&mut dyn Interrupts, &mut dyn Observer),
    budget: u32,
) -> Progress {
    let platform = Platform {
        memory: &mut Memory(memory),
        backend: &mut Executor(backend),
        interrupts: &mut Lines(interrupts),
        observer: &mut Tracing(observer),
    };
    consumer.consume(run, features, platform, budget)
}

/// Consumes commands in surroundings that have the required functions only.
#[inline(never)]
pub fn consume_least(
    consumer: &mut Cmdq,
    run: &mut CmdqRun,
    features: &Features,
    (memory, backend): (&mut dyn GuestMemory, &mut dyn Backend),
    interrupts: &mut dyn Interrupts,
    budget: u32,
) -> Progress {
    let platform = Platform {
        memory: &mut Least(memory),
        backend: &mut Least(backend),
        interrupts: &mut Least(interrupts),
        observer: &mut (),
    };
    consumer.consume(run, features, platform, budget)
}

/// Changes the consumer's state between runs.
#[inline(never)]
pub fn state(consumer: &mut Cmdq, policy: FlushPolicy) -> (bool, bool, FlushPolicy) {
    let failed = consumer.atc_inv_failed();
    consumer.resume_from(failed);
    consumer.reset();
    consumer.set_policy(policy);
    (consumer.is_deferred(), failed, consumer.policy())
}

/// Takes the token.
#[inline(never)]
pub fn claim(
    token: &mut Token<Cmdq>,
    registers: &mut Registers,
    features: &Features,
) -> Option<Claim<Cmdq>> {
    token.claim(registers, features)
}

/// Gives the token back.
#[inline(never)]
pub fn release(
    token: &mut Token<Cmdq>,
    registers: &mut Registers,
    features: &Features,
    claim: Claim<Cmdq>,
    progress: Progress,
    may_repeat: bool,
) -> Released<Cmdq> {
    token.release(registers, features, claim, progress, may_repeat)
}

/// Submits a batch to a host that may fail.
///
/// # Errors
///
/// The command at which it stops.
#[inline(never)]
pub fn submit(
    batch: &Batch,
    policy: &FlushPolicy,
    backend: &mut dyn Backend,
    atc_failed: &mut bool,
    counters: &SharedHostCounters,
) -> Result<(), Failure> {
    batch::submit(batch, policy, &mut Executor(backend), atc_failed, counters)
}

/// Adds commands to a batch.
#[inline(never)]
pub fn push(
    batch: &mut Batch,
    position: u32,
    command: Invalidation,
    tlbi: Tlbi,
    granules: Granules,
) -> (bool, bool, [bool; 3], usize) {
    let pushed = batch.push(position, command);
    let merged = batch.push_merging(position, tlbi, granules);
    let state = [batch.is_empty(), batch.is_full(), batch.is_tlbi_only()];
    (pushed, merged, state, batch.len())
}

/// Empties a batch.
#[inline(never)]
pub fn clear(batch: &mut Batch) {
    batch.clear();
}

/// Returns the command that asks a host for range invalidation.
#[inline(never)]
pub fn probe(features: &Features) -> Option<Invalidation> {
    Granules::of(features).probe()
}

/// Reads the counters.
#[inline(never)]
pub fn counters(
    consumer: &Cmdq,
    one: &HostCounters,
    other: &HostCounters,
) -> (Counters, CommandCounters, HostCounters) {
    let counters = consumer.counters();
    let commands = counters.commands();
    (counters, commands, one.plus(other))
}
