// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Command queue's consumer (§3.5, §4.1, §7.1).
//!
//! Commands are fetched, copied, decoded and executed in order. Invalidations
//! for the host are pending in a [`Batch`] until something demands that they are
//! complete: a `CMD_SYNC`, a command with another effect, an error, or the end
//! of the queue. Among TLB invalidations a `CMD_SYNC` may be pending with them: see
//! [`FlushPolicy::collect_across_sync`].

mod backend;
mod consumer;
mod counters;
mod held;
mod interrupts;
mod observer;
mod shared_counters;
mod token;

use core::marker::PhantomData;
use std::sync::Arc;

pub use self::{
    backend::{Backend, LocalEffect},
    counters::{CommandCounters, Counters, HostCounters, QueueCounters, SIZES},
    interrupts::Interrupts,
    observer::Observer,
    shared_counters::{SharedCounters, SharedHostCounters},
    token::{Claim, Released, Token},
};
use self::{consumer::Consumer, held::HeldSyncs};
use crate::{
    batch::{Batch, FlushPolicy},
    command::{Leniency, Restriction, Unrestricted},
    features::Features,
    memory::GuestMemory,
    registers::{CmdqRun, COMMAND_LOG2_BYTES},
};

/// Size of a command in bytes (§4.1.1).
const COMMAND_BYTES: usize = 1 << COMMAND_LOG2_BYTES;

/// Whether the Command queue still has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing: it is empty, disabled or stopped by an error.
    Idle,
    /// The budget or the time is used up, and there may be more.
    More,
    /// Commands are left in the queue, not consumed, because no `CMD_SYNC` waits for
    /// them: a producer that rings its doorbell every so many commands is about to add
    /// to them. Either at least one batch was completed, and they would not fill
    /// another; or they may be the beginning of a longer run of pages
    /// ([`FlushPolicy::merge_ranges`]). Commands are consumed whether or not more of
    /// them follow (§4.1.2), so the caller runs the queue again after a short time, and
    /// at the latest when the guest reads `CMDQ_CONS`. If nothing was added by then, they
    /// are not left again.
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

/// The surroundings of the Command queue.
pub struct Platform<'a, M, B, I, O> {
    /// The memory that queue and tables are in.
    pub memory: &'a mut M,
    /// The executor of commands.
    pub backend: &'a mut B,
    /// The interrupt outputs.
    pub interrupts: &'a mut I,
    /// The tracing hooks.
    pub observer: &'a mut O,
}

/// The consumer's state between runs.
#[derive(Debug)]
pub struct Cmdq {
    policy: FlushPolicy,
    leniency: Leniency,
    /// A `CMD_ATC_INV` failed, and no `CMD_SYNC` has reported it yet.
    atc_failed: bool,
    /// Errors of the host at the command at the head of the queue.
    stall: Stall,
    /// `CMDQ_PROD` when commands were deferred, if the last call did that.
    deferred_at: Option<u32>,
    /// Fetched commands; kept for its allocation only.
    buffer: Vec<[u8; COMMAND_BYTES]>,
    /// Empty between calls. Boxed because consumers are moved in and out of
    /// cells.
    batch: Box<Batch>,
    counters: Arc<SharedCounters>,
    /// Empty between calls, and boxed for the same reason as the batch.
    held: Box<HeldSyncs>,
}

impl Cmdq {
    /// Returns a consumer that has seen nothing yet.
    pub fn new(policy: FlushPolicy) -> Self {
        Self {
            policy,
            leniency: Leniency::Strict,
            atc_failed: false,
            stall: Stall::default(),
            deferred_at: None,
            buffer: Vec::new(),
            batch: Box::default(),
            counters: Arc::default(),
            held: Box::default(),
        }
    }

    /// Returns the same with another choice of commands that are consumed although they
    /// are ILLEGAL.
    #[must_use]
    pub fn with_leniency(mut self, leniency: Leniency) -> Self {
        self.leniency = leniency;
        self
    }

    /// Drops the state that a reset of the SMMU drops.
    pub fn reset(&mut self) {
        self.atc_failed = false;
        self.stall = Stall::default();
        self.deferred_at = None;
    }

    /// Returns whether the last call has left commands in the queue that it could have
    /// consumed. The next one consumes them.
    pub const fn is_deferred(&self) -> bool {
        self.deferred_at.is_some()
    }

    /// Replaces the policy.
    pub fn set_policy(&mut self, policy: FlushPolicy) {
        self.policy = policy;
    }

    /// Returns whether a `CMD_ATC_INV` has failed that no `CMD_SYNC` has reported yet (§4.7.3):
    /// the only state between runs that the registers do not have.
    pub const fn atc_inv_failed(&self) -> bool {
        self.atc_failed
    }

    /// Goes on where another consumer has ended, of which [`Self::atc_inv_failed`] was
    /// `atc_inv_failed`.
    pub fn resume_from(&mut self, atc_inv_failed: bool) {
        self.reset();
        self.atc_failed = atc_inv_failed;
    }

    /// Returns a copy of the counters.
    pub fn counters(&self) -> Counters {
        self.counters.copy()
    }

    /// Returns the counters themselves, to be read while another thread has the consumer.
    pub fn shared_counters(&self) -> Arc<SharedCounters> {
        Arc::clone(&self.counters)
    }

    /// Returns the policy in use.
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
    pub fn consume<M: GuestMemory, B: Backend, I: Interrupts, O: Observer>(
        &mut self,
        run: &mut CmdqRun,
        features: &Features,
        platform: Platform<'_, M, B, I, O>,
        budget: u32,
    ) -> Progress {
        self.consume_restricted::<Unrestricted, M, B, I, O>(run, features, platform, budget)
    }

    /// Consumes commands as [`consume`](Self::consume) does, of a queue that executes
    /// those of `R` only: the others are ILLEGAL in it.
    pub(crate) fn consume_restricted<R, M, B, I, O>(
        &mut self,
        run: &mut CmdqRun,
        features: &Features,
        platform: Platform<'_, M, B, I, O>,
        budget: u32,
    ) -> Progress
    where
        R: Restriction,
        M: GuestMemory,
        B: Backend,
        I: Interrupts,
        O: Observer,
    {
        let is_resumed = self.deferred_at.take() == Some(run.prod());
        if !run.is_ready() {
            return Progress::Idle;
        }
        let Platform {
            memory,
            backend,
            interrupts,
            observer,
        } = platform;
        observer.consume_begin(run);
        let ring = *run.layout();
        let cons = run.cons();
        let mut consumer = Consumer {
            restriction: PhantomData::<R>,
            ring,
            cursor: run.cons() & ring.pointer_mask(),
            features,
            memory,
            backend,
            interrupts,
            observer,
            policy: &self.policy,
            leniency: self.leniency,
            atc_failed: &mut self.atc_failed,
            stall: &mut self.stall,
            batch: &mut self.batch,
            counters: &self.counters,
            held: &mut self.held,
            run,
            is_resumed,
            batch_completed: false,
            spent: false,
        };
        let progress = consumer.work(&mut self.buffer, budget);
        consumer.observer.consume_end(consumer.run);
        if progress == Progress::Deferred {
            self.deferred_at = Some(run.prod());
        }
        let consumed = ring.used(run.cons(), cons).unwrap_or(0);
        self.counters.note_run(consumed, progress);
        progress
    }
}
