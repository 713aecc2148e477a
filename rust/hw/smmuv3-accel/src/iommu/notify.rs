// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Invalidation of the device's own caches and, through IOMMU notifiers, of device IOTLBs
//! (vhost).
//!
//! The device's caches go first: a notified device re-requests translations at once and must
//! not hit a stale entry.

use std::sync::Arc;

use bql::{BqlCell, BqlRefCell};
use qemu_ext::arm_smmu::{OwnedSmmuFunction, SmmuFunction};
use smmuv3::{
    command::{AtcInv, Invalidation},
    translation::{Range, StreamContext, Tlb, TlbiScope},
};

use crate::state::GuestState;

::trace::include_trace!("hw_arm");

/// Maximum number of commands that are executed while the caches are locked: few, because
/// transactions of I/O threads wait for the lock.
const MAX_TOGETHER: usize = 8;

/// Maximum number of blocks that a notifier gets for one range.
const MAX_BLOCKS: usize = 8;

/// The functions whose memory region has an IOMMU notifier.
#[derive(Default)]
pub struct NotifiedFunctions {
    functions: BqlRefCell<Arc<Vec<OwnedSmmuFunction>>>,
    /// Number of notifications of them
    notifications: BqlCell<u64>,
}

impl NotifiedFunctions {
    /// Adds a function that has a notifier now.
    pub fn add(&self, function: &SmmuFunction) {
        let mut functions = self.functions.borrow_mut();
        if !functions.iter().any(|other| other.is(function)) {
            Arc::make_mut(&mut functions).push(function.to_owned());
        }
    }

    /// Removes a function that has no notifier any more.
    pub fn remove(&self, function: &SmmuFunction) {
        Arc::make_mut(&mut self.functions.borrow_mut()).retain(|other| !other.is(function));
    }

    /// Returns whether no function has a notifier.
    pub fn is_empty(&self) -> bool {
        self.functions.borrow().is_empty()
    }

    /// Returns the functions as they are now: a notifier may change them while it is called.
    fn all(&self) -> Arc<Vec<OwnedSmmuFunction>> {
        Arc::clone(&self.functions.borrow())
    }

    /// Unmaps everything in all device IOTLBs.
    pub fn unmap_all(&self) {
        for function in self.all().iter() {
            self.unmap_function(function);
        }
    }

    /// Returns the number of notifications of functions.
    pub fn notifications(&self) -> u64 {
        self.notifications.get()
    }

    fn unmap_function(&self, function: &OwnedSmmuFunction) {
        trace::trace_smmu_inv_notifiers_mr(function.region().name());
        self.notify_unmap(function, Range::ALL);
    }

    /// Notifies that the translations of a range are invalid. A range of more than
    /// [`MAX_BLOCKS`] naturally aligned blocks is widened to the block around it, because each
    /// block can be a message whose answer is waited for.
    fn notify_unmap(&self, function: &OwnedSmmuFunction, range: Range) {
        let whole = if range.blocks().count() > MAX_BLOCKS {
            range.enclosing()
        } else {
            range
        };
        self.notifications
            .set(self.notifications.get().wrapping_add(1));
        function.region().notify_unmap(|| whole.blocks());
    }
}

/// Returns the IOVA range to unmap for a device with this stream configuration, or `None` if
/// it cannot hold an affected translation.
fn affected_range(what: &TlbiScope, context: Option<&StreamContext>, tlb: &Tlb) -> Option<Range> {
    match context {
        Some(StreamContext::Translate(context)) => {
            let range = what.reach(context.tag(), tlb.has_seen_globals())?;
            Some(tlb.widened(range.aligned(context.granule_shift(range.first))))
        }
        // Bypassed or aborting: the switch to this STE already unmapped everything.
        Some(StreamContext::Bypass { .. } | StreamContext::Abort) => None,
        // A miss: it may be of any configuration.
        None => match what {
            TlbiScope::Address { range, .. } | TlbiScope::Ipa { range, .. } => {
                Some(tlb.widened(*range))
            }
            _ => Some(Range::ALL),
        },
    }
}

/// Executes those of `commands` that are `CMD_TLBI_*`.
pub fn invalidate_tlb(state: &GuestState, notified: &NotifiedFunctions, commands: &[Invalidation]) {
    if notified.is_empty() && !is_invalidation_traced() {
        for together in commands.chunks(MAX_TOGETHER) {
            let mut locked = state.lock_to_invalidate();
            for command in together {
                if let Invalidation::Tlbi(tlbi) = command {
                    locked.store.invalidate(&TlbiScope::of(tlbi));
                }
            }
        }
        return;
    }
    for command in commands {
        if let Invalidation::Tlbi(tlbi) = command {
            let scope = TlbiScope::of(tlbi);
            trace_invalidation(&scope);
            state.lock_to_invalidate().store.invalidate(&scope);
            notify(state, notified, &scope);
        }
    }
}

