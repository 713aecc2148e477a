// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What is to be forgotten: in the device's own caches, and by those who keep
//! translations of their own (vhost) and are told through IOMMU notifiers.
//!
//! The caches come first: who is told asks again at once, and must not be given
//! what is to be forgotten.

use smmuv3::translation::{Invalidation, Range, StreamContext, Tlb};

use super::ffi::NotifiedRegion;
use crate::device::Smmuv3;

::trace::include_trace!("hw_arm");

/// The functions whose translations somebody keeps.
#[derive(Debug, Default)]
pub struct Notified(Vec<NotifiedRegion>);

impl Notified {
    /// Somebody begins to.
    pub fn add(&mut self, region: NotifiedRegion) {
        if !self.0.contains(&region) {
            self.0.push(region);
        }
    }

    /// Returns whether no region has an active notifier.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nobody does any more.
    pub fn remove(&mut self, region: NotifiedRegion) {
        self.0.retain(|other| *other != region);
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
        for region in self.notified_regions() {
            let Some(stream_id) = region.stream_id() else {
                continue;
            };
            let range = {
                let store = &self.shared().store;
                let context = store.configuration(stream_id);
                reach(what, context, store.tlb())
            };
            match range {
                None => {}
                Some(Range::ALL) => unmap_all(region),
                Some(range) => unmap(region, what, range),
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
        for region in self.notified_regions() {
            let affected = region
                .stream_id()
                .is_some_and(|stream_id| (first..=last).contains(&stream_id));
            if affected {
                unmap_all(region);
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
        for region in self.notified_regions() {
            unmap_all(region);
        }
    }

    /// A copy: notifiers may come back.
    fn notified_regions(&self) -> Vec<NotifiedRegion> {
        self.notified.borrow().0.clone()
    }
}

fn unmap_all(region: NotifiedRegion) {
    trace::trace_smmu_inv_notifiers_mr(region.name());
    region.unmap(Range::ALL);
}

fn unmap(region: NotifiedRegion, what: &Invalidation, range: Range) {
    let (vmid, asid, stage) = match *what {
        Invalidation::Address { vmid, asid, .. } => (vmid, asid.map_or(-1, i32::from), 1),
        Invalidation::Ipa { vmid, .. } => (vmid, -1, 2),
        _ => (0, -1, 0),
    };
    let pages = ((range.last - range.first) >> 12) + 1;
    trace::trace_smmuv3_inv_notifiers_iova(
        region.name(),
        asid,
        i32::from(vmid),
        range.first,
        1,
        pages,
        stage,
    );
    region.unmap(range);
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
