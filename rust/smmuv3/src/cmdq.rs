// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Command queue's consumer (3.5, 4.1, 7.1).
//!
//! Commands are fetched, copied, decoded and executed in order. Invalidations
//! for the host wait in a [`Batch`] until something demands that they are
//! complete: a `CMD_SYNC`, a command with another effect, an error, or the end
//! of the queue.

mod consumer;

use self::consumer::Consumer;
use crate::{
    command::{Command, Invalidation, Leniency},
    features::Features,
    gerror::CommandError,
    invalidation::{Batch, FlushPolicy, HostError, MAX_BATCH},
    registers::{Registers, COMMAND_LOG2_BYTES},
    StreamId,
};

/// Size of a command in bytes (4.1.1).
const COMMAND_BYTES: usize = 1 << COMMAND_LOG2_BYTES;

/// An access to guest memory was answered with an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusAbort;

/// The memory that the SMMU reads its queue and its tables from.
pub trait GuestMemory {
    /// Fills `buffer` from `address` on.
    ///
    /// # Errors
    ///
    /// [`BusAbort`] if any byte of it cannot be read.
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort>;

    /// The little-endian doubleword at `address`, a multiple of 8, in one access:
    /// software may write it at the same time.
    ///
    /// # Errors
    ///
    /// [`BusAbort`] if it cannot be read.
    fn read_u64(&mut self, address: u64) -> Result<u64, BusAbort> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores `data` from `address` on.
    ///
    /// # Errors
    ///
    /// [`BusAbort`] if any byte of it was not stored.
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), BusAbort>;

    /// Stores `value` at `address`, little-endian, in one access.
    ///
    /// # Errors
    ///
    /// [`BusAbort`] if it was not stored.
    fn write_u32(&mut self, address: u64, value: u32) -> Result<(), BusAbort> {
        self.write(address, &value.to_le_bytes())
    }
}

/// The host's side of the SMMU.
pub trait Host {
    /// Executes 1 to 63 commands and waits until they are complete.
    ///
    /// # Errors
    ///
    /// Whatever the host said.
    fn invalidate(&mut self, commands: &[Invalidation]) -> Result<(), HostError>;

    /// The lowest `StreamID` in `first..=last` that has a device, whether the
    /// host knows it by that already or not.
    fn next_stream(&mut self, first: StreamId, last: StreamId) -> Option<StreamId>;

    /// Whether the host knows a device by this `StreamID`: only then are
    /// commands that name it forwarded, and only then can it answer to them.
    fn has_vdevice(&mut self, sid: StreamId) -> bool {
        self.next_stream(sid, sid) == Some(sid)
    }

    /// The configuration of the streams in `first..=last` changed: what is cached
    /// of it on this side of the host is dropped (4.3).
    fn forget_configurations(&mut self, first: StreamId, last: StreamId) {
        let _ = (first, last);
    }

    /// Reads the Stream table entry of `sid` again and attaches what it says.
    /// Tells whether the host may hold Context descriptors cached through this
    /// stream, so that they must be invalidated too.
    fn install_ste(&mut self, sid: StreamId) -> bool;

    /// An invalidation of this stream's did not complete: takes it to abort
    /// (3.9.1.4).
    fn quarantine(&mut self, sid: StreamId);

    /// As [`quarantine`](Self::quarantine), for a stream whose device was not asked,
    /// because others had taken too long. Its translations by ATS may be stale, so
    /// they must not be used; that the device does not answer is not known, so it is
    /// attached again, with an empty ATC, as soon as that can be done.
    fn suspend(&mut self, sid: StreamId) {
        self.quarantine(sid);
    }

    /// The host does not answer as agreed: takes every stream to abort.
    fn fail_closed(&mut self);

    /// Returns whether calls that failed have held up the machine for as long as
    /// can be afforded. Asked after each call that failed.
    fn is_exhausted(&mut self) -> bool {
        false
    }

    /// Takes every stream off stage 1, because the host cannot be brought to
    /// complete invalidations.
    ///
    /// Returns whether no stream is left on stage 1. Then no transaction uses what
    /// the host has cached, so [`invalidate`](Self::invalidate) completes without
    /// the host, and everything is invalidated in the host before stage 1
    /// translates again.
    fn give_up(&mut self) -> bool {
        false
    }

    /// Returns how many commands [`invalidate`](Self::invalidate) should be given at
    /// most: 63 if they are executed together. A host that takes its time for each of
    /// them wants fewer, because the time is looked at between calls only.
    fn batch_limit(&self) -> usize {
        MAX_BATCH
    }

    /// Whether this visit of the queue has lasted long enough: commands cost what
    /// the host takes for them, which can be a second for one. Asked whenever some
    /// were completed.
    fn is_out_of_time(&mut self) -> bool {
        false
    }

    /// Whether the device itself has taken down what the commands are sent to,
    /// so that nothing is left to invalidate.
    fn gone(&mut self) -> bool;
}

/// Interrupts, and what can be watched.
pub trait Signals {
    /// A `CMD_SYNC` with `SIG_IRQ` completed: pulse of the wired interrupt.
    fn cmd_sync(&mut self);

