// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in software, for functions that QEMU emulates.
//!
//! Behind an SMMU with `accel=off` these are all functions. Behind an accelerated
//! one they are bridges and root ports, whose only transactions are their own
//! MSIs (hot-plug, error reporting): so rare that nothing is remembered of them.

use std::{
    ffi::CStr,
    sync::{MutexGuard, PoisonError},
};

use qemu_ext::{iommu::IommuAccess, log};
use smmuv3::{
    cmdq::GuestMemory,
    features::Features,
    registers::Registers,
    translation::{self, Entry, Outcome, Permissions, Uncached},
};

use crate::{
    device::{Shared, Smmuv3},
    events::end_access,
    memory::{DirectRam, GuestRam},
};

mod caches;
mod host;
mod notifiers;
mod region;

use caches::Locked;
pub use caches::Statistics;
pub use host::LocalHost;
pub use notifiers::Notified;
pub use region::Smmuv3MemoryRegion;

::trace::include_trace!("hw_arm");

/// Smallest unit that is bypassed or aborted at once, in bytes, less one.
const PAGE_OFFSET: u64 = 0xfff;

/// How often a transaction is walked for beside invalidations, each of which may reach
/// the walk. After that they wait for it.
const ATTEMPTS: u32 = 4;

/// Whether invalidations may be executed during a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They may, and the walk counts only if none has reached it.
    Concurrent,
    /// They wait.
    Undisturbed,
}

/// A transaction: stream, address, and what is wanted.
type Access = (u32, u64, Permissions);

/// A part of the address space that is translated at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where the output begins
    output: u64,
    /// The address bits within
    mask: u64,
    /// What is permitted; nothing if the access is aborted
    permission: IommuAccess,
}

impl Page {
    const ABORT: Self = Self {
        output: 0,
        mask: 0,
        permission: IommuAccess::NONE,
    };

    const fn untranslated(iova: u64) -> Self {
        Self {
            output: iova & !PAGE_OFFSET,
            mask: PAGE_OFFSET,
            permission: IommuAccess::RW,
        }
    }

    fn of(entry: &Entry) -> Self {
        let permissions = entry.permissions();
        Self {
            output: entry.output,
            mask: (1_u64 << entry.log2_bytes.min(63)) - 1,
            permission: IommuAccess {
                read: permissions.read,
                write: permissions.write,
            },
        }
    }
}

impl Smmuv3 {
    /// Where the access of `stream_id` to `iova` goes. `access` is what is wanted;
    /// [`IommuAccess::NONE`] only asks. `region` names the function in traces.
    ///
    /// May be called without the Big QEMU Lock. `ram` is what can be read then.
    pub fn translate(
        &self,
        region: &CStr,
        stream_id: u32,
        iova: u64,
        access: IommuAccess,
        ram: DirectRam<'_>,
    ) -> Page {
        let wanted = Permissions {
            read: access.read,
            write: access.write,
        };
        #[allow(clippy::cast_possible_truncation)]
        let sid = stream_id as u16;
        match self.settle((stream_id, iova, wanted), ram) {
            Outcome::Disabled => {
                trace::trace_smmuv3_translate_disable(region, sid, iova, wanted.write);
                Page::untranslated(iova)
            }
            Outcome::Bypass => {
                trace::trace_smmuv3_translate_bypass(region, sid, iova, wanted.write);
                Page::untranslated(iova)
            }
            Outcome::Abort => {
                trace::trace_smmuv3_translate_abort(region, sid, iova, wanted.write);
                Page::ABORT
            }
            Outcome::Translated { entry, stages } => {
                let page = Page::of(&entry);
                trace::trace_smmuv3_translate_success(
                    region,
                    sid,
                    iova,
                    page.output | (iova & page.mask),
                    page.permission.flags() as i32,
                    i32::from(stages),
                );
                page
            }
            Outcome::Fault(fault) => {
                log::guest_error(format_args!(
                    "arm-smmuv3: no translation of {iova:#x} for StreamID {stream_id:#x}: {:?}",
                    fault.event
                ));
                Page::ABORT
            }
        }
    }

