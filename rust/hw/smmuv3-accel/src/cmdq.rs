// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Runs the consumer of the Command queue: slice by slice, at once or later.

use std::{
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    },
    time::Duration,
};

use qemu_ext::{bh::BottomHalf, lock::BigLock, runstate::is_replay_enabled, timer::TimerExt};
use smmuv3::{
    batch::FlushPolicy,
    cmdq::{
        Backend, Claim, Cmdq, Counters, Interrupts, Platform, Progress, Released, SharedCounters,
        Token,
    },
    cmdqv::VcmdqRun,
    command::Leniency,
    features::Features,
    registers::{Activation, CmdqRun},
};
use util::timer::{Timer, CLOCK_VIRTUAL};

use crate::{
    irq::{Interrupt, IrqLines},
    memory::GuestBus,
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

/// Most runs of one doorbell, if other vCPUs ring meanwhile: the rest is consumed later, so that
/// a vCPU does not work for the others without end.
const MAX_ROUNDS: u32 = 16;

/// The Command queue's consumer.
///
/// It is a token: one thread has it for a run, and no lock is held meanwhile. A thread that finds
/// it gone does not wait for it, least of all with the Big QEMU Lock (BQL), which the run may
/// wait for.
pub struct CommandQueue {
    /// Locked for a step of [`Token`] only, and inside the lock of the state
    slot: Mutex<Slot>,
    /// Resumes the run when a slice is used up
    pub continue_later: BottomHalf,
    /// Consumes commands that were deferred
    pub deferred: Timer,
    counters: OnceLock<Arc<SharedCounters>>,
    doorbells: AtomicU64,
    /// Whether the last run has deferred commands
    is_deferred: AtomicBool,
}

#[derive(Default)]
struct Slot {
    /// Without a consumer before the SMMU is realized, and while the consumer runs. Boxed because
    /// it is moved for every run.
    token: Token<Box<Cmdq>>,
    /// The policy from the next run on, if it is another one
    new_policy: Option<FlushPolicy>,
}

impl CommandQueue {
    /// Returns the queue of an SMMU that is not realized. `deferred` must call
    /// [`Self::consume_later`].
    pub fn new(deferred: Timer) -> Self {
        Self {
            slot: Mutex::default(),
            continue_later: BottomHalf::new(),
            deferred,
            counters: OnceLock::new(),
            doorbells: AtomicU64::default(),
            is_deferred: AtomicBool::default(),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // nothing panics while it is locked, and if it did, every value is valid
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the queue ready to be consumed.
    pub fn enable(&self, leniency: Leniency) {
        let consumer = Cmdq::new(FlushPolicy::default()).with_leniency(leniency);
        // an SMMU is realized once
        let _ = self.counters.set(consumer.shared_counters());
        self.slot().token.set(Box::new(consumer));
    }

    /// Calls `function` with the consumer, unless that runs or there is none yet.
    fn with_consumer<R>(&self, function: impl FnOnce(&mut Cmdq) -> R) -> Option<R> {
        self.slot().token.get_mut().map(|it| function(it))
    }

    /// Sets the policy for batches. A run in progress keeps the one that it has begun with.
    pub fn set_policy(&self, policy: FlushPolicy) {
        self.slot().new_policy = Some(policy);
    }

    /// Counts a write of a register after which the queue has commands to consume.
    pub fn note_doorbell(&self) {
        self.doorbells.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of doorbells.
    pub fn doorbells(&self) -> u64 {
        self.doorbells.load(Ordering::Relaxed)
    }

    /// Returns the consumer's counters, also while that runs.
    pub fn counters(&self) -> Counters {
        let counters = self.counters.get();
        counters.map(|it| it.copy()).unwrap_or_default()
    }

    /// Returns the policy for batches.
    pub fn policy(&self) -> FlushPolicy {
        let mut slot = self.slot();
        let current = slot.token.get_mut().map(|consumer| consumer.policy());
        slot.new_policy.or(current).unwrap_or_default()
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

    /// Takes the consumer and its registers for a run. `None`: another thread has it, which sees
    /// the doorbell that this one has written, or this thread has it already, because an address
    /// of the guest's leads back here.
    #[inline]
    pub fn claim(&self, state: &GuestState) -> Option<Run> {
        let mut locked = state.lock();
        let mut slot = self.slot();
        let features = locked.features;
        let mut claim = slot.token.claim(&mut locked.registers, &features)?;
        if let Some(policy) = slot.new_policy.take() {
            claim.consumer.set_policy(policy);
        }
        drop(slot);
        state.run_begins(&mut locked);
        drop(locked);
        Some(Run {
            claim,
            features,
            rounds: 0,
        })
    }

    /// Ends a run that has come so far. Returns another one, if commands came in the meantime that
    /// nothing else has consumed, or the progress.
    #[inline]
    pub fn release(
        &self,
        state: &GuestState,
        run: Run,
        progress: Progress,
    ) -> Result<Run, Progress> {
        let is_deferred = run.claim.consumer.is_deferred();
        let rounds = run.rounds + 1;
        let mut locked = state.lock();
        state.run_ends(&mut locked);
        let features = locked.features;
        let mut slot = self.slot();
        let released = slot.token.release(
            &mut locked.registers,
            &features,
            run.claim,
            progress,
            rounds < MAX_ROUNDS,
        );
        drop(slot);
        self.is_deferred.store(is_deferred, Ordering::Relaxed);
        if matches!(released, Released::Again(_)) {
            state.run_begins(&mut locked);
        }
        drop(locked);
        match released {
            Released::Done(left) => Err(left),
            Released::Again(claim) => Ok(Run {
                claim,
                features,
                rounds,
            }),
        }
    }

    /// Consumes one slice of commands of a VCMDQ. Its registers are the caller's, who has the BQL.
    pub fn consume_vcmdq<B: Backend, I: Interrupts>(
        &self,
        run: &mut VcmdqRun,
        state: &GuestState,
        features: &Features,
        interrupts: &mut I,
        backend: &mut B,
    ) -> Option<Progress> {
        let mut slot = self.slot();
        let mut consumer = slot.token.take()?;
        let new_policy = slot.new_policy.take();
        drop(slot);
        if let Some(policy) = new_policy {
            consumer.set_policy(policy);
        }
        let platform = Platform {
            memory: &mut GuestBus,
            backend,
            interrupts,
            observer: &mut CmdqObserver::new(&state.guest_errors, features),
        };
        let progress = run.consume(&mut consumer, features, platform, budget());
        self.is_deferred
            .store(consumer.is_deferred(), Ordering::Relaxed);
        self.slot().token.set(consumer);
        Some(progress)
    }
}

/// Commands of one run.
fn budget() -> u32 {
    // The moment at which the main loop resumes the consumer cannot be replayed.
    if is_replay_enabled() {
        u32::MAX
    } else {
        SLICE
    }
}

/// One run of the consumer.
pub struct Run {
    claim: Claim<Box<Cmdq>>,
    features: Features,
    /// Runs without a break before this one
    rounds: u32,
}

impl Run {
    /// Consumes one slice of commands. `is_shared`: other threads read the registers meanwhile.
    pub fn consume<B: Backend>(
        &mut self,
        state: &GuestState,
        irqs: &IrqLines,
        is_shared: bool,
        backend: &mut B,
    ) -> Progress {
        let features = &self.features;
        let platform = Platform {
            memory: &mut GuestBus,
            backend,
            interrupts: &mut CmdqIrqs {
                irqs,
                shared: is_shared.then_some(state),
            },
            observer: &mut CmdqObserver::new(&state.guest_errors, features),
        };
        let Claim { consumer, run } = &mut self.claim;
        consumer.consume(run, features, platform, budget())
    }
}

/// The interrupts of a run, each of which takes the BQL for itself.
struct CmdqIrqs<'a> {
    irqs: &'a IrqLines,
    /// The registers, if other threads read them while the consumer runs
    shared: Option<&'a GuestState>,
}

impl CmdqIrqs<'_> {
    #[cold]
    fn pulse(&self, interrupt: Interrupt) {
        let _lock = BigLock::acquire();
        self.irqs.pulse(interrupt);
    }
}

impl Interrupts for CmdqIrqs<'_> {
    #[inline]
    fn show(&mut self, run: &mut CmdqRun, errors: u32) -> Activation {
        match self.shared {
            Some(state) => state.lock().registers.show_cmdq(run, errors),
            None => run.note_errors(errors),
        }
    }

    fn cmd_sync(&mut self) {
        self.pulse(Interrupt::CmdSync);
    }

    fn gerror(&mut self) {
        self.pulse(Interrupt::Gerror);
    }
}
