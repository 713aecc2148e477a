// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The state of an SMMU that the guest can see and that translation depends on.

use std::sync::{
    atomic::{AtomicBool, Ordering},
    Condvar, Mutex, MutexGuard, PoisonError,
};

use smmuv3::{
    features::Features,
    registers::{EventqRun, Registers, StreamTableRegisters},
    translation::{Store, Walk},
};

use crate::{guest_errors::GuestErrors, statistics::Statistics};

/// The part of an SMMU that translation uses without the Big QEMU Lock.
///
/// It is locked for the length of a copy or a look-up only: never across an ioctl, an
/// access to guest memory, a notifier, or an interrupt. Code that needs these copies the few
/// registers that it needs. The owner of a queue takes the queue's state, which
/// [`CommandQueue`](crate::cmdq::CommandQueue) and [`Self::record`] put back.
pub struct GuestState {
    locked: Mutex<Locked>,
    /// Walks that invalidations wait for have ended
    walks_ended: Condvar,
    /// The guest has disabled the Command queue that another thread consumes. Changes while the
    /// state is locked
    must_stop_cmdq: AtomicBool,
    /// The log of the guest's errors
    pub guest_errors: GuestErrors,
}

/// [`GuestState`], while it is locked.
pub struct Locked {
    /// The ID registers
    pub features: Features,
    /// All other registers
    pub registers: Registers,
    /// Configurations and translations of emulated devices
    pub store: Store,
    /// Transactions use what `store` has cached. Changed together with whether commands are
    /// executed in it
    pub uses_caches: bool,
    /// Hits and misses of both caches
    pub statistics: Statistics,
    /// Number of events that separate accesses: commands, and changes of registers
    pub separations: u64,
}

/// A copy of all registers, for the migration stream.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The ID registers
    pub features: Features,
    /// All other registers
    pub registers: Registers,
}

/// Global errors that a change of the registers has toggled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GerrorChange {
    /// The errors
    pub toggled: u32,
    /// GERROR after that
    pub gerror: u32,
}

impl Locked {
    /// Returns the registers and features by which configurations are found and validated.
    pub const fn stream_table(&self) -> (StreamTableRegisters, Features) {
        (self.registers.stream_table(), self.features)
    }
}

impl GuestState {
    /// Returns the state after a reset.
    pub fn new(features: Features) -> Self {
        Self {
            locked: Mutex::new(Locked {
                features,
                registers: Registers::reset(&features),
                store: Store::default(),
                uses_caches: true,
                statistics: Statistics::default(),
                separations: 0,
            }),
            walks_ended: Condvar::new(),
            must_stop_cmdq: AtomicBool::new(false),
            guest_errors: GuestErrors::default(),
        }
    }

    /// Locks the state. Keep it short: see [`GuestState`].
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, Locked> {
        // nothing panics while it is locked, and if it did, every value is valid
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state in order to invalidate, when no walk is in flight that it must not
    /// race with.
    ///
    /// Called under the Big QEMU Lock, by threads that are not in such a walk: a walk without
    /// that lock calls no device, and one with it is not waited for.
    pub fn lock_to_invalidate(&self) -> MutexGuard<'_, Locked> {
        self.walks_ended
            .wait_while(self.lock(), |locked| locked.store.must_wait())
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a walk. Calls `function` with whether no invalidation has reached the walk; the
    /// effects of the function precede every later invalidation.
    pub fn end_walk<R>(&self, walk: &Walk, function: impl FnOnce(&Locked, bool) -> R) -> R {
        let mut locked = self.lock();
        let result = function(&locked, locked.store.is_current(walk));
        locked.store.end(walk);
        drop(locked);
        if walk.is_undisturbed() {
            self.walks_ended.notify_all();
        }
        result
    }

    /// Returns the ID registers.
    pub fn features(&self) -> Features {
        self.lock().features
    }

    /// Returns the registers and features by which configurations are found and validated.
    pub fn stream_table(&self) -> (StreamTableRegisters, Features) {
        self.lock().stream_table()
    }

    /// Returns a copy of all registers.
    pub fn snapshot(&self) -> Snapshot {
        let locked = self.lock();
        Snapshot {
            features: locked.features,
            registers: locked.registers.clone(),
        }
    }

    /// Gives the registers their reset values.
    pub fn reset(&self) {
        let mut locked = self.lock();
        locked.registers = Registers::reset(&locked.features);
    }

    /// Replaces the registers, because the machine's state was loaded.
    pub fn restore(&self, registers: Registers) {
        self.lock().registers = registers;
    }

    /// Notes that the guest has done something that separates accesses: no access after it is
    /// a piece of one before it.
    pub fn separate_accesses(&self) {
        let mut locked = self.lock();
        locked.separations = locked.separations.wrapping_add(1);
    }

    /// Notes that a run of the Command queue begins.
    #[inline]
    pub fn run_begins(&self, locked: &mut Locked) {
        locked.separations = locked.separations.wrapping_add(1);
        self.must_stop_cmdq.store(false, Ordering::Relaxed);
    }

    /// Notes that a run of the Command queue ends.
    #[inline]
    pub fn run_ends(&self, locked: &mut Locked) {
        locked.separations = locked.separations.wrapping_add(1);
    }

    /// Notes a write of a register, after which the run of another thread may have to end.
    pub fn note_write(&self, locked: &Locked) {
        let must_stop = locked.registers.must_stop_cmdq();
        self.must_stop_cmdq.store(must_stop, Ordering::Relaxed);
    }

    /// Returns whether the run of the Command queue is to end before its next call of the host.
    #[inline]
    pub fn must_stop_cmdq(&self) -> bool {
        self.must_stop_cmdq.load(Ordering::Relaxed)
    }

    /// Runs the producer of the Event queue on the registers that it owns.
    pub fn record<R>(&self, producer: impl FnOnce(&mut EventqRun) -> R) -> (R, GerrorChange) {
        let mut run = {
            let locked = self.lock();
            locked.registers.begin_eventq(&locked.features)
        };
        let result = producer(&mut run);
        let mut locked = self.lock();
        let change = GerrorChange {
            toggled: locked.registers.finish_eventq(run),
            gerror: locked.registers.gerror,
        };
        drop(locked);
        (result, change)
    }
}
