// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The vIOMMU as the Command queue's consumer reaches it, without the Big QEMU Lock (BQL).

use std::{
    ops::Deref,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        Arc, PoisonError, RwLock, RwLockReadGuard,
    },
    time::Duration,
};

use qemu_ext::iommufd::{ArmSmmuv3Invalidation, InvalidateError, Invalidator};
use smmuv3::{
    batch::{HostError, MAX_BATCH},
    command::Invalidation,
};

use crate::deadline::Moment;

::trace::include_trace!("hw_arm");

/// Total duration of consecutive failing calls that may hold up the guest: twice the
/// time for which Linux waits for a `CMD_SYNC` of its own.
const PATIENCE: Duration = Duration::from_secs(2);

/// Start and end of a call of the host, and the vIOMMU that it was made to.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub begun: Moment,
    pub ended: Moment,
    pub generation: u64,
}

/// The target of invalidations: the vIOMMU, while there is one.
///
/// Each call in progress is counted, and the target is closed before the vIOMMU is destroyed:
/// [`OpenTarget::close`] waits for these calls, because Linux destroys no object that one of them uses
/// (`EBUSY`), and VFIO would leave its stage 2 behind. It waits for the host alone, not for the
/// consumer, which may be waiting for the BQL. After that no call is made: no ID of a destroyed
/// object, which the host may have given to another one, is ever used.
#[derive(Debug, Default)]
pub struct Target {
    open: RwLock<Option<Invalidator>>,
    /// Changes whenever the target is opened or closed
    generation: AtomicU64,
    /// The host was given up on: no stream is on stage 1
    is_lost: AtomicBool,
    /// Total duration in nanoseconds of the calls that have failed since one succeeded
    failing: AtomicU64,
    /// Duration in nanoseconds of the last of them
    last_failure: AtomicU64,
}

impl Target {
    fn read(&self) -> RwLockReadGuard<'_, Option<Invalidator>> {
        // nothing panics while it is locked, and if it did, every value is valid
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, invalidator: Option<Invalidator>) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = invalidator;
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether there is a vIOMMU.
    pub fn is_open(&self) -> bool {
        self.read().is_some()
    }

    /// Returns whether calls have failed for as long as the guest can be held up.
    pub fn is_exhausted(&self) -> bool {
        self.failing() >= PATIENCE
    }

    /// Returns the number of the vIOMMU, or of the absence of one, that it has now.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Has the host execute invalidations. Returns when the call began and ended, too, if there
    /// was one. Needs no BQL.
    ///
    /// Without a vIOMMU nothing is cached that is used, and a later one is invalidated first. If
    /// the host was given up on, nothing is used either.
    #[inline]
    pub fn invalidate(&self, commands: &[Invalidation]) -> (Result<(), HostError>, Option<Call>) {
        let open = self.read();
        let Some(invalidator) = open.as_ref().filter(|_| !self.is_lost()) else {
            return (Ok(()), None);
        };
        let generation = self.generation();
        let begun = Moment::now();
        let words = commands.iter().map(Invalidation::to_words);
        // Most batches are a few commands, and clearing room for 63 costs more than they do.
        let result = match commands.len() {
            ..=4 => submit::<4>(words, |batch| invalidator.invalidate(batch)),
            _ => submit::<MAX_BATCH>(words, |batch| invalidator.invalidate(batch)),
        };
        let ended = Moment::now();
        drop(open);
        self.note(&result, ended.since(begun));
        let (errno, entry_num) = match &result {
            Ok(()) => (0, commands.len() as u32),
            Err(error) => (error.errno, error.entry_num),
        };
        trace::trace_smmuv3_accel_invalidate_batch(commands.len() as u32, errno, entry_num);
        let call = Call {
            begun,
            ended,
            generation,
        };
        (result, Some(call))
    }

    fn note(&self, result: &Result<(), HostError>, duration: u64) {
        if result.is_ok() {
            self.failing.store(0, Ordering::Relaxed);
        } else {
            self.last_failure.store(duration, Ordering::Relaxed);
            let failing = self.failing.load(Ordering::Relaxed);
            let total = failing.saturating_add(duration);
            self.failing.store(total, Ordering::Relaxed);
        }
    }

    /// Returns the total duration of the calls that have failed since one succeeded.
    pub fn failing(&self) -> Duration {
        Duration::from_nanos(self.failing.load(Ordering::Relaxed))
    }

    /// Returns the duration of the last call that has failed.
    pub fn last_failure(&self) -> Duration {
        Duration::from_nanos(self.last_failure.load(Ordering::Relaxed))
    }

    /// Sets both, which another QEMU has counted, or which start at 0.
    pub fn set_failures(&self, failing: u64, last_failure: u64) {
        self.failing.store(failing, Ordering::Relaxed);
        self.last_failure.store(last_failure, Ordering::Relaxed);
    }

    /// Returns whether the host was given up on.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Sets whether the host is given up on. Returns whether it was.
    pub fn set_lost(&self, is_lost: bool) -> bool {
        self.is_lost.swap(is_lost, Ordering::Relaxed)
    }
}

/// Has `execute` execute commands, given as words in CPU order, of which there are `MAX` at most.
pub fn submit<const MAX: usize>(
    commands: impl ExactSizeIterator<Item = [u64; 2]>,
    execute: impl FnOnce(&[ArmSmmuv3Invalidation]) -> Result<(), InvalidateError>,
) -> Result<(), HostError> {
    let mut entries = [ArmSmmuv3Invalidation::default(); MAX];
    let Some(batch) = entries.get_mut(..commands.len()) else {
        return Err(HostError {
            errno: libc::E2BIG,
            entry_num: 0,
        });
    };
    for (entry, command) in batch.iter_mut().zip(commands) {
        entry.cmd = command.map(u64::to_le);
    }
    execute(batch).map_err(|error| HostError {
        errno: error.errno,
        entry_num: error.entry_num,
    })
}

/// The target, opened for one vIOMMU, which has this and closes it when it goes.
#[derive(Debug)]
pub struct OpenTarget {
    target: Arc<Target>,
    generation: u64,
}

impl OpenTarget {
    /// Opens the target for a new vIOMMU.
    pub fn new(target: &Arc<Target>, invalidator: Invalidator) -> Self {
        target.replace(Some(invalidator));
        Self {
            target: Arc::clone(target),
            generation: target.generation(),
        }
    }

    /// Closes the target, when the calls in progress have ended, unless it is another vIOMMU's by
    /// now.
    pub fn close(&self) {
        if self.target.generation() == self.generation {
            self.target.replace(None);
        }
    }
}

impl Deref for OpenTarget {
    type Target = Target;

    fn deref(&self) -> &Target {
        &self.target
    }
}

impl Drop for OpenTarget {
    fn drop(&mut self) {
        self.close();
    }
}
