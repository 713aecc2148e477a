// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Getting a batch executed by a host that may fail.
//!
//! The reported error decides what the driver does next. After `CERROR_ILL`
//! it gives the command up, so that is for a command that really is illegal.
//! After `CERROR_ABT` it submits the same command again, so that is for a host
//! that could not do it now. `CERROR_ATC_INV_SYNC` belongs to the `CMD_SYNC`.

use super::{
    commands::Batch, errno::*, mask::CommandMask, EioReport, Failure, FlushPolicy, HostError,
};
use crate::{
    cmdq::{Backend, SharedHostCounters},
    command::Invalidation,
    gerror::CommandError,
};

/// Number of retries of an interrupted call before the host is given up on: the
/// consumer must not loop without bound.
const INTERRUPT_RETRIES: u32 = 16;

/// Number of retries of a call after an error that no working host reports.
const DEFECT_RETRIES: u32 = 1;

/// Number of unresponsive streams after which the remaining ones are quarantined
/// without a retry.
const MAX_SILENT_STREAMS: usize = 2;

/// The command at which a flush ends, by the index of its entry in the batch.
struct Stop {
    index: u32,
    /// Number of commands that precede it in that entry, if that is a run.
    offset: u32,
    error: CommandError,
}

/// The outcome of the commands of one call.
enum Answer {
    /// All are complete.
    Done,
    /// There is nothing left that they could invalidate, or nothing that is used.
    Gone,
    /// None was executed, because one of them is illegal.
    Illegal { entry_num: u32 },
    /// None was executed.
    NoMemory,
    /// Some may have been executed.
    TimedOut,
    /// Nothing is known.
    Failed,
}

struct Flush<'a, B> {
    batch: &'a Batch,
    policy: &'a FlushPolicy,
    backend: &'a mut B,
    atc_failed: &'a mut bool,
    counters: &'a SharedHostCounters,
}

/// Has `backend` execute the commands of `batch`.
///
/// `atc_failed` is set if a `CMD_ATC_INV` did not complete; its stream is
/// quarantined then, and the next `CMD_SYNC` has to report it (§3.9.1.4).
///
/// # Errors
///
/// The command at which consumption stops. What precedes it is complete, what
/// follows it is to be submitted again.
pub fn submit<B: Backend>(
    batch: &Batch,
    policy: &FlushPolicy,
    backend: &mut B,
    atc_failed: &mut bool,
    counters: &SharedHostCounters,
) -> Result<(), Failure> {
    let mut flush = Flush {
        batch,
        policy,
        backend,
        atc_failed,
        counters,
    };
    flush.execute(batch.all()).map_err(|stop| Failure {
        position: batch.position(stop.index) + stop.offset,
        opcode: batch.opcode(stop.index),
        error: stop.error,
    })
}