/// Notifies the functions that may hold translations in `what`.
fn notify(state: &GuestState, notified: &NotifiedFunctions, what: &TlbiScope) {
    for function in notified.all().iter() {
        let stream_id = stream_id(function);
        let range = {
            let store = &state.lock().store;
            affected_range(what, store.configuration(stream_id), store.tlb())
        };
        match range {
            None => {}
            Some(Range::ALL) => notified.unmap_function(function),
            Some(range) => unmap(notified, function, what, range),
        }
    }
}

/// Executes a `CMD_CFGI_*` for the streams in `first..=last`.
pub fn invalidate_configs(state: &GuestState, notified: &NotifiedFunctions, first: u32, last: u32) {
    if first == last {
        trace::trace_smmu_config_cache_inv(first);
    } else {
        trace::trace_smmu_configs_inv_sid_range(first, last);
    }
    state
        .lock_to_invalidate()
        .store
        .invalidate_configurations(first, last);
    for function in notified.all().iter() {
        if (first..=last).contains(&stream_id(function)) {
            notified.unmap_function(function);
        }
    }
}

/// Executes a `CMD_ATC_INV`: the device IOTLB of a stream is its ATC. That has nothing of a
/// substream, because no emulated function makes transactions with a PASID.
pub fn invalidate_atc(notified: &NotifiedFunctions, command: &AtcInv) {
    let Some((first, last)) = command.addresses_without_substream() else {
        return;
    };
    for function in notified.all().iter() {
        if stream_id(function) == command.sid() {
            notified.notify_unmap(function, Range { first, last });
        }
    }
}

/// Invalidates everything, because registers have changed on which every translation depends.
pub fn invalidate_all(state: &GuestState, notified: &NotifiedFunctions) {
    state.lock_to_invalidate().store.clear();
    state.separate_accesses();
    notified.unmap_all();
}

fn stream_id(function: &OwnedSmmuFunction) -> u32 {
    function.pci().requester_id().into()
}

fn unmap(
    notified: &NotifiedFunctions,
    function: &OwnedSmmuFunction,
    what: &TlbiScope,
    range: Range,
) {
    let (vmid, asid, stage) = match *what {
        TlbiScope::Address { vmid, asid, .. } => (vmid, asid.map_or(-1, i32::from), 1),
        TlbiScope::Ipa { vmid, .. } => (vmid, -1, 2),
        _ => (0, -1, 0),
    };
    let pages = ((range.last - range.first) >> 12) + 1;
    trace::trace_smmuv3_inv_notifiers_iova(
        function.region().name(),
        asid,
        i32::from(vmid),
        range.first,
        1,
        pages,
        stage,
    );
    notified.notify_unmap(function, range);
}

/// Returns whether a trace event of [`trace_invalidation`] is enabled.
fn is_invalidation_traced() -> bool {
    trace::trace_smmu_iotlb_inv_all_enabled()
        || trace::trace_smmu_iotlb_inv_vmid_enabled()
        || trace::trace_smmu_iotlb_inv_vmid_s1_enabled()
        || trace::trace_smmu_iotlb_inv_asid_vmid_enabled()
        || trace::trace_smmu_iotlb_inv_iova_enabled()
}

fn trace_invalidation(what: &TlbiScope) {
    match *what {
        TlbiScope::All => trace::trace_smmu_iotlb_inv_all(),
        TlbiScope::Vmid(vmid) => trace::trace_smmu_iotlb_inv_vmid(i32::from(vmid)),
        TlbiScope::VmidStage1(vmid) => trace::trace_smmu_iotlb_inv_vmid_s1(i32::from(vmid)),
        TlbiScope::Asid { vmid, asid } => {
            trace::trace_smmu_iotlb_inv_asid_vmid(i32::from(asid), i32::from(vmid));
        }
        TlbiScope::Address { asid, range, .. } => {
            trace::trace_smmu_iotlb_inv_iova(asid.map_or(-1, i32::from), range.first);
        }
        TlbiScope::Ipa { range, .. } => trace::trace_smmu_iotlb_inv_iova(-1, range.first),
    }
}
