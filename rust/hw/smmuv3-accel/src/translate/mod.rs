// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in software, for functions that QEMU emulates.
//!
//! Behind an SMMU with `accel=off` these are all functions. Behind an accelerated
//! one they are bridges and root ports, whose only transactions are their own
//! MSIs (hot-plug, error reporting): so rare that nothing is remembered of them.

use std::ffi::CStr;

use qom::prelude::*;
use smmuv3::{
    cmdq::GuestMemory,
    features::Features,
    registers::Registers,
    translation::{self, Entry, Outcome, Permissions, Session, Uncached},
};
use system::{
    bindings::{IOMMU_NONE, IOMMU_RO, IOMMU_RW, IOMMU_WO},
    prelude::*,
};
use util::prelude::*;

use crate::{
    device::{Shared, Smmuv3},
    ffi::IommuMemoryRegion,
    memory::{DirectRam, GuestRam},
};

mod caches;
mod ffi;
mod host;
mod notifiers;

use caches::Locked;
pub use caches::Statistics;
pub use ffi::set_region_type;
pub use host::LocalHost;
pub use notifiers::Notified;

::trace::include_trace!("hw_arm");

/// Smallest unit that is bypassed or aborted at once, in bytes, less one.
const PAGE_OFFSET: u64 = 0xfff;

/// How often a transaction begins anew because something was invalidated meanwhile.
const RETRIES: u32 = 8;

/// A part of the address space that is translated at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where the output begins
    output: u64,
    /// The address bits within
    mask: u64,
    /// `IOMMU_RO`, `IOMMU_WO` or both; `IOMMU_NONE` if the access is aborted
    permission: u32,
}

impl Page {
    const ABORT: Self = Self {
        output: 0,
        mask: 0,
        permission: IOMMU_NONE,
    };

    const fn untranslated(iova: u64) -> Self {
        Self {
            output: iova & !PAGE_OFFSET,
            mask: PAGE_OFFSET,
            permission: IOMMU_RW,
        }
    }

    fn of(entry: &Entry) -> Self {
        let permissions = entry.permissions();
        let bit = |permitted, flag| if permitted { flag } else { IOMMU_NONE };
        Self {
            output: entry.output,
            mask: (1_u64 << entry.log2_bytes.min(63)) - 1,
            permission: bit(permissions.read, IOMMU_RO) | bit(permissions.write, IOMMU_WO),
        }
    }
}