impl<B: Backend> Flush<'_, B> {
    /// Completes the commands of `set`, or all that precede the one given back.
    ///
    /// Each call of the host either completes its commands or shrinks the sets
    /// that are left, so there are at most a few per command.
    fn execute(&mut self, set: CommandMask) -> Result<(), Stop> {
        if self.policy.repeat_tlbi_cfgi {
            self.execute_twice(set)
        } else {
            self.complete(set, 1)
        }
    }

    /// Does what [`execute`](Self::execute) does, for a host with the erratum.
    fn execute_twice(&mut self, set: CommandMask) -> Result<(), Stop> {
        // T264-SMMU-3: an ATC could be filled again from the entry that only
        // the second pass removes, so CMD_ATC_INV comes after it, and alone.
        let mut rest = set;
        while !rest.is_empty() {
            let run = rest.leading_run(self.batch.atc());
            let passes = if run.without(self.batch.atc()).is_empty() {
                1
            } else {
                2
            };
            self.complete(run, passes)?;
            rest = rest.without(run);
        }
        Ok(())
    }

    /// Has the whole of `set` executed `passes` times.
    #[inline]
    fn complete(&mut self, set: CommandMask, passes: u32) -> Result<(), Stop> {
        if set.is_empty() {
            return Ok(());
        }
        for _ in 0..passes {
            match self.submit(set, self.policy.timeout_retries) {
                Answer::Done => {}
                Answer::Gone => return Ok(()),
                answer => return self.handle(set, &answer),
            }
        }
        Ok(())
    }

    /// Handles an answer after which commands of `set` are not complete.
    #[cold]
    fn handle(&mut self, set: CommandMask, answer: &Answer) -> Result<(), Stop> {
        match *answer {
            Answer::Done | Answer::Gone => Ok(()),
            Answer::Illegal { .. } if self.has_runs(set) => self.unmerged(set),
            Answer::NoMemory if !set.has_several() && self.has_runs(set) => self.unmerged(set),
            Answer::Illegal { entry_num } => self.one_illegal(set, entry_num),
            Answer::NoMemory if set.has_several() => self.by_halves(set),
            Answer::TimedOut => self.timed_out(set),
            Answer::NoMemory | Answer::Failed => Err(abort(set)),
        }
    }

    /// Calls the host until it gives an answer that counts.
    #[inline]
    fn submit(&mut self, set: CommandMask, timeouts: u32) -> Answer {
        match self.call(set) {
            Ok(()) => Answer::Done,
            Err(error) => self.retry(set, timeouts, error),
        }
    }

    /// Calls the host once.
    #[inline]
    fn call(&mut self, set: CommandMask) -> Result<(), HostError> {
        let (backend, counters) = (&mut *self.backend, self.counters);
        self.batch
            .with(set, |commands| counters.invalidate(backend, commands))
    }

    /// Repeats a call that has failed until the host gives an answer that counts.
    #[cold]
    fn retry(&mut self, set: CommandMask, mut timeouts: u32, mut error: HostError) -> Answer {
        let mut interrupts = INTERRUPT_RETRIES;
        let mut defects = DEFECT_RETRIES;
        // Halves of a batch need less memory, so waiting is for single
        // commands.
        let mut shortages = if set.has_several() {
            0
        } else {
            self.policy.memory_retries
        };
        loop {
            let HostError { errno, entry_num } = error;
            let is_exhausted = self.backend.is_exhausted();
            if is_exhausted && self.is_lost(set, errno) {
                return Answer::Gone;
            }
            let (retries, outcome) = match errno {
                EIO => return Answer::Illegal { entry_num },
                ENOENT if self.backend.is_gone() => return Answer::Gone,
                EINTR | EAGAIN => (&mut interrupts, Answer::Failed),
                ENOMEM => (&mut shortages, Answer::NoMemory),
                ETIMEDOUT => (&mut timeouts, Answer::TimedOut),
                _ if defects == 0 => {
                    self.backend.fail_closed();
                    return Answer::Failed;
                }
                _ => (&mut defects, Answer::Failed),
            };
            match retries.checked_sub(1) {
                Some(left) if !is_exhausted => {
                    *retries = left;
                    self.counters.note_retry();
                }
                _ => return outcome,
            }
            match self.call(set) {
                Ok(()) => return Answer::Done,
                Err(again) => error = again,
            }
        }
    }

    /// Gives the host up after `errno` to the commands of `set`, and returns whether
    /// that completes them.
    ///
    /// A timeout can be one device's, whose `CMD_ATC_INV`s are then found by
    /// submitting them apart: no other stream may pay for that device.
    fn is_lost(&mut self, set: CommandMask, errno: i32) -> bool {
        let may_be_one_device = errno == ETIMEDOUT && !set.and(self.batch.atc()).is_empty();
        !may_be_one_device && self.backend.give_up()
    }

    /// Handles a batch of which one command is illegal to the host, and none was executed.
    fn one_illegal(&mut self, set: CommandMask, entry_num: u32) -> Result<(), Stop> {
        let named = match self.policy.eio {
            _ if !set.has_several() => Some(set.first()),
            EioReport::Offender => set.nth(entry_num),
            EioReport::BlockStart => None,
        };
        let Some(index) = named else {
            return self.by_halves(set);
        };
        self.execute(set.before(index))?;
        if !self.has_vanished(index) {
            return Err(Stop {
                index,
                offset: 0,
                error: CommandError::Illegal,
            });
        }
        self.execute(set.after(index))
    }

    /// Returns whether a command names a stream whose device is no longer there: it
    /// has no effect then (§4.1.7).
    fn has_vanished(&mut self, index: u32) -> bool {
        self.batch
            .target(index)
            .is_some_and(|sid| !self.backend.has_vdevice(sid))
    }

    fn has_runs(&self, set: CommandMask) -> bool {
        !set.and(self.batch.runs()).is_empty()
    }

    /// Has the commands of `set` executed as the guest has queued them, because the host
    /// has refused ranges in their place: an error is of the command that it would be of
    /// without ranges. Both passes of the erratum have the same form.
    fn unmerged(&mut self, set: CommandMask) -> Result<(), Stop> {
        let runs = self.batch.runs();
        let mut rest = set;
        while !rest.is_empty() {
            let alike = rest.leading_run(runs);
            rest = rest.without(alike);
            if alike.and(runs).is_empty() {
                self.execute(alike)?;
                continue;
            }
            for index in alike.iter() {
                self.unmerged_run(index)?;
            }
        }
        Ok(())
    }

    fn unmerged_run(&mut self, index: u32) -> Result<(), Stop> {
        let mut originals = self.batch.originals(index);
        let mut chunk = Batch::new();
        let mut done = 0;
        loop {
            let next = originals.next();
            if let Some(tlbi) = next {
                chunk.push(0, Invalidation::Tlbi(tlbi));
            }
            if chunk.is_full() || next.is_none() {
                let mut flush = Flush {
                    batch: &chunk,
                    policy: self.policy,
                    backend: &mut *self.backend,
                    atc_failed: &mut *self.atc_failed,
                    counters: self.counters,
                };
                flush.execute(chunk.all()).map_err(|stop| Stop {
                    index,
                    offset: done + stop.index,
                    error: stop.error,
                })?;
                done += chunk.len() as u32;
                chunk.clear();
            }
            if next.is_none() {
                return Ok(());
            }
        }
    }

    fn by_halves(&mut self, set: CommandMask) -> Result<(), Stop> {
        self.counters.note_bisection();
        let (older, newer) = set.halves();
        self.execute(older)?;
        self.execute(newer)
    }

    /// Handles commands that did not complete although they were retried.
    fn timed_out(&mut self, set: CommandMask) -> Result<(), Stop> {
        let atc = set.and(self.batch.atc());
        let rest = set.without(atc);
        if atc.is_empty() {
            return Err(abort(set));
        }
        if rest.is_empty() {
            self.atc_timed_out(atc);
            return Ok(());
        }
        // One device that does not answer keeps everything from completing:
        // find out whether it is that.
        match self.execute(rest) {
            Ok(()) => self.execute(atc),
            Err(stop) if stop.error == CommandError::Illegal => {
                self.execute(atc.before(stop.index))?;
                Err(stop)
            }
            // From the first of all: a preceding CMD_ATC_INV must not be lost.
            Err(_) => Err(abort(set)),
        }
    }

    /// A device did not answer to ATS invalidations (§3.9.1.4). It is taken to
    /// abort, so that what its ATC still holds is of no use; the others are not.
    fn atc_timed_out(&mut self, atc: CommandMask) {
        let mut silent = 0;
        let mut rest = atc;
        while !rest.is_empty() {
            let target = self.batch.target(rest.first());
            let stream = self.batch.same_target(rest, target);
            rest = rest.without(stream);
            let is_alone = stream == atc;
            let is_asked = !is_alone && silent < MAX_SILENT_STREAMS && !self.backend.is_exhausted();
            if is_asked && matches!(self.submit(stream, 0), Answer::Done | Answer::Gone) {
                continue;
            }
            silent += 1;
            *self.atc_failed = true;
            match target {
                Some(sid) if is_alone || is_asked => self.backend.quarantine(sid),
                Some(sid) => self.backend.suspend(sid),
                None => {}
            }
        }
    }
}

/// Stops consumption at the first of `set`, to be retried from there.
const fn abort(set: CommandMask) -> Stop {
    Stop {
        index: set.first(),
        offset: 0,
        error: CommandError::Abort,
    }
}
