// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A transaction's use of the caches: it locks them for each look-up alone, so that
//! its walks run concurrently with others and with the guest's commands.

use smmuv3::translation::{BadConfig, Caches, Context, Entry, StreamContext, Tag, Walk, WalkStep};

use crate::{
    state::{GuestState, Locked},
    statistics::{identity, Statistics},
};

::trace::include_trace!("hw_arm");

/// Returns the encoding of a granule in range invalidations, for trace events.
const fn granule_encoding(granule_shift: u8) -> u8 {
    granule_shift.saturating_sub(10) / 2
}

/// The caches, on behalf of one transaction for which they have missed.
pub struct WalkCaches<'a> {
    state: &'a GuestState,
    walk: Walk,
    /// The configuration, if it was cached
    known: Option<StreamContext>,
    /// The translation was looked up with a cached configuration, and missed
    missing: bool,
    /// For the trace: numbers of hits and misses
    statistics: Statistics,
    /// For the trace: the context of the walks
    context: Option<Context>,
}

impl<'a> WalkCaches<'a> {
    /// Returns the caches of `state` for the walk of a transaction for which
    /// [`Store::hit`](smmuv3::translation::Store::hit) has hit no more than `known`.
    pub const fn new(
        state: &'a GuestState,
        walk: Walk,
        known: Option<StreamContext>,
        statistics: Statistics,
    ) -> Self {
        Self {
            state,
            walk,
            known,
            missing: matches!(known, Some(StreamContext::Translate(_))),
            statistics,
            context: None,
        }
    }

    /// Ends the walk: see [`GuestState::end_walk`].
    pub fn finish<R>(self, function: impl FnOnce(&Locked, bool) -> R) -> R {
        self.state.end_walk(&self.walk, function)
    }

    fn note_context(&mut self, context: &StreamContext) {
        if let StreamContext::Translate(context) = context {
            self.context = Some(*context);
        }
    }
}

impl Caches for WalkCaches<'_> {
    fn context(&mut self, sid: u32) -> Option<StreamContext> {
        self.statistics
            .trace_configuration(sid, self.known.is_some());
        if let Some(context) = self.known {
            self.note_context(&context);
        }
        self.known
    }

    fn insert_context(&mut self, sid: u32, context: &StreamContext) {
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
        let mut locked = self.state.lock();
        locked.store.insert_context_for(&self.walk, sid, context);
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        let mut entry = None;
        if !std::mem::take(&mut self.missing) {
            let mut locked = self.state.lock();
            entry = locked.store.lookup_for(&mut self.walk, tag, address);
            locked.statistics.note_lookup(entry.is_some());
            self.statistics = locked.statistics;
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
        let mut locked = self.state.lock();
        locked.store.insert_for(&self.walk, tag, address, entry);
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.state.lock().store.note_split(stage1_log2_bytes);
    }

    fn rejected(&mut self, sid: u32, reason: BadConfig) {
        self.state.guest_errors.bad_config(sid, reason);
    }

    fn walked(&mut self, step: &WalkStep) {
        self.walk.note(step);
        trace_step(step);
    }
}

/// Traces a descriptor.
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