    /// What becomes of a transaction, its event included.
    ///
    /// A walk that an invalidation has reached is done again: after the `CMD_SYNC`
    /// that says that nothing of the old tables is in use, neither a transaction by
    /// them nor an event about them may come (§4.7.3). However many invalidations
    /// there are, the last attempt counts, because nothing overtakes it:
    ///
    /// * Invalidations are executed under the Big QEMU Lock only. A thread that has it
    ///   is overtaken by none but its own, if a table lies in a device whose register
    ///   leads back here; and the last attempt reads plain memory only.
    /// * For a thread that does not have it they wait ([`Store::must_wait`]), with the
    ///   lock. That is no deadlock: the walk never waits for the lock, as it takes no
    ///   other lock than the one of the caches, for a look-up, and reads plain memory
    ///   ([`DirectRam`]); a page of that which is still to come (postcopy) is brought
    ///   by threads that do not need the lock either.
    /// * It is no starvation: while they wait nothing reaches any walk, so no other
    ///   thread comes to its last attempt that is not there yet. They wait for one walk
    ///   of each of QEMU's threads at most.
    ///
    /// [`Store::must_wait`]: smmuv3::translation::Store::must_wait
    fn settle(&self, access: Access, ram: DirectRam<'_>) -> Outcome {
        let mut shared = self.shared();
        let hit = self.hit(&shared, access);
        if let Some(outcome) = hit.filter(|outcome| !matches!(outcome, Outcome::Fault(_))) {
            shared.statistics.note_hit(&outcome);
            let traced = Statistics::is_traced().then(|| {
                let context = shared.store.configuration(access.0).copied();
                (shared.statistics, context)
            });
            drop(shared);
            if let Some((statistics, context)) = traced {
                statistics.trace_hit(access.0, access.1, context.as_ref());
            }
            end_access();
            return outcome;
        }
        let again = |mode| {
            let now = self.shared();
            // an attempt before this one may have been inserted by now
            let known = self.hit(&now, access);
            self.attempt(now, known, access, ram, mode)
        };
        self.attempt(shared, hit, access, ram, Mode::Concurrent)
            .or_else(|| (2..ATTEMPTS).find_map(|_| again(Mode::Concurrent)))
            .or_else(|| again(Mode::Undisturbed))
            // see above: it is never overtaken
            .unwrap_or(Outcome::Abort)
    }

    /// What becomes of a transaction, if the caches know.
    #[inline]
    fn hit(&self, shared: &Shared, (stream_id, iova, wanted): Access) -> Option<Outcome> {
        let is_cached = !self.accel && shared.registers.smmu_enabled();
        is_cached
            .then(|| shared.store.hit(stream_id, iova, wanted))
            .flatten()
    }

    /// What becomes of a transaction by tables as they are now, unless an
    /// invalidation reaches what is read. `hit` is what the caches know in `shared`.
    #[inline(never)]
    fn attempt(
        &self,
        mut shared: MutexGuard<'_, Shared>,
        hit: Option<Outcome>,
        access: Access,
        ram: DirectRam<'_>,
        mode: Mode,
    ) -> Option<Outcome> {
        let (stream_id, iova, wanted) = access;
        let with_bql = bql::is_locked();
        let walk = if mode == Mode::Undisturbed && !with_bql {
            shared.store.begin_undisturbed(stream_id, iova)
        } else {
            shared.store.begin(stream_id, iova)
        };
        let is_cached = !self.accel && shared.registers.smmu_enabled();
        let known = is_cached
            .then(|| shared.store.configuration(stream_id).copied())
            .flatten();
        match &hit {
            Some(outcome) => shared.statistics.note_hit(outcome),
            None if is_cached => shared.statistics.note_miss(known.as_ref()),
            None => {}
        }
        let mut locked = Locked::new(self, walk, known, shared.statistics);
        let outcome = if let Some(outcome) = hit {
            let statistics = shared.statistics;
            drop(shared);
            if Statistics::is_traced() {
                statistics.trace_hit(stream_id, iova, known.as_ref());
            }
            outcome
        } else {
            let (features, registers) = (shared.features, shared.registers.clone());
            drop(shared);
            let tables = (&registers, &features);
            if with_bql && mode == Mode::Concurrent {
                self.walk(tables, &mut GuestRam, &mut locked, access)
            } else {
                self.walk(tables, &mut { ram }, &mut locked, access)
            }
        };
        let is_read = !wanted.write;
        let (is_current, is_queued) = locked.finish(|now, is_current| {
            let event = match &outcome {
                // a question is no transaction
                Outcome::Fault(fault)
                    if wanted != Permissions::NONE && fault.is_recorded(&now.registers) =>
                {
                    Some(fault.record(stream_id, iova, is_read))
                }
                _ => None,
            };
            let is_queued = match event {
                Some(event) if is_current => self.queue_event(now, event, iova, is_read),
                Some(_) => false,
                None => {
                    end_access();
                    false
                }
            };
            (is_current, is_queued)
        });
        if is_queued {
            self.record_in_time();
        }
        is_current.then_some(outcome)
    }

    fn walk<M: GuestMemory>(
        &self,
        (registers, features): (&Registers, &Features),
        memory: &mut M,
        locked: &mut Locked<'_>,
        (stream_id, iova, wanted): Access,
    ) -> Outcome {
        if self.accel {
            let caches = &mut Uncached;
            translation::translate(registers, features, memory, caches, stream_id, iova, wanted)
        } else {
            translation::translate(registers, features, memory, locked, stream_id, iova, wanted)
        }
    }

    /// Locks the caches in order to invalidate, when no walk is in flight that must
    /// not be overtaken.
    ///
    /// Called under the Big QEMU Lock, by threads that are not in such a walk: a walk
    /// without that lock calls no device, and one with it is not waited for.
    fn shared_when_undisturbed(&self) -> MutexGuard<'_, Shared> {
        let shared = self.shared();
        self.walks_ended
            .wait_while(shared, |shared| shared.store.must_wait())
            .unwrap_or_else(PoisonError::into_inner)
    }
}
