// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Runs the consumer of the Command queue: slice by slice, at once or later.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use bql::BqlCell;
use qemu_ext::{bh::BottomHalf, runstate::is_replay_enabled, timer::TimerExt};
use smmuv3::{
    batch::FlushPolicy,
    cmdq::{Backend, Cmdq, Counters, Interrupts, Platform, Progress},
    cmdqv::VcmdqRun,
    command::Leniency,
    features::Features,
};
use util::timer::{Timer, CLOCK_VIRTUAL};

use crate::{
    irq::{Interrupt, IrqLines},
    memory::GuestRam,
    state::GuestState,
    trace::CmdqObserver,
};

/// Commands that one doorbell consumes before the vCPU resumes, unless its time slice
/// ends earlier; the rest is consumed from the main loop, slice by slice.
const SLICE: u32 = 4096;

/// Time limit for consuming commands when the machine stops, if each of them may have to
/// wait for a notifier client (vhost). Other commands are consumed without a limit,
/// because a busy host may give QEMU little time: 2^19 commands, each of which takes a
/// microsecond or so.
pub const TIME_AT_STOP: Duration = Duration::from_secs(1);

/// Number of slices without a limit in time: more than a full queue takes, as every
/// slice consumes a command.
pub const SLICES_AT_STOP: u32 = 1 << 20;

/// Maximum delay, in nanoseconds, of commands that no `CMD_SYNC` waits for, so that
/// others can fill a batch with them: Linux rings the doorbell every 64 commands,
/// which would be 63 and one more ioctl for a single command. Long enough that a busy
/// guest does not wake the main loop for every doorbell.
const DEFERRAL: u64 = 10_000_000;

/// The Command queue's consumer.
pub struct CommandQueue {
    /// None before the SMMU is realized, and while the consumer runs. Boxed because it is
    /// moved for every run.
    consumer: BqlCell<Option<Box<Cmdq>>>,
    /// Resumes the run when a slice is used up
    pub continue_later: BottomHalf,
    /// Consumes commands that were deferred
    pub deferred: Timer,
    /// Atomic, as the next field, because that costs less than a check that the BQL is held
    doorbells: AtomicU64,
    /// Whether the last run has deferred commands
    is_deferred: AtomicBool,
}

impl CommandQueue {
    /// Returns the queue of an SMMU that is not realized. `deferred` must call
    /// [`Self::consume_later`].
    pub fn new(deferred: Timer) -> Self {
        Self {
            consumer: BqlCell::new(None),
            continue_later: BottomHalf::new(),
            deferred,
            doorbells: AtomicU64::default(),
            is_deferred: AtomicBool::default(),
        }
    }

    /// Makes the queue ready to be consumed.
    pub fn enable(&self, leniency: Leniency) {
        let consumer = Cmdq::new(FlushPolicy::default()).with_leniency(leniency);
        self.consumer.set(Some(Box::new(consumer)));
    }

    /// Calls `function` with the consumer, unless that runs or there is none yet.
    fn with_consumer<R>(&self, function: impl FnOnce(&mut Cmdq) -> R) -> Option<R> {
        let mut consumer = self.consumer.take()?;
        let result = function(&mut consumer);
        self.consumer.set(Some(consumer));
        Some(result)
    }

    /// Sets the policy for batches.
    pub fn set_policy(&self, policy: FlushPolicy) {
        self.with_consumer(|consumer| consumer.set_policy(policy));
    }

    /// Counts a write of a register after which the queue has commands to consume.
    pub fn note_doorbell(&self) {
        // under the BQL, so no other thread writes in between
        let doorbells = self.doorbells().wrapping_add(1);
        self.doorbells.store(doorbells, Ordering::Relaxed);
    }

    /// Returns the number of doorbells.
    pub fn doorbells(&self) -> u64 {
        self.doorbells.load(Ordering::Relaxed)
    }

    /// Returns the consumer's counters. Must not be called from within a run, which has taken
    /// the consumer: all counters would be 0.
    pub fn counters(&self) -> Counters {
        self.with_consumer(|consumer| consumer.counters().clone())
            .unwrap_or_default()
    }

