// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What is to be forgotten: in the device's own caches, and by those who keep
//! translations of their own (vhost) and are told through IOMMU notifiers.
//!
//! The caches come first: who is told asks again at once, and must not be given
//! what is to be forgotten.

use std::sync::Arc;

use qemu_ext::arm_smmu::{OwnedSmmuFunction, SmmuFunction};
use smmuv3::translation::{Invalidation, Range, StreamContext, Tlb};

use crate::device::Smmuv3;

::trace::include_trace!("hw_arm");

/// Most blocks of one range that a notifier is told of.
const MAX_BLOCKS: usize = 8;

/// The functions whose memory region has an IOMMU notifier.
#[derive(Debug, Default)]
pub struct Notified(Arc<Vec<OwnedSmmuFunction>>);

impl Notified {
    /// Adds a function that has a notifier now.
    pub fn add(&mut self, function: &SmmuFunction) {
        if !self.0.iter().any(|other| other.is(function)) {
            Arc::make_mut(&mut self.0).push(function.to_owned());
        }
    }

    /// Returns whether no region has an active notifier.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes a function that has no notifier any more.
    pub fn remove(&mut self, function: &SmmuFunction) {
        Arc::make_mut(&mut self.0).retain(|other| !other.is(function));
    }
}

/// The addresses whose translations somebody must forget who keeps some of a
/// stream with this configuration.
fn reach(what: &Invalidation, context: Option<&StreamContext>, tlb: &Tlb) -> Option<Range> {
    match context {
        Some(StreamContext::Translate(context)) => {
            let range = what.reach(context.tag(), tlb.has_seen_globals())?;
            Some(tlb.widened(range.aligned(context.granule_shift(range.first))))
        }
        // Nothing of theirs is translated, and when that began all was forgotten.
        Some(StreamContext::Bypass { .. } | StreamContext::Abort) => None,
        // Not known: of any configuration.
        None => match what {
            Invalidation::Address { range, .. } | Invalidation::Ipa { range, .. } => {
                Some(tlb.widened(*range))
            }
            _ => Some(Range::ALL),
        },
    }
}

impl Smmuv3 {
    /// Executes a `CMD_TLBI_*`.
    pub fn invalidate_translations(&self, what: &Invalidation) {
        trace_invalidation(what);
        self.shared_when_undisturbed().store.invalidate(what);
        for function in self.notified_functions().iter() {
            let stream_id = stream_id(function);
            let range = {
                let store = &self.shared().store;
                let context = store.configuration(stream_id);
                reach(what, context, store.tlb())
            };
            match range {
                None => {}
                Some(Range::ALL) => unmap_all(function),
                Some(range) => unmap(function, what, range),
            }
        }
    }

    /// Executes a `CMD_CFGI_*` for the streams in `first..=last`.
    pub fn forget_configurations(&self, first: u32, last: u32) {
        if first == last {
            trace::trace_smmu_config_cache_inv(first);
        } else {
            trace::trace_smmu_configs_inv_sid_range(first, last);
        }
        self.shared_when_undisturbed()
            .store
            .invalidate_configurations(first, last);
        for function in self.notified_functions().iter() {
            if (first..=last).contains(&stream_id(function)) {
                unmap_all(function);
            }
        }
    }

    /// Registers changed on which every translation depends.
    pub fn forget_translations(&self) {
        self.shared_when_undisturbed().store.clear();
        self.separate_accesses();
        self.unmap_notified();
    }

    /// Has everything unmapped in device IOTLBs (vhost).
    pub fn unmap_notified(&self) {
        for function in self.notified_functions().iter() {
            unmap_all(function);
        }
    }

    /// Returns the functions with notifiers as they are now: a notifier may change them while
    /// it is called.
    fn notified_functions(&self) -> Arc<Vec<OwnedSmmuFunction>> {
        Arc::clone(&self.notified.borrow().0)
    }
}

fn stream_id(function: &OwnedSmmuFunction) -> u32 {
    function.pci().requester_id().into()
}

fn unmap_all(function: &OwnedSmmuFunction) {
    trace::trace_smmu_inv_notifiers_mr(function.region().name());
    notify_unmap(function, Range::ALL);
}

fn unmap(function: &OwnedSmmuFunction, what: &Invalidation, range: Range) {
    let (vmid, asid, stage) = match *what {
        Invalidation::Address { vmid, asid, .. } => (vmid, asid.map_or(-1, i32::from), 1),
        Invalidation::Ipa { vmid, .. } => (vmid, -1, 2),
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
    notify_unmap(function, range);
}

/// Notifies that the translations of a range are invalid. A range of more than
/// [`MAX_BLOCKS`] naturally aligned blocks is widened to the block around it, because each
/// block can be a message whose answer is waited for.
fn notify_unmap(function: &OwnedSmmuFunction, range: Range) {
    let whole = if range.blocks().count() > MAX_BLOCKS {
        range.enclosing()
    } else {
        range
    };
    function.region().notify_unmap(|| whole.blocks());
}

fn trace_invalidation(what: &Invalidation) {
    match *what {
        Invalidation::All => trace::trace_smmu_iotlb_inv_all(),
        Invalidation::Vmid(vmid) => trace::trace_smmu_iotlb_inv_vmid(i32::from(vmid)),
        Invalidation::VmidStage1(vmid) => trace::trace_smmu_iotlb_inv_vmid_s1(i32::from(vmid)),
        Invalidation::Asid { vmid, asid } => {
            trace::trace_smmu_iotlb_inv_asid_vmid(i32::from(asid), i32::from(vmid));
        }
        Invalidation::Address { asid, range, .. } => {
            trace::trace_smmu_iotlb_inv_iova(asid.map_or(-1, i32::from), range.first);
        }
        Invalidation::Ipa { range, .. } => trace::trace_smmu_iotlb_inv_iova(-1, range.first),
    }
}
