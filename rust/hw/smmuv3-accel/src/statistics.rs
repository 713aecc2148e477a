// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Counters of translations: hits and misses of both caches, and walks.

use smmuv3::translation::{Outcome, StreamContext, Tag};

::trace::include_trace!("hw_arm");

/// Hits and misses of one cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Look-ups that have found something
    pub hits: u64,
    /// Look-ups that have found nothing
    pub misses: u64,
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
        let all = u128::from(self.hits) + u128::from(self.misses);
        let percentage = 100 * u128::from(self.hits) / all.max(1);
        u32::try_from(percentage).unwrap_or(100)
    }

    /// Returns hits, misses and percentage as trace events show them: the first two modulo
    /// 2^32.
    #[allow(clippy::cast_possible_truncation)]
    fn traced(self) -> (u32, u32, u32) {
        (self.hits as u32, self.misses as u32, self.percentage())
    }
}

/// Counters of translations. They wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Look-ups of configurations
    pub configurations: Rate,
    /// Look-ups of translations
    pub translations: Rate,
    /// Walks: transactions, or attempts at one, that the caches did not answer
    pub walks: u64,
    /// Walks that were retried, because an invalidation raced with the one before
    pub retries: u64,
}

/// Returns ASID and VMID as trace events show them: -1 where there is none.
pub fn identity(tag: Tag) -> (i32, i32) {
    (tag.asid.map_or(-1, i32::from), i32::from(tag.vmid))
}

impl Statistics {
    /// Counts a transaction for which both caches hit.
    pub fn note_hit(&mut self, outcome: &Outcome) {
        self.configurations.note(true);
        if matches!(outcome, Outcome::Translated { .. }) {
            self.translations.note(true);
        }
    }

    /// Counts a transaction for which the caches had no more than this configuration.
    pub fn note_miss(&mut self, known: Option<&StreamContext>) {
        self.configurations.note(known.is_some());
        if matches!(known, Some(StreamContext::Translate(_))) {
            self.translations.note(false);
        }
    }

    /// Counts a walk.
    pub fn note_walk(&mut self) {
        self.walks = self.walks.wrapping_add(1);
    }

    /// Counts a walk that is retried.
    pub fn note_retry(&mut self) {
        self.retries = self.retries.wrapping_add(1);
    }

    /// Returns whether a cache-hit trace event is enabled.
    pub fn is_traced() -> bool {
        trace::trace_smmuv3_config_cache_hit_enabled()
            || trace::trace_smmu_iotlb_lookup_hit_enabled()
    }

    /// Counts a look-up of a translation.
    pub fn note_lookup(&mut self, is_hit: bool) {
        self.translations.note(is_hit);
    }

    /// Traces a transaction for which both caches hit.
    pub fn trace_hit(&self, stream_id: u32, iova: u64, context: Option<&StreamContext>) {
        self.trace_configuration(stream_id, true);
        if let Some(StreamContext::Translate(context)) = context {
            self.trace_translation(context.tag(), iova, true);
        }
    }

    /// Traces a look-up of a configuration.
    pub fn trace_configuration(&self, stream_id: u32, hit: bool) {
        let (hits, misses, percentage) = self.configurations.traced();
        if hit {
            trace::trace_smmuv3_config_cache_hit(stream_id, hits, misses, percentage);
        } else {
            trace::trace_smmuv3_config_cache_miss(stream_id, hits, misses, percentage);
        }
    }

    /// Traces a look-up of a translation.
    pub fn trace_translation(&self, tag: Tag, address: u64, hit: bool) {
        let (asid, vmid) = identity(tag);
        let (hits, misses, percentage) = self.translations.traced();
        if hit {
            trace::trace_smmu_iotlb_lookup_hit(asid, vmid, address, hits, misses, percentage);
        } else {
            trace::trace_smmu_iotlb_lookup_miss(asid, vmid, address, hits, misses, percentage);
        }
    }
}
