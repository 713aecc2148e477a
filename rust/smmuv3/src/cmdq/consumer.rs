// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! One run of the Command queue.

use core::marker::PhantomData;

use super::{
    held::HeldSyncs, Backend, Interrupts, LocalEffect, Observer, Progress, SharedCounters, Stall,
    COMMAND_BYTES,
};
use crate::{
    batch::{submit, Batch, Failure, FlushPolicy, MAX_BATCH},
    command::{
        decode, opcode,
        opcode::{is_invalidation, TLBI_NH_VA, TLBI_NH_VAA},
        Cfgi, Command, CompletionSignal, Illegal, Invalidation, Leniency, Restriction,
    },
    features::Features,
    gerror::{CommandError, CMDQ_ERR, MSI_CMDQ_ABT_ERR, MSI_GERROR_ABT_ERR},
    memory::GuestMemory,
    queue::QueueLayout,
    registers::CmdqRun,
    stream_table, StreamId,
};

/// Most commands in one read of guest memory: 64KB stay in a near cache.
const MAX_FETCH: u32 = 4096;

/// Most commands that are deferred although they would fill a batch. Linux invalidates by
/// ASID from 512 pages on.
const MAX_DEFERRED: u32 = 1024;

/// The part of a contiguous run that was fetched.
struct Fetched {
    count: u32,
    /// The command behind those could not be read.
    aborted: bool,
}

pub(super) struct Consumer<'a, M, B, I, O, R> {
    /// The commands that are executed.
    pub(super) restriction: PhantomData<R>,
    pub(super) run: &'a mut CmdqRun,
    pub(super) features: &'a Features,
    pub(super) memory: &'a mut M,
    pub(super) backend: &'a mut B,
    pub(super) interrupts: &'a mut I,
    pub(super) observer: &'a mut O,
    pub(super) policy: &'a FlushPolicy,
    pub(super) leniency: Leniency,
    pub(super) atc_failed: &'a mut bool,
    pub(super) stall: &'a mut Stall,
    pub(super) batch: &'a mut Batch,
    pub(super) counters: &'a SharedCounters,
    /// Empty unless the batch holds something, and TLB invalidations only.
    pub(super) held: &'a mut HeldSyncs,
    pub(super) ring: QueueLayout,
    /// The command to decode next. `CMDQ_CONS.RD` follows when all before it
    /// are complete.
    pub(super) cursor: u32,
    /// The commands of the queue were deferred: they are not again.
    pub(super) is_resumed: bool,
    /// The last command completed a batch.
    pub(super) batch_completed: bool,
    /// The host has done something since the deadline was last checked.
    pub(super) spent: bool,
}

