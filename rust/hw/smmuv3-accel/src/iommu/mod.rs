// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in software, for functions that QEMU emulates.
//!
//! Behind an SMMU with `accel=off` these are all functions. Behind an accelerated one without
//! emulated endpoints they are bridges and root ports, whose only transactions are their own
//! MSIs (hot-plug, error reporting): so rare that their translations are not cached, and
//! commands need not be executed here.

use std::{ffi::CStr, sync::MutexGuard};

use qemu_ext::{
    dma::AddressSpace,
    iommu::{IommuAccess, IommuTlbEntry},
};
use smmuv3::{
    features::Features,
    memory::GuestMemory,
    registers::StreamTableRegisters,
    translation::{self, Entry, Outcome, Permissions, Uncached},
};

use crate::{
    eventq::{end_access, PendingEvents},
    irq::IrqLines,
    memory::{DirectRam, GuestRam},
    state::{GuestState, Locked},
    statistics::Statistics,
};

mod cache;
mod cmdq;
mod notify;

use cache::WalkCaches;
pub use cmdq::SoftwareBackend;
pub use notify::{invalidate_all, NotifiedFunctions};

::trace::include_trace!("hw_arm");

/// Address mask of bypassed and aborted accesses (4 KiB, less one).
const PAGE_OFFSET: u64 = 0xfff;

/// Maximum number of attempts to translate a transaction. Invalidations may race with
/// the walks of all but the last, and wait for that one.
const ATTEMPTS: u32 = 4;

/// Whether invalidations may be executed during a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// They may, and the walk counts only if none has reached it.
    Concurrent,
    /// They wait.
    Undisturbed,
}

/// A transaction: stream, address, and kind of access.
type Access = (u32, u64, Permissions);

/// A part of the address space that is translated at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The first output address
    output: u64,
    /// The address bits within
    mask: u64,
    /// The permissions; none if the access is aborted
    permission: IommuAccess,
}

impl Page {
    /// Nothing is permitted.
    pub const ABORT: Self = Self {
        output: 0,
        mask: 0,
        permission: IommuAccess::NONE,
    };

    /// Returns the page of `iova` for the memory core.
    #[inline]
    pub fn to_entry<'a>(self, iova: u64) -> IommuTlbEntry<'a> {
        IommuTlbEntry {
            target: AddressSpace::memory(),
            iova: iova & !self.mask,
            translated_addr: self.output,
            addr_mask: self.mask,
            permission: self.permission,
        }
    }

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

/// Translates the accesses of functions that QEMU emulates.
#[derive(Clone, Copy)]
pub struct Translator<'a> {
    /// Registers and caches
    pub state: &'a GuestState,
    /// The pending events, to which faults are added
    pub events: &'a PendingEvents,
    /// The interrupt lines for these
    pub irqs: &'a IrqLines,
}

