// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Hits and misses of the caches of configurations and translations.

use smmuv3::translation::{Outcome, StreamContext, Tag};

::trace::include_trace!("hw_arm");

/// Hits and misses of one cache.
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

/// Hits and misses of both caches, for the trace events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    configurations: Rate,
    translations: Rate,
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
        let Rate { hits, misses } = self.configurations;
        let percentage = self.configurations.percentage();
        if hit {
            trace::trace_smmuv3_config_cache_hit(stream_id, hits, misses, percentage);
        } else {
            trace::trace_smmuv3_config_cache_miss(stream_id, hits, misses, percentage);
        }
    }

    /// Traces a look-up of a translation.
    pub fn trace_translation(&self, tag: Tag, address: u64, hit: bool) {
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
