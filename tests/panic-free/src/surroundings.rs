// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Memory, host, interrupts and caches of which the compiler knows nothing: they are
//! called through `dyn`, so code that relies on their answers is not optimized away.

use smmuv3::{
    batch::HostError,
    cmdqv::{Assignment, Host, HostPage, Page0},
    registers::{Activation, CmdqRun},
    translation::{BadConfig, Caches, Entry, StreamContext, Tag, WalkStep},
    Backend, BusAbort, Command, CommandError, GuestMemory, Interrupts, Invalidation, LocalEffect,
    Observer, StreamConfig, StreamId,
};

pub struct Memory<'a>(pub &'a mut dyn GuestMemory);

impl GuestMemory for Memory<'_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        self.0.read(address, buffer)
    }

    fn read_u64(&mut self, address: u64) -> Result<u64, BusAbort> {
        self.0.read_u64(address)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
        self.0.write(address, data)
    }

    fn write_u32(&mut self, address: u64, value: u32) -> Result<(), BusAbort> {
        self.0.write_u32(address, value)
    }
}

/// Memory and a backend of which only the required functions are implemented.
pub struct Least<'a, T: ?Sized>(pub &'a mut T);

impl GuestMemory for Least<'_, dyn GuestMemory + '_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        self.0.read(address, buffer)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort> {
        self.0.write(address, data)
    }
}

impl Backend for Least<'_, dyn Backend + '_> {
    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        self.0.invalidate(commands)
    }

    fn next_stream(&mut self, first: StreamId, last: StreamId) -> Option<StreamId> {
        self.0.next_stream(first, last)
    }

    fn set_stream(&mut self, sid: StreamId, config: &StreamConfig) -> bool {
        self.0.set_stream(sid, config)
    }

    fn quarantine(&mut self, sid: StreamId) {
        self.0.quarantine(sid);
    }

    fn fail_closed(&mut self) {
        self.0.fail_closed();
    }

    fn is_gone(&mut self) -> bool {
        self.0.is_gone()
    }
}

impl Interrupts for Least<'_, dyn Interrupts + '_> {
    fn cmd_sync(&mut self) {
        self.0.cmd_sync();
    }

    fn gerror(&mut self) {
        self.0.gerror();
    }
}

pub struct Executor<'a>(pub &'a mut dyn Backend);

impl Backend for Executor<'_> {
    fn invalidate_locally(&mut self, command: &Invalidation) -> LocalEffect {
        self.0.invalidate_locally(command)
    }

    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError> {
        self.0.invalidate(commands)
    }

    fn call_ns(&mut self) -> Option<u64> {
        self.0.call_ns()
    }

    fn next_stream(&mut self, first: StreamId, last: StreamId) -> Option<StreamId> {
        self.0.next_stream(first, last)
    }

    fn has_vdevice(&mut self, sid: StreamId) -> bool {
        self.0.has_vdevice(sid)
    }

    fn invalidate_configurations(&mut self, first: StreamId, last: StreamId) {
        self.0.invalidate_configurations(first, last);
    }

    fn set_stream(&mut self, sid: StreamId, config: &StreamConfig) -> bool {
        self.0.set_stream(sid, config)
    }

    fn quarantine(&mut self, sid: StreamId) {
        self.0.quarantine(sid);
    }

    fn suspend(&mut self, sid: StreamId) {
        self.0.suspend(sid);
    }

    fn fail_closed(&mut self) {
        self.0.fail_closed();
    }

    fn is_exhausted(&mut self) -> bool {
        self.0.is_exhausted()
    }

    fn give_up(&mut self) -> bool {
        self.0.give_up()
    }

    fn batch_limit(&self) -> usize {
        self.0.batch_limit()
    }

    fn deadline_expired(&mut self) -> bool {
        self.0.deadline_expired()
    }

    fn is_gone(&mut self) -> bool {
        self.0.is_gone()
    }
}

pub struct Lines<'a>(pub &'a mut dyn Interrupts);

impl Interrupts for Lines<'_> {
    fn show(&mut self, run: &mut CmdqRun, errors: u32) -> Activation {
        self.0.show(run, errors)
    }

    fn cmd_sync(&mut self) {
        self.0.cmd_sync();
    }

    fn gerror(&mut self) {
        self.0.gerror();
    }

    fn sev(&mut self) {
        self.0.sev();
    }
}

pub struct Tracing<'a>(pub &'a mut dyn Observer);

impl Observer for Tracing<'_> {
    fn consume_begin(&mut self, run: &CmdqRun) {
        self.0.consume_begin(run);
    }

    fn command(&mut self, opcode: u8, command: Option<&Command>) {
        self.0.command(opcode, command);
    }

    fn tolerated(&mut self, opcode: u8) {
        self.0.tolerated(opcode);
    }

    fn sync_completed(&mut self, run: &CmdqRun) {
        self.0.sync_completed(run);
    }

    fn error(&mut self, opcode: u8, code: CommandError) {
        self.0.error(opcode, code);
    }

    fn activated(&mut self, toggled: u32, gerror: u32) {
        self.0.activated(toggled, gerror);
    }

    fn consume_end(&mut self, run: &CmdqRun) {
        self.0.consume_end(run);
    }
}

pub struct Cached<'a>(pub &'a mut dyn Caches);

impl Caches for Cached<'_> {
    fn context(&mut self, sid: StreamId) -> Option<StreamContext> {
        self.0.context(sid)
    }

    fn insert_context(&mut self, sid: StreamId, context: &StreamContext) {
        self.0.insert_context(sid, context);
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        self.0.lookup(tag, address)
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        self.0.insert(tag, address, entry);
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.0.note_split(stage1_log2_bytes);
    }

    fn rejected(&mut self, sid: StreamId, reason: BadConfig) {
        self.0.rejected(sid, reason);
    }

    fn walked(&mut self, step: &WalkStep) {
        self.0.walked(step);
    }
}

pub struct HostQueues<'a>(pub &'a mut dyn Host);

impl HostPage for HostQueues<'_> {
    fn read(&mut self, lvcmdq: usize, register: Page0) -> u32 {
        self.0.read(lvcmdq, register)
    }

    fn write(&mut self, lvcmdq: usize, register: Page0, value: u32) {
        self.0.write(lvcmdq, register, value);
    }
}

impl Host for HostQueues<'_> {
    fn show_page(&mut self, is_visible: bool) {
        self.0.show_page(is_visible);
    }

    fn allocate(&mut self, lvcmdq: usize, queue: &Assignment) -> bool {
        self.0.allocate(lvcmdq, queue)
    }

    fn wait_until_stopped(&mut self, lvcmdq: usize) {
        self.0.wait_until_stopped(lvcmdq);
    }

    fn release(&mut self, lvcmdq: usize) -> bool {
        self.0.release(lvcmdq)
    }
}