impl Translator<'_> {
    /// Translates the access of `stream_id` to `iova`. [`IommuAccess::NONE`] is a probe.
    /// `region` names the function in traces.
    ///
    /// Does not need the BQL. `ram` is the memory that can be read without it.
    pub fn translate(
        self,
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
        match self.translate_and_record((stream_id, iova, wanted), ram) {
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
                let errors = &self.state.guest_errors;
                errors.fault(stream_id, iova, fault.event);
                Page::ABORT
            }
        }
    }

    /// Translates an access, and records its fault.
    ///
    /// A walk that raced with an invalidation is retried: once the `CMD_SYNC` has completed,
    /// neither a DMA nor a fault may be based on the stale tables (§4.7.3). However many
    /// invalidations there are, the last attempt counts, because no invalidation races with it:
    ///
    /// * Invalidations are executed under the Big QEMU Lock only. A thread that has it
    ///   races with none but its own, if a table lies in a device whose register
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
    #[inline]
    fn translate_and_record(self, access: Access, ram: DirectRam<'_>) -> Outcome {
        let mut locked = self.state.lock();
        let hit = Self::hit(&locked, access);
        if let Some(outcome) = hit.filter(|outcome| !matches!(outcome, Outcome::Fault(_))) {
            locked.statistics.note_hit(&outcome);
            let traced = Statistics::is_traced().then(|| {
                let context = locked.store.configuration(access.0).copied();
                (locked.statistics, context)
            });
            drop(locked);
            if let Some((statistics, context)) = traced {
                statistics.trace_hit(access.0, access.1, context.as_ref());
            }
            end_access();
            return outcome;
        }
        let again = |mode| {
            let mut now = self.state.lock();
            now.statistics.note_retry();
            // an attempt before this one may have been inserted by now
            let known = Self::hit(&now, access);
            self.attempt(now, known, access, ram, mode)
        };
        self.attempt(locked, hit, access, ram, Mode::Concurrent)
            .or_else(|| (2..ATTEMPTS).find_map(|_| again(Mode::Concurrent)))
            .or_else(|| again(Mode::Undisturbed))
            // no invalidation races with the last attempt
            .unwrap_or(Outcome::Abort)
    }

    /// Translates an access by the caches alone, or returns `None` if they miss.
    #[inline]
    fn hit(locked: &Locked, (stream_id, iova, wanted): Access) -> Option<Outcome> {
        let is_cached = locked.uses_caches && locked.registers.smmu_enabled();
        is_cached
            .then(|| locked.store.hit(stream_id, iova, wanted))
            .flatten()
    }

    /// Translates an access once against the current tables, unless an invalidation reaches
    /// the memory that is read. `hit` is the caches' entry in `locked`.
    #[inline(never)]
    fn attempt(
        self,
        mut locked: MutexGuard<'_, Locked>,
        hit: Option<Outcome>,
        access: Access,
        ram: DirectRam<'_>,
        mode: Mode,
    ) -> Option<Outcome> {
        let (stream_id, iova, wanted) = access;
        let with_bql = bql::is_locked();
        let walk = if mode == Mode::Undisturbed && !with_bql {
            locked.store.begin_undisturbed(stream_id, iova)
        } else {
            locked.store.begin(stream_id, iova)
        };
        let is_cached = locked.uses_caches && locked.registers.smmu_enabled();
        let known = is_cached
            .then(|| locked.store.configuration(stream_id).copied())
            .flatten();
        match &hit {
            Some(outcome) => locked.statistics.note_hit(outcome),
            None if is_cached => locked.statistics.note_miss(known.as_ref()),
            None => {}
        }
        if hit.is_none() {
            locked.statistics.note_walk();
        }
        let statistics = locked.statistics;
        let mut caches = WalkCaches::new(self.state, walk, known, statistics);
        let outcome = if let Some(outcome) = hit {
            drop(locked);
            if Statistics::is_traced() {
                statistics.trace_hit(stream_id, iova, known.as_ref());
            }
            outcome
        } else {
            let tables = locked.stream_table();
            let used = locked.uses_caches.then_some(&mut caches);
            drop(locked);
            if with_bql && mode == Mode::Concurrent {
                walk_tables(&tables, &mut GuestRam, used, access)
            } else {
                walk_tables(&tables, &mut { ram }, used, access)
            }
        };
        let is_read = !wanted.write;
        let (is_current, is_queued) = caches.finish(|now, is_current| {
            let event = match &outcome {
                // IOMMU_NONE is a probe, not a DMA: it must not record a fault
                Outcome::Fault(fault)
                    if wanted != Permissions::NONE && fault.is_recorded(&now.registers) =>
                {
                    Some(fault.record(stream_id, iova, is_read))
                }
                _ => None,
            };
            let is_queued = match event {
                Some(event) if is_current => {
                    self.events.queue(self.state, now, event, iova, is_read)
                }
                Some(_) => false,
                None => {
                    end_access();
                    false
                }
            };
            (is_current, is_queued)
        });
        if is_queued {
            self.events.flush_or_schedule(self.state, self.irqs);
        }
        is_current.then_some(outcome)
    }
}

/// Walks the tables, with the caches if they are used.
fn walk_tables<M: GuestMemory>(
    (registers, features): &(StreamTableRegisters, Features),
    memory: &mut M,
    caches: Option<&mut WalkCaches<'_>>,
    (stream_id, iova, wanted): Access,
) -> Outcome {
    if let Some(caches) = caches {
        translation::translate(registers, features, memory, caches, stream_id, iova, wanted)
    } else {
        let none = &mut Uncached;
        translation::translate(registers, features, memory, none, stream_id, iova, wanted)
    }
}