impl Smmuv3 {
    /// Where the access of `stream_id` to `iova` goes. `access` is what is wanted;
    /// `IOMMU_NONE` only asks. `region` names the function in traces.
    ///
    /// May be called without the Big QEMU Lock. `ram` is what can be read then.
    pub fn translate(
        &self,
        region: &CStr,
        stream_id: u32,
        iova: u64,
        access: u32,
        ram: DirectRam<'_>,
    ) -> Page {
        let wanted = Permissions {
            read: access & IOMMU_RO != 0,
            write: access & IOMMU_WO != 0,
        };
        #[allow(clippy::cast_possible_truncation)]
        let sid = stream_id as u16;
        match self.settle(stream_id, iova, wanted, ram) {
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
                    page.permission as i32,
                    i32::from(stages),
                );
                page
            }
            Outcome::Fault(fault) => {
                log_mask_ln!(
                    Log::GuestError,
                    "arm-smmuv3: no translation of {iova:#x} for StreamID {stream_id:#x}: {:?}",
                    fault.event
                );
                Page::ABORT
            }
        }
    }

    /// What becomes of a transaction, its event included.
    ///
    /// What an invalidation has overtaken begins anew: after the `CMD_SYNC` that
    /// says that nothing of the old tables is in use, neither a transaction by them
    /// nor an event about them may come (section 4.7.3).
    fn settle(
        &self,
        stream_id: u32,
        iova: u64,
        wanted: Permissions,
        ram: DirectRam<'_>,
    ) -> Outcome {
        // a question is no transaction
        let is_transaction = wanted != Permissions::NONE;
        for _ in 0..RETRIES {
            let (session, outcome) = self.outcome(stream_id, iova, wanted, ram);
            let Some(session) = session else {
                return outcome;
            };
            let is_current = |shared: &Shared| shared.store.begin() == session;
            if let (Outcome::Fault(fault), true) = (&outcome, is_transaction) {
                let event = fault.record(stream_id, iova, !wanted.write);
                if self.post_event(event, |shared| {
                    is_current(shared) && fault.is_recorded(&shared.registers)
                }) {
                    return outcome;
                }
            }
            if is_current(&self.shared()) {
                return outcome;
            }
        }
        // somebody invalidates without end
        if is_transaction {
            self.post_loss();
        }
        Outcome::Abort
    }

    /// What becomes of a transaction by tables as they are now. When it began, unless
    /// the caches knew where it goes.
    fn outcome(
        &self,
        stream_id: u32,
        iova: u64,
        wanted: Permissions,
        ram: DirectRam<'_>,
    ) -> (Option<Session>, Outcome) {
        let (features, registers, mut locked) = {
            let mut shared = self.shared();
            let session = shared.store.begin();
            let mut known = None;
            if !self.accel && shared.registers.smmu_enabled() {
                if let Some(outcome) = shared.store.hit(stream_id, iova, wanted) {
                    shared.statistics.note_hit(&outcome);
                    let traced = Statistics::is_traced().then(|| {
                        let context = shared.store.configurations.get(stream_id);
                        (shared.statistics, context.copied())
                    });
                    drop(shared);
                    if let Some((statistics, context)) = traced {
                        statistics.trace_hit(stream_id, iova, context.as_ref());
                    }
                    // known or not, a fault has yet to be recorded
                    let is_fault = matches!(outcome, Outcome::Fault(_));
                    return (is_fault.then_some(session), outcome);
                }
                known = shared.store.configurations.get(stream_id).copied();
                shared.statistics.note_miss(known.as_ref());
            }
            let caches = Locked::new(self, session, known, shared.statistics);
            (shared.features, shared.registers.clone(), caches)
        };
        let tables = (&registers, &features);
        let access = (stream_id, iova, wanted);
        let outcome = if bql::is_locked() {
            self.walk(tables, &mut GuestRam, &mut locked, access)
        } else {
            self.walk(tables, &mut { ram }, &mut locked, access)
        };
        (Some(locked.session()), outcome)
    }

    fn walk<M: GuestMemory>(
        &self,
        (registers, features): (&Registers, &Features),
        memory: &mut M,
        locked: &mut Locked<'_>,
        (stream_id, iova, wanted): (u32, u64, Permissions),
    ) -> Outcome {
        if self.accel {
            let caches = &mut Uncached;
            translation::translate(registers, features, memory, caches, stream_id, iova, wanted)
        } else {
            translation::translate(registers, features, memory, locked, stream_id, iova, wanted)
        }
    }
}

/// QOM name of the memory regions through which emulated functions see memory.
pub const REGION_TYPE: &CStr = c"smmuv3-iommu-memory-region";

/// The memory region of one emulated function behind an SMMU.
#[repr(C)]
#[derive(qom::Object)]
pub struct Smmuv3MemoryRegion {
    parent_obj: ParentField<IommuMemoryRegion>,
}

qom_isa!(Smmuv3MemoryRegion: IommuMemoryRegion, MemoryRegion, Object);

// SAFETY: the struct begins with its parent's instance; the class adds nothing
unsafe impl ObjectType for Smmuv3MemoryRegion {
    type Class = system::bindings::IOMMUMemoryRegionClass;
    const TYPE_NAME: &'static CStr = REGION_TYPE;
}

impl ObjectImpl for Smmuv3MemoryRegion {
    type ParentType = IommuMemoryRegion;

    const CLASS_INIT: fn(&mut Self::Class) = ffi::set_region_methods;
}