    /// A new global error while `GERROR_IRQEN` is set.
    fn gerror(&mut self);

    /// A `CMD_SYNC` with `SIG_SEV` completed.
    fn sev(&mut self) {}

    /// The queue is going to be worked on.
    fn consume_begin(&mut self, registers: &Registers) {
        let _ = registers;
    }

    /// A command with this opcode was fetched; `None` if it is ILLEGAL.
    fn command(&mut self, opcode: u8, command: Option<&Command>) {
        let _ = (opcode, command);
    }

    /// A command that is ILLEGAL is consumed all the same, by [`Leniency`].
    fn tolerated(&mut self, opcode: u8) {
        let _ = opcode;
    }

    /// A command with this opcode was not consumed.
    fn error(&mut self, opcode: u8, code: CommandError) {
        let _ = (opcode, code);
    }

    /// Global errors became active: the bits of `GERROR` that were toggled, and
    /// what it is now.
    fn activated(&mut self, toggled: u32, gerror: u32) {
        let _ = (toggled, gerror);
    }

    /// The queue is left.
    fn consume_end(&mut self, registers: &Registers) {
        let _ = registers;
    }
}

/// Whether the Command queue still has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing: it is empty, disabled or stopped by an error.
    Idle,
    /// The budget or the time is used up, and there may be more.
    More,
    /// At least one batch was completed; what is left would not fill another,
    /// and no `CMD_SYNC` waits for it. It stays in the queue, not consumed: a
    /// producer that rings its doorbell every so many commands is about to add
    /// to it. Commands are consumed whether or not more of them follow (4.1.2),
    /// so the caller comes back soon; if nothing was added by then, they are
    /// too few to be left again.
    Deferred,
}

/// Errors of the host at one command, without progress in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stall {
    position: u32,
    errors: u32,
}

impl Stall {
    /// Counts an error at `position`.
    fn note_error(&mut self, position: u32) {
        if self.position != position {
            *self = Self {
                position,
                errors: 0,
            };
        }
        self.errors = self.errors.saturating_add(1);
    }

    /// Notes that a batch was completed.
    fn note_progress(&mut self) {
        self.errors = 0;
    }
}

/// What the consumer keeps from one call to the next.
#[derive(Debug)]
pub struct Cmdq {
    policy: FlushPolicy,
    leniency: Leniency,
    /// A `CMD_ATC_INV` failed and no `CMD_SYNC` has told yet.
    atc_failed: bool,
    /// How often the host failed at the command at the head of the queue.
    stall: Stall,
    /// Fetched commands; kept for its allocation only.
    buffer: Vec<[u8; COMMAND_BYTES]>,
    /// Empty between calls. Boxed because consumers are moved in and out of
    /// cells.
    batch: Box<Batch>,
}

impl Cmdq {
    /// A consumer that has seen nothing yet.
    pub fn new(policy: FlushPolicy) -> Self {
        Self {
            policy,
            leniency: Leniency::Strict,
            atc_failed: false,
            stall: Stall::default(),
            buffer: Vec::new(),
            batch: Box::default(),
        }
    }

    /// The same with another choice of commands that are consumed although they are
    /// ILLEGAL.
    #[must_use]
    pub fn with_leniency(mut self, leniency: Leniency) -> Self {
        self.leniency = leniency;
        self
    }

    /// Forgets what a reset of the SMMU forgets.
    pub fn reset(&mut self) {
        self.atc_failed = false;
        self.stall = Stall::default();
    }

    /// Replaces the policy.
    pub fn set_policy(&mut self, policy: FlushPolicy) {
        self.policy = policy;
    }

    /// The policy in use.
    pub const fn policy(&self) -> FlushPolicy {
        self.policy
    }

    /// Consumes commands until the queue is empty, an error stops it, `budget`
    /// commands were consumed, or the host says that it is time to stop.
    ///
    /// `CMDQ_CONS.RD` moves on only over commands that are complete, and all
    /// that were consumed are complete when this returns: nothing fetched
    /// outlives the call. Nothing happens while the queue is disabled, an
    /// error is active, or its indexes contradict each other.
    pub fn consume<M: GuestMemory, H: Host, S: Signals>(
        &mut self,
        registers: &mut Registers,
        features: &Features,
        memory: &mut M,
        host: &mut H,
        signals: &mut S,
        budget: u32,
    ) -> Progress {
        if !registers.cmdq_ready(features) {
            return Progress::Idle;
        }
        signals.consume_begin(registers);
        let ring = registers.cmdq_ring(features);
        let mut consumer = Consumer {
            ring,
            cursor: registers.cmdq_cons & ring.pointer_mask(),
            features,
            memory,
            host,
            signals,
            policy: &self.policy,
            leniency: self.leniency,
            atc_failed: &mut self.atc_failed,
            stall: &mut self.stall,
            batch: &mut self.batch,
            registers,
            batch_completed: false,
            spent: false,
        };
        let progress = consumer.run(&mut self.buffer, budget);
        signals.consume_end(registers);
        progress
    }
}
