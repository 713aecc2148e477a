// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The counters of a Command queue while it is consumed.
//!
//! The consumer alone changes them, and any thread reads them meanwhile: a consumer that waits
//! for its host must not keep a user from reading them. So they are atomic, but an increment is
//! a load and a store, which costs what that of a plain integer does.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{
    counters::{Counters, HostCounters, QueueCounters, SIZES},
    Backend, Progress,
};
use crate::{
    batch::{errno, HostError},
    command::{opcode::*, Invalidation},
    gerror::CommandError,
};

/// A counter with one writer.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    fn add(&self, count: u64) {
        self.set(self.get().wrapping_add(count));
    }
}

/// Counters of one Command queue, as its consumer changes them.
#[derive(Debug)]
pub struct SharedCounters {
    legal: [Counter; 256],
    illegal: Counter,
    idle_invalidations: Counter,
    idle_others: Counter,
    consumed: Counter,
    runs: Counter,
    slices: Counter,
    deferred: Counter,
    errors_ill: Counter,
    errors_abt: Counter,
    errors_atc_inv_sync: Counter,
    /// Calls of the host.
    pub(crate) host: SharedHostCounters,
}

/// [`HostCounters`], as the consumer changes them.
#[derive(Debug, Default)]
pub struct SharedHostCounters {
    calls: Counter,
    commands: Counter,
    time_ns: Counter,
    longest_ns: Counter,
    sizes: [Counter; SIZES],
    retries: Counter,
    bisections: Counter,
    eio: Counter,
    enomem: Counter,
    etimedout: Counter,
    eintr: Counter,
    other: Counter,
}

impl Default for SharedCounters {
    fn default() -> Self {
        Self {
            legal: [const { Counter(AtomicU64::new(0)) }; 256],
            illegal: Counter::default(),
            idle_invalidations: Counter::default(),
            idle_others: Counter::default(),
            consumed: Counter::default(),
            runs: Counter::default(),
            slices: Counter::default(),
            deferred: Counter::default(),
            errors_ill: Counter::default(),
            errors_abt: Counter::default(),
            errors_atc_inv_sync: Counter::default(),
            host: SharedHostCounters::default(),
        }
    }
}

impl SharedCounters {
    /// Returns a copy. Of a run in progress it may have some increments and not yet others.
    pub fn copy(&self) -> Counters {
        let mut legal = [0; 256];
        for (copy, counter) in legal.iter_mut().zip(&self.legal) {
            *copy = counter.get();
        }
        Counters {
            legal,
            illegal: self.illegal.get(),
            idle_invalidations: self.idle_invalidations.get(),
            idle_others: self.idle_others.get(),
            consumed: self.consumed.get(),
            queue: QueueCounters {
                runs: self.runs.get(),
                slices: self.slices.get(),
                deferred: self.deferred.get(),
                errors_ill: self.errors_ill.get(),
                errors_abt: self.errors_abt.get(),
                errors_atc_inv_sync: self.errors_atc_inv_sync.get(),
            },
            host: self.host.copy(),
        }
    }

    /// Counts a fetched command, as a legal one.
    #[inline]
    pub(super) fn note_fetched(&self, opcode: u8) {
        self.legal[usize::from(opcode)].add(1);
    }

    /// Corrects [`note_fetched`](Self::note_fetched) for a command that is ILLEGAL.
    #[cold]
    pub(super) fn note_illegal(&self, opcode: u8) {
        let legal = &self.legal[usize::from(opcode)];
        legal.set(legal.get().wrapping_sub(1));
        self.illegal.add(1);
    }

    /// Counts a legal command that is of no effect.
    #[inline]
    pub(super) fn note_without_effect(&self, opcode: u8) {
        let is_invalidation = matches!(
            opcode,
            CFGI_CD | CFGI_CD_ALL | TLBI_NH_ALL..=TLBI_NSNH_ALL | ATC_INV
        );
        let counter = if is_invalidation {
            &self.idle_invalidations
        } else {
            &self.idle_others
        };
        counter.add(1);
    }

    /// Counts a run that has consumed so many commands.
    pub(super) fn note_run(&self, consumed: u32, progress: Progress) {
        self.consumed.add(consumed.into());
        self.runs.add(1);
        match progress {
            Progress::Idle => {}
            Progress::More => self.slices.add(1),
            Progress::Deferred => self.deferred.add(1),
        }
    }

    /// Counts an error that stops the queue.
    pub(super) fn note_error(&self, error: CommandError) {
        let counter = match error {
            CommandError::Illegal => &self.errors_ill,
            CommandError::Abort => &self.errors_abt,
            CommandError::AtcInvSync => &self.errors_atc_inv_sync,
        };
        counter.add(1);
    }
}

impl SharedHostCounters {
    fn copy(&self) -> HostCounters {
        let mut sizes = [0; SIZES];
        for (copy, counter) in sizes.iter_mut().zip(&self.sizes) {
            *copy = counter.get();
        }
        HostCounters {
            calls: self.calls.get(),
            commands: self.commands.get(),
            time_ns: self.time_ns.get(),
            longest_ns: self.longest_ns.get(),
            sizes,
            retries: self.retries.get(),
            bisections: self.bisections.get(),
            eio: self.eio.get(),
            enomem: self.enomem.get(),
            etimedout: self.etimedout.get(),
            eintr: self.eintr.get(),
            other: self.other.get(),
        }
    }

    /// Has `backend` execute `commands`, and counts the call if a host was called.
    pub(crate) fn invalidate<B: Backend>(
        &self,
        backend: &mut B,
        commands: &[Invalidation],
    ) -> Result<(), HostError> {
        let result = backend.invalidate(commands);
        if let Some(nanoseconds) = backend.call_ns() {
            let errno = result.map_err(|error| error.errno).err();
            self.note_call(commands.len(), nanoseconds, errno);
        }
        result
    }

    fn note_call(&self, commands: usize, nanoseconds: u64, errno: Option<i32>) {
        self.calls.add(1);
        self.commands.add(commands as u64);
        self.time_ns.add(nanoseconds);
        if nanoseconds > self.longest_ns.get() {
            self.longest_ns.set(nanoseconds);
        }
        let size = commands.checked_ilog2().unwrap_or(0) as usize;
        if let Some(counter) = self.sizes.get(size) {
            counter.add(1);
        }
        let error = match errno {
            None => return,
            Some(errno::EIO) => &self.eio,
            Some(errno::ENOMEM) => &self.enomem,
            Some(errno::ETIMEDOUT) => &self.etimedout,
            Some(errno::EINTR | errno::EAGAIN) => &self.eintr,
            Some(_) => &self.other,
        };
        error.add(1);
    }

    /// Counts a call that repeats one that failed.
    pub(crate) fn note_retry(&self) {
        self.retries.add(1);
    }

    /// Counts a batch that is divided into halves.
    pub(crate) fn note_bisection(&self) {
        self.bisections.add(1);
    }
}
