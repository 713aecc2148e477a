// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! How a transaction uses the caches: it locks them for each look-up alone, so
//! that its walks run beside others and beside the guest's commands.

use smmuv3::translation::{Caches, Context, Entry, Outcome, StreamContext, Tag, Walk, WalkStep};

use crate::device::{Shared, Smmuv3};

::trace::include_trace!("hw_arm");

/// How often something was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rate {
    hits: u32,
    misses: u32,
}

impl Rate {
    fn note(&mut self, found: bool) {
        let counter = if found {
            &mut self.hits
        } else {
            &mut self.misses
        };
        *counter = counter.wrapping_add(1);
    }

    fn percentage(self) -> u32 {
        let (hits, misses) = (u64::from(self.hits), u64::from(self.misses));
        #[allow(clippy::cast_possible_truncation)]
        let percentage = (100 * hits / (hits + misses).max(1)) as u32;
        percentage
    }
}

/// How often the caches knew, as the trace tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    configurations: Rate,
    translations: Rate,
}

/// ASID and VMID as the trace shows them: -1 where there is none.
fn identity(tag: Tag) -> (i32, i32) {
    (tag.asid.map_or(-1, i32::from), i32::from(tag.vmid))
}

/// Encoding of a granule in range invalidations, as the trace shows it.
const fn granule_encoding(granule_shift: u8) -> u8 {
    granule_shift.saturating_sub(10) / 2
}

impl Statistics {
    /// Both caches knew `outcome`.
    pub fn note_hit(&mut self, outcome: &Outcome) {
        self.configurations.note(true);
        if matches!(outcome, Outcome::Translated { .. }) {
            self.translations.note(true);
        }
    }

    /// They knew no more than this configuration.
    pub fn note_miss(&mut self, known: Option<&StreamContext>) {
        self.configurations.note(known.is_some());
        if matches!(known, Some(StreamContext::Translate(_))) {
            self.translations.note(false);
        }
    }

    /// Does anybody want to be told of what is found?
    pub fn is_traced() -> bool {
        trace::trace_smmuv3_config_cache_hit_enabled()
            || trace::trace_smmu_iotlb_lookup_hit_enabled()
    }

    /// Tells that both caches knew.
    pub fn trace_hit(&self, stream_id: u32, iova: u64, context: Option<&StreamContext>) {
        self.trace_configuration(stream_id, true);
        if let Some(StreamContext::Translate(context)) = context {
            self.trace_translation(context.tag(), iova, true);
        }
    }

    fn trace_configuration(&self, stream_id: u32, hit: bool) {
        let Rate { hits, misses } = self.configurations;
        let percentage = self.configurations.percentage();
        if hit {
            trace::trace_smmuv3_config_cache_hit(stream_id, hits, misses, percentage);
        } else {
            trace::trace_smmuv3_config_cache_miss(stream_id, hits, misses, percentage);
        }
    }

    fn trace_translation(&self, tag: Tag, address: u64, hit: bool) {
        let (asid, vmid) = identity(tag);
        let Rate { hits, misses } = self.translations;
        let percentage = self.translations.percentage();
        if hit {
            trace::trace_smmu_iotlb_lookup_hit(asid, vmid, address, hits, misses, percentage);
        } else {
            trace::trace_smmu_iotlb_lookup_miss(asid, vmid, address, hits, misses, percentage);
        }
    }
}

/// The device's caches, on behalf of one transaction that they did not know all
/// about.
pub struct Locked<'a> {
    device: &'a Smmuv3,
    walk: Walk,
    /// The configuration, if it was known
    known: Option<StreamContext>,
    /// The translation was looked for with a known configuration: it is not there
    missing: bool,
    /// For the trace: how often things were found
    statistics: Statistics,
    /// For the trace: what the walks are of
    context: Option<Context>,
}

impl<'a> Locked<'a> {
    /// The caches of `device` for the walk of a transaction for which
    /// [`Store::hit`](smmuv3::translation::Store::hit) has found no more than `known`.
    pub const fn new(
        device: &'a Smmuv3,
        walk: Walk,
        known: Option<StreamContext>,
        statistics: Statistics,
    ) -> Self {
        Self {
            device,
            walk,
            known,
            missing: matches!(known, Some(StreamContext::Translate(_))),
            statistics,
            context: None,
        }
    }