    /// Returns the policy for batches.
    pub fn policy(&self) -> FlushPolicy {
        self.with_consumer(|consumer| consumer.policy())
            .unwrap_or_default()
    }

    /// Returns whether a failed `CMD_ATC_INV` is still to be reported to the guest.
    pub fn atc_inv_failed(&self) -> bool {
        self.with_consumer(|consumer| consumer.atc_inv_failed())
            .unwrap_or(false)
    }

    /// Goes on where the consumer of another QEMU has ended.
    pub fn resume_from(&self, atc_inv_failed: bool) {
        self.with_consumer(|consumer| consumer.resume_from(atc_inv_failed));
    }

    /// Follows a reset of the registers.
    pub fn reset(&self) {
        self.with_consumer(Cmdq::reset);
        self.is_deferred.store(false, Ordering::Relaxed);
    }

    /// Returns whether the last run has left commands in the queue that it could have
    /// consumed.
    #[inline]
    pub fn is_deferred(&self) -> bool {
        self.is_deferred.load(Ordering::Relaxed)
    }

    /// Has commands consumed from the main loop.
    pub fn consume_later(&self) {
        self.continue_later.schedule();
    }

    /// Has the rest of a run consumed later.
    pub fn arm(&self, progress: Progress) {
        match progress {
            Progress::Idle => {}
            Progress::More => self.consume_later(),
            Progress::Deferred => self.deferred.anticipate_in_ns(&CLOCK_VIRTUAL, DEFERRAL),
        }
    }

    /// Takes the consumer, for one run. Nothing that the run does can come back here, because
    /// of QEMU's guards against re-entrant I/O; if it did, it would find no consumer.
    pub fn begin(&self) -> Option<Run<'_>> {
        let consumer = self.consumer.take()?;
        Some(Run {
            queue: self,
            consumer,
        })
    }
}

/// One run of the consumer.
pub struct Run<'a> {
    queue: &'a CommandQueue,
    consumer: Box<Cmdq>,
}

impl Run<'_> {
    /// Consumes one slice of commands.
    pub fn consume<B: Backend>(
        self,
        state: &GuestState,
        irqs: &IrqLines,
        backend: &mut B,
    ) -> Progress {
        self.run(|consumer, budget| {
            state.consume(|run, features| {
                let platform = Platform {
                    memory: &mut GuestRam,
                    backend,
                    interrupts: &mut CmdqIrqs(irqs),
                    observer: &mut CmdqObserver::new(&state.guest_errors, features),
                };
                consumer.consume(run, features, platform, budget)
            })
        })
    }

    /// Consumes one slice of commands of a VCMDQ.
    pub fn consume_vcmdq<B: Backend, I: Interrupts>(
        self,
        run: &mut VcmdqRun,
        state: &GuestState,
        features: &Features,
        interrupts: &mut I,
        backend: &mut B,
    ) -> Progress {
        self.run(|consumer, budget| {
            let platform = Platform {
                memory: &mut GuestRam,
                backend,
                interrupts,
                observer: &mut CmdqObserver::new(&state.guest_errors, features),
            };
            run.consume(consumer, features, platform, budget)
        })
    }

    fn run(mut self, consume: impl FnOnce(&mut Cmdq, u32) -> Progress) -> Progress {
        // The moment at which the main loop resumes the consumer cannot be replayed.
        let budget = if is_replay_enabled() { u32::MAX } else { SLICE };
        let progress = consume(&mut self.consumer, budget);
        let is_deferred = self.consumer.is_deferred();
        self.queue.is_deferred.store(is_deferred, Ordering::Relaxed);
        self.queue.consumer.set(Some(self.consumer));
        progress
    }
}

/// The interrupts of a run.
struct CmdqIrqs<'a>(&'a IrqLines);

impl Interrupts for CmdqIrqs<'_> {
    fn cmd_sync(&mut self) {
        self.0.pulse(Interrupt::CmdSync);
    }

    fn gerror(&mut self) {
        self.0.pulse(Interrupt::Gerror);
    }
}
