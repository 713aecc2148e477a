// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The configuration cache: decoded Stream table entries and Context descriptors,
//! until a `CMD_CFGI_*` (§4.3).

use std::collections::BTreeMap;

use super::context::StreamContext;
use crate::StreamId;

/// More streams than a machine has functions behind one SMMU, as a rule. A
/// guest that renumbers its buses can make up any number of them.
const CAPACITY: usize = 1024;

/// The configurations of streams.
#[derive(Clone, Debug, Default)]
pub struct ConfigCache {
    streams: BTreeMap<StreamId, StreamContext>,
}

impl ConfigCache {
    /// Returns an empty cache.
    pub const fn new() -> Self {
        Self {
            streams: BTreeMap::new(),
        }
    }

    /// Returns the configuration of a stream.
    pub fn get(&self, sid: StreamId) -> Option<&StreamContext> {
        self.streams.get(&sid)
    }

    /// Inserts the configuration of a stream. The caller makes sure that no invalidation
    /// has reached it since it was read. If the cache is full, all others are evicted.
    pub fn insert(&mut self, sid: StreamId, context: &StreamContext) {
        if self.streams.len() >= CAPACITY {
            self.streams.clear();
        }
        self.streams.insert(sid, *context);
    }

    /// Invalidates the streams in `first..=last`.
    pub fn invalidate(&mut self, first: StreamId, last: StreamId) {
        if first == last {
            self.streams.remove(&first);
        } else {
            self.streams.retain(|sid, _| !(first..=last).contains(sid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cfgi_range_invalidates_streams_in_range() {
        let mut configurations = ConfigCache::new();
        for sid in [1, 2, 3, u32::MAX] {
            configurations.insert(sid, &StreamContext::Bypass { ias_bits: 44 });
        }
        configurations.invalidate(2, 3);
        configurations.invalidate(7, 7);
        assert_eq!(
            configurations.get(1),
            Some(&StreamContext::Bypass { ias_bits: 44 })
        );
        assert_eq!(configurations.get(2), None);
        assert_eq!(configurations.get(3), None);
        configurations.invalidate(0, u32::MAX);
        assert_eq!(configurations.get(u32::MAX), None);
    }

    #[test]
    fn config_cache_size_is_bounded() {
        let mut configurations = ConfigCache::new();
        for sid in 0..5 * CAPACITY as u32 {
            configurations.insert(sid, &StreamContext::Abort);
            assert_eq!(configurations.get(sid), Some(&StreamContext::Abort));
        }
        assert!(configurations.streams.len() <= CAPACITY);
    }
}