impl<M, B, I, O, R> Consumer<'_, M, B, I, O, R>
where
    M: GuestMemory,
    B: Backend,
    I: Interrupts,
    O: Observer,
    R: Restriction,
{
    pub(super) fn work(&mut self, buffer: &mut Vec<[u8; COMMAND_BYTES]>, budget: u32) -> Progress {
        let was_full = self.ring.is_full(self.run.prod(), self.run.cons());
        let result = self.consume(buffer, budget).and_then(|progress| {
            if self.batch.is_empty() {
                // nothing is held then
                self.publish();
            } else {
                self.flush()?;
            }
            Ok(progress)
        });
        self.signal_non_full(was_full);
        match result {
            Ok(progress) => progress,
            Err(failure) => {
                self.raise(failure);
                Progress::Idle
            }
        }
    }

    /// On success the last commands may still wait in the batch; on failure
    /// none does.
    fn consume(
        &mut self,
        buffer: &mut Vec<[u8; COMMAND_BYTES]>,
        budget: u32,
    ) -> Result<Progress, Failure> {
        let mut left = budget;
        loop {
            let used = self.ring.used(self.run.prod(), self.cursor).unwrap_or(0);
            if used == 0 {
                return Ok(Progress::Idle);
            }
            if left == 0 {
                return Ok(Progress::More);
            }
            let run = used
                .min(left)
                .min(self.ring.until_wrap(self.cursor))
                .min(MAX_FETCH);
            let fetched = self.fetch(buffer, run);
            let entries = buffer.get(..fetched.count as usize).unwrap_or_default();
            if run == used && !fetched.aborted && self.may_defer_all(entries) {
                return Ok(Progress::Deferred);
            }
            let mut rest = entries.iter();
            while let Some(entry) = rest.next() {
                let both = u128::from_le_bytes(*entry);
                self.step([both as u64, (both >> 64) as u64])?;
                // A command that cannot be read is not deferred: its error is raised at once.
                if core::mem::take(&mut self.batch_completed)
                    && run == used
                    && !fetched.aborted
                    && self.may_defer(rest.as_slice())
                {
                    return Ok(Progress::Deferred);
                }
                if core::mem::take(&mut self.spent) && self.backend.deadline_expired() {
                    return Ok(Progress::More);
                }
            }
            if fetched.aborted {
                self.flush()?;
                return Err(self.failure(0, CommandError::Abort));
            }
            left -= run;
        }
    }

    /// Copies `run` commands from the cursor on, or those before the first
    /// that cannot be read: consumption has to stop at exactly that one (§7.1).
    fn fetch(&mut self, buffer: &mut Vec<[u8; COMMAND_BYTES]>, run: u32) -> Fetched {
        let wanted = run as usize;
        if buffer.len() < wanted {
            buffer.resize(wanted, [0; COMMAND_BYTES]);
        }
        let entries = buffer.get_mut(..wanted).unwrap_or_default();
        let start = self.ring.entry_address(self.cursor);
        if self.memory.read(start, entries.as_flattened_mut()).is_ok() {
            return Fetched {
                count: run,
                aborted: false,
            };
        }
        let mut count = 0;
        for entry in entries {
            let pointer = self.ring.advance(self.cursor, count);
            let address = self.ring.entry_address(pointer);
            if self.memory.read(address, entry).is_err() {
                break;
            }
            count += 1;
        }
        Fetched {
            count,
            aborted: count < run,
        }
    }

    /// Decodes and executes the command at the cursor.
    #[inline]
    fn step(&mut self, fetched: [u64; 2]) -> Result<(), Failure> {
        let opcode = opcode(fetched);
        self.counters.note_fetched(opcode);
        // Not moved: it is written in pieces, and a processor cannot read it as a whole
        // before these are in its cache.
        let mut decoded = if R::permits(fetched) {
            decode(fetched, self.features)
        } else {
            Err(Illegal)
        };
        if decoded.is_err() && R::permits(fetched) {
            if let Some(instead) = self.leniency.instead(opcode, self.features) {
                self.observer.tolerated(opcode);
                decoded = Ok(instead);
            }
        }
        self.observer.command(opcode, decoded.as_ref().ok());
        match &decoded {
            Ok(Command::Invalidate(invalidation)) => self.forward(invalidation),
            Ok(Command::Sync { signal }) => self.sync(opcode, *signal),
            Ok(Command::CfgiSte { sid }) => self.install(opcode, *sid, *sid),
            Ok(Command::CfgiSteRange { first, last }) => self.install(opcode, *first, *last),
            Ok(Command::PrefetchConfig | Command::PrefetchAddr | Command::NoEffect) => {
                self.counters.note_without_effect(opcode);
                self.release()?;
                self.advance();
                Ok(())
            }
            Err(Illegal) => {
                self.counters.note_illegal(opcode);
                // The pending commands precede it and have to be executed.
                self.flush()?;
                Err(self.failure(opcode, CommandError::Illegal))
            }
        }
    }

    #[inline]
    fn forward(&mut self, invalidation: &Invalidation) -> Result<(), Failure> {
        if let Invalidation::Tlbi(tlbi) = invalidation {
            self.invalidate_locally(invalidation);
            if let Some(granules) = self.policy.merge_ranges {
                self.batch.push_merging(self.cursor, *tlbi, granules);
            } else {
                self.batch.push(self.cursor, Invalidation::Tlbi(*tlbi));
            }
        } else {
            self.release()?;
            // Of streams without a device in the host, too: it may be one of this SMMU's own.
            let is_local = !self.is_ignored(invalidation) && self.invalidate_locally(invalidation);
            if self.has_effect(invalidation) {
                self.batch.push(self.cursor, *invalidation);
            } else if !is_local {
                self.counters.note_without_effect(invalidation.opcode());
            }
        }
        self.advance();
        let is_full = self.batch.is_full();
        if is_full || self.batch.len() >= self.backend.batch_limit() {
            self.flush()?;
            self.batch_completed = is_full;
        }
        Ok(())
    }

    /// Whether the last commands of the queue may wait for others: they are too
    /// few for a batch, and all of them are for the host.
    fn may_defer(&self, rest: &[[u8; COMMAND_BYTES]]) -> bool {
        self.policy.defer_remainder
            && !self.is_resumed
            && (1..MAX_BATCH).contains(&rest.len())
            && rest.iter().all(|entry| is_invalidation(entry[0]))
    }

    /// Returns whether all commands of the queue, which are `entries`, may wait for
    /// others: nothing but pages that ranges are made of, more than a batch without them
    /// would have. Linux rings the doorbell every 64 commands of an invalidation; each
    /// of these would be a range of its own, in a call of its own.
    fn may_defer_all(&self, entries: &[[u8; COMMAND_BYTES]]) -> bool {
        // Room for others: a producer that finds the queue full waits for it.
        let most = (self.ring.entries() / 2).min(MAX_DEFERRED) as usize;
        self.policy.merge_ranges.is_some()
            && self.policy.defer_remainder
            && !self.is_resumed
            && self.cursor == self.run.cons() & self.ring.pointer_mask()
            && (MAX_BATCH..=most).contains(&entries.len())
            && entries
                .iter()
                .all(|entry| matches!(entry[0], TLBI_NH_VA | TLBI_NH_VAA))
    }

    /// Executes a command in this SMMU's own caches, before the host: a fault or a
    /// translation of theirs must not be stale when a `CMD_SYNC` completes (§4.7.3).
    /// Returns whether it has any.
    #[inline]
    fn invalidate_locally(&mut self, invalidation: &Invalidation) -> bool {
        let effect = self.backend.invalidate_locally(invalidation);
        // Notifying vhost can block: check the deadline afterwards.
        self.spent |= effect == LocalEffect::Waited;
        effect != LocalEffect::None
    }

    /// `CMD_ATC_INV` is IGNORED while `SMMUEN` is 0 (§6.3.9.6).
    #[inline]
    fn is_ignored(&self, invalidation: &Invalidation) -> bool {
        invalidation.is_atc_inv() && !self.run.stream_table().smmu_enabled
    }

    /// Returns whether a command has an effect in the host: a stream without a device
    /// there holds nothing.
    #[inline]
    fn has_effect(&mut self, invalidation: &Invalidation) -> bool {
        if self.is_ignored(invalidation) {
            return false;
        }
        invalidation
            .target()
            .is_none_or(|sid| self.backend.has_vdevice(sid))
    }

    /// `CMD_SYNC` (§4.7.3): its effects are seen before `CMDQ_CONS` passes it,
    /// and that before its signal (§3.18).
    fn sync(&mut self, opcode: u8, signal: CompletionSignal) -> Result<(), Failure> {
        if self.may_hold() {
            self.held.push(self.cursor, signal);
            self.advance();
            return Ok(());
        }
        self.flush()?;
        if core::mem::take(self.atc_failed) {
            return Err(self.failure(opcode, CommandError::AtcInvSync));
        }
        self.complete_sync(self.cursor, signal);
        self.advance();
        Ok(())
    }

    /// Returns whether a `CMD_SYNC` may complete together with TLB invalidations that
    /// follow it.
    ///
    /// They begin before it completes then, which §4.7.3 excludes, but all that can be
    /// seen of that is an entry that is gone earlier, and entries need not stay (§4.4).
    /// The promise of the `CMD_SYNC` holds at the later time, too. Neither is true of
    /// other commands: a TLB entry may return from a stale Context descriptor, and an
    /// ATC entry from a stale TLB entry (§4.5.1).
    #[inline]
    fn may_hold(&self) -> bool {
        let is_last =
            self.ring.advance(self.cursor, 1) == self.run.prod() & self.ring.pointer_mask();
        self.policy.collect_across_sync
            && !is_last
            && !self.batch.is_empty()
            && self.batch.is_tlbi_only()
            && !*self.atc_failed
            && !self.held.is_full()
    }

    /// Completes the held `CMD_SYNC`s before a command that must not be executed
    /// together with what precedes them.
    #[inline]
    fn release(&mut self) -> Result<(), Failure> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.flush()
    }

    /// Completes the held `CMD_SYNC`s that precede `end`, where the batch ended. The
    /// following ones, if any, are fetched again.
    fn complete_held(&mut self, end: u32) {
        let mut index = 0;
        while let Some(held) = self.held.get(index) {
            if !matches!(self.ring.used(end, held.position), Some(1..)) {
                break;
            }
            self.complete_sync(held.position, held.signal);
            index += 1;
        }
        self.held.clear();
    }

    /// Completes the `CMD_SYNC` at `position`, of which every preceding command is
    /// complete: `CMDQ_CONS` passes it first, then comes its signal.
    fn complete_sync(&mut self, position: u32, signal: CompletionSignal) {
        self.run.consumed_until(self.ring.advance(position, 1));
        self.interrupts.show(self.run, 0);
        self.observer.sync_completed(self.run);
        match signal {
            CompletionSignal::None => {}
            CompletionSignal::Irq => self.interrupts.cmd_sync(),
            CompletionSignal::Sev => self.interrupts.sev(),
            CompletionSignal::Msi { address, data } => {
                if self.memory.write_u32(address, data).is_err() {
                    self.activate(MSI_CMDQ_ABT_ERR);
                }
                // A device at the address can take its time.
                self.spent = true;
            }
        }
    }

    /// `CMD_CFGI_STE` and its kin (§4.3.1, §4.3.2, §4.3.6) for the streams in
    /// `first..=last` that have a device.
    fn install(&mut self, opcode: u8, first: StreamId, last: StreamId) -> Result<(), Failure> {
        self.release()?;
        self.backend.invalidate_configurations(first, last);
        // Notifying vhost can block: check the deadline afterwards.
        self.spent = true;
        // The preceding commands come first, because the entry may depend on them.
        if self.backend.next_stream(first, last).is_some() {
            self.flush()?;
        }
        let mut next = Some(first);
        while let Some(sid) = next.and_then(|from| self.backend.next_stream(from, last)) {
            // A host that goes backwards must not keep us here.
            if sid > last || next > Some(sid) {
                break;
            }
            let registers = self.run.stream_table();
            let config = stream_table::evaluate(registers, self.features, self.memory, sid);
            if self.backend.set_stream(sid, &config) {
                self.invalidate_cds(opcode, sid)?;
            }
            next = sid.checked_add(1).filter(|from| *from <= last);
        }
        self.advance();
        Ok(())
    }

    /// Attaching what is attached already reaches no cache, but the guest asked
    /// for the Context descriptors of this stream to be dropped too (§4.3.1).
    fn invalidate_cds(&mut self, opcode: u8, sid: StreamId) -> Result<(), Failure> {
        self.batch
            .push(self.cursor, Invalidation::Cfgi(Cfgi::cd_all(sid)));
        match self.submit() {
            Ok(()) => Ok(()),
            // The guest's command was not illegal. Without the invalidation
            // the stream may use stale descriptors: it uses none.
            Err(failure) if failure.error == CommandError::Illegal => {
                self.backend.quarantine(sid);
                Ok(())
            }
            Err(failure) => Err(Failure { opcode, ..failure }),
        }
    }

    /// Completes the pending commands, so that `CMDQ_CONS` may pass them.
    fn flush(&mut self) -> Result<(), Failure> {
        self.spent |= !self.batch.is_empty();
        let flushed = self.submit();
        if !self.held.is_empty() {
            let failed_at = flushed.as_ref().err().map(|failure| failure.position);
            self.complete_held(failed_at.unwrap_or(self.cursor));
        }
        flushed?;
        self.publish();
        Ok(())
    }

    /// Has the backend execute the pending commands.
    ///
    /// A driver that reads `CERROR_ABT` has the same command executed again,
    /// from a hard interrupt handler as a rule. A host that fails at it for ever
    /// would keep the guest there, so it is given up on after a number of errors.
    fn submit(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if self.stall.errors >= self.policy.max_errors.max(1) {
            self.backend.give_up();
        }
        let host = &self.counters.host;
        let flushed = submit(self.batch, self.policy, self.backend, self.atc_failed, host);
        self.batch.clear();
        match &flushed {
            Ok(()) => self.stall.note_progress(),
            Err(failure) if failure.error == CommandError::Abort => {
                self.stall.note_error(failure.position);
            }
            Err(_) => {}
        }
        flushed
    }

    #[inline]
    fn advance(&mut self) {
        self.cursor = self.ring.advance(self.cursor, 1);
    }

    /// Shows everything before the cursor as consumed.
    fn publish(&mut self) {
        self.run.consumed_until(self.cursor);
    }

    const fn failure(&self, opcode: u8, error: CommandError) -> Failure {
        Failure {
            position: self.cursor,
            opcode,
            error,
        }
    }

    /// Stops the queue at a command (§7.1): first the reason and the command in
    /// one store, then the error, then the interrupt.
    fn raise(&mut self, failure: Failure) {
        self.run.stopped_at(failure.position, failure.error);
        self.observer.error(failure.opcode, failure.error);
        self.counters.note_error(failure.error);
        self.activate(CMDQ_ERR);
    }

    /// Activates a global error, and its interrupts if that is new (§7.5.1): first the registers
    /// show it. An MSI of it that aborts is an error, too, without an interrupt.
    fn activate(&mut self, error: u32) {
        let mut activation = self.interrupts.show(self.run, error);
        if activation.interrupt && self.run.gerror_msi_aborts(self.memory) {
            let aborted = self.interrupts.show(self.run, MSI_GERROR_ABT_ERR);
            activation.new |= aborted.new;
            activation.gerror = aborted.gerror;
        }
        if activation.new != 0 {
            self.observer.activated(activation.new, activation.gerror);
        }
        if activation.interrupt {
            self.interrupts.gerror();
        }
    }

    /// With `IDR0.SEV`, a producer that waits for space is woken (§4.1.2).
    fn signal_non_full(&mut self, was_full: bool) {
        let (prod, cons) = (self.run.prod(), self.run.cons());
        if self.features.sev() && was_full && !self.ring.is_full(prod, cons) {
            self.interrupts.sev();
        }
    }
}
