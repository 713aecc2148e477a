// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization: its register file, and the queues between hardware and software.

use smmuv3::{
    cmdqv::{
        largest_cmdqs, Assignment, Cmdqv, Effects, Host, NoPage, Page0, QueueOffset, QueueState,
        Slot, Step, VcmdqRun, QUEUES,
    },
    registers::StreamTableRegisters,
    Backend, Cmdq, Features, GuestMemory, Interrupts, Observer, Platform, Progress,
};

use crate::surroundings::{Executor, HostQueues, Lines, Memory, Tracing};

/// Reads registers.
#[inline(never)]
pub fn read(
    cmdqv: &Cmdqv,
    features: &Features,
    host: &mut dyn Host,
    offset: u64,
    size: u32,
) -> [u64; 2] {
    [
        cmdqv.read(features, &mut HostQueues(host), offset, size),
        cmdqv.read(features, &mut NoPage, offset, size),
    ]
}

/// Writes registers.
#[inline(never)]
pub fn write(
    cmdqv: &mut Cmdqv,
    features: &Features,
    host: &mut dyn Host,
    (offset, value): (u64, u64),
    size: u32,
) -> Effects {
    cmdqv.write(features, &mut HostQueues(host), offset, value, size)
}

/// Writes registers without a host's page.
#[inline(never)]
pub fn write_without_page(
    cmdqv: &mut Cmdqv,
    features: &Features,
    offset: u64,
    value: u64,
    size: u32,
) -> Effects {
    cmdqv.write(features, &mut NoPage, offset, value, size)
}

/// Moves queues between hardware and software.
#[inline(never)]
pub fn reconcile(cmdqv: &mut Cmdqv, features: &Features, host: &mut dyn Host) -> Effects {
    cmdqv.reconcile(features, &mut HostQueues(host))
}

/// Resets everything.
#[inline(never)]
pub fn reset(cmdqv: &mut Cmdqv, features: &Features, host: &mut dyn Host) {
    cmdqv.reset(features, &mut HostQueues(host));
}

/// Forbids hardware queues, or permits them, and drops those that the host did not release.
#[inline(never)]
pub fn bar(cmdqv: &mut Cmdqv, is_barred: bool) {
    cmdqv.bar_hardware(is_barred);
    cmdqv.drop_stuck();
}

/// Returns what the device asks it for.
#[inline(never)]
pub fn queries(
    cmdqv: &Cmdqv,
    features: &Features,
    lvcmdq: usize,
    offset: u64,
) -> (
    Option<Assignment>,
    QueueState,
    [bool; 5],
    Option<QueueOffset>,
) {
    (
        cmdqv.wanted(features, lvcmdq),
        cmdqv.state(features, lvcmdq),
        [
            cmdqv.is_enabled(),
            cmdqv.is_vintf_enabled(),
            cmdqv.is_interrupt_enabled(),
            cmdqv.is_page_visible(features),
            cmdqv.is_stuck(),
        ],
        cmdqv.queue_offset(offset),
    )
}

/// Returns the next step of [`reconcile`].
#[inline(never)]
pub fn next_step(slots: &[Slot; QUEUES]) -> Option<Step> {
    smmuv3::cmdqv::next_step(slots)
}

/// Returns whether queues can be consumed.
#[inline(never)]
pub fn ready(cmdqv: &Cmdqv, features: &Features) -> ([bool; QUEUES], [Slot; QUEUES]) {
    (cmdqv.ready(features), cmdqv.slots(features))
}

/// Takes the state of a queue out.
#[inline(never)]
pub fn begin(
    cmdqv: &Cmdqv,
    features: &Features,
    lvcmdq: usize,
    stream_table: StreamTableRegisters,
) -> Option<VcmdqRun> {
    cmdqv.begin(features, lvcmdq, stream_table)
}

/// Consumes its commands.
#[inline(never)]
pub fn consume(
    run: &mut VcmdqRun,
    consumer: &mut Cmdq,
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
    run.consume(consumer, features, platform, budget)
}

/// Puts it back.
#[inline(never)]
pub fn finish(cmdqv: &mut Cmdqv, run: VcmdqRun) -> bool {
    cmdqv.finish(run)
}

/// Returns sizes and offsets.
#[inline(never)]
pub fn sizes(queue: &Assignment, page_bytes: u64, register: Page0, lvcmdq: usize) -> [u64; 4] {
    [
        queue.bytes(),
        largest_cmdqs(page_bytes).into(),
        register.offset(),
        register.offset_of(lvcmdq),
    ]
}