    /// Ends the walk. `function` is told whether nothing has reached it, and what it
    /// does comes before any invalidation that is still to come.
    pub fn finish<R>(self, function: impl FnOnce(&Shared, bool) -> R) -> R {
        let mut shared = self.device.shared();
        let result = function(&shared, shared.store.is_current(&self.walk));
        shared.store.end(&self.walk);
        drop(shared);
        if self.walk.is_undisturbed() {
            self.device.walks_ended.notify_all();
        }
        result
    }

    fn note_context(&mut self, context: &StreamContext) {
        if let StreamContext::Translate(context) = context {
            self.context = Some(*context);
        }
    }
}

impl Caches for Locked<'_> {
    fn context(&mut self, sid: u32) -> Option<StreamContext> {
        self.statistics
            .trace_configuration(sid, self.known.is_some());
        if let Some(context) = self.known {
            self.note_context(&context);
        }
        self.known
    }

    fn keep_context(&mut self, sid: u32, context: &StreamContext) {
        self.note_context(context);
        if let Some(stage1) = self.context.as_ref().and_then(|it| it.stages.stage1()) {
            trace::trace_smmuv3_decode_cd(u32::from(stage1.oas_bits));
            for (half, table) in stage1.tables.iter().enumerate() {
                trace::trace_smmuv3_decode_cd_tt(
                    half as i32,
                    u32::from(table.tsz),
                    table.base,
                    u32::from(table.granule_shift),
                    table.had,
                );
            }
        }
        let mut shared = self.device.shared();
        shared.store.keep_context_for(&self.walk, sid, context);
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        let mut entry = None;
        if !std::mem::take(&mut self.missing) {
            let mut shared = self.device.shared();
            entry = shared.store.lookup_for(&mut self.walk, tag, address);
            shared.statistics.translations.note(entry.is_some());
            self.statistics = shared.statistics;
        }
        self.statistics
            .trace_translation(tag, address, entry.is_some());
        entry
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        let (asid, vmid) = identity(tag);
        let granule_shift = self
            .context
            .map_or(12, |context| context.granule_shift_of(tag, address));
        let stride = granule_shift.saturating_sub(3).max(1);
        let level = 3_u8.saturating_sub(entry.log2_bytes.saturating_sub(granule_shift) / stride);
        trace::trace_smmu_iotlb_insert(
            asid,
            vmid,
            address & !((1_u64 << entry.log2_bytes.min(63)) - 1),
            granule_encoding(granule_shift),
            level,
        );
        let mut shared = self.device.shared();
        shared.store.insert_for(&self.walk, tag, address, entry);
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.device.shared().store.note_split(stage1_log2_bytes);
    }

    fn walked(&mut self, step: &WalkStep) {
        self.walk.note(step);
        trace_step(step);
    }
}

/// Tells of a descriptor: where it was found, and what it is.
fn trace_step(step: &WalkStep) {
    let (stage, level) = (i32::from(step.stage), i32::from(step.level));
    let (input, address, descriptor) = (step.input, step.address, step.descriptor);
    let index = step.index;
    let table = address.wrapping_sub(u64::from(index) * 8);
    let offset = (1_u64 << step.log2_bytes.min(63)) - 1;
    let output = descriptor & 0xffff_ffff_f000 & !offset;
    let is_table_or_page = descriptor & 2 != 0;
    trace::trace_smmu_get_pte(table, index as i32, address, descriptor);
    trace::trace_smmu_ptw_level(
        stage,
        level,
        input,
        1_usize << step.log2_bytes.min(63),
        table,
        index,
        descriptor,
    );
    if descriptor & 1 == 0 || (step.level == 3 && !is_table_or_page) {
        trace::trace_smmu_ptw_invalid_pte(stage, level, table, address, index, descriptor);
    } else if step.level == 3 {
        trace::trace_smmu_ptw_page_pte(stage, level, input, table, address, descriptor, output);
    } else if !is_table_or_page {
        let megabytes = ((offset + 1) >> 20) as i32;
        trace::trace_smmu_ptw_block_pte(
            stage, level, table, address, descriptor, input, output, megabytes,
        );
    }
}
