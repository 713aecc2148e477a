// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Both caches together, and how transactions that run at the same time as
//! invalidations use them.

use super::{
    configurations::Configurations, context::StreamContext, Caches, Entry, Invalidation, Outcome,
    Permissions, Tag, Tlb,
};
use crate::StreamId;

/// The configuration cache and the TLB of one SMMU.
#[derive(Default)]
pub struct Store {
    /// What configuration structures say.
    pub configurations: Configurations,
    /// What translation tables say.
    pub tlb: Tlb,
}

/// The beginning of a transaction: what it finds out later is remembered only
/// if nothing was invalidated since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Generation of the configuration cache.
    pub configurations: u64,
    /// Generation of the TLB.
    pub tlb: u64,
}

impl Store {
    /// Begins a transaction.
    pub const fn begin(&self) -> Session {
        Session {
            configurations: self.configurations.generation(),
            tlb: self.tlb.generation(),
        }
    }

    /// What becomes of a transaction, if both caches know. Only while the SMMU
    /// is enabled.
    #[inline]
    pub fn hit(&self, sid: StreamId, address: u64, wanted: Permissions) -> Option<Outcome> {
        let context = match self.configurations.get(sid)?.translation_of(address) {
            Ok(context) => context,
            Err(outcome) => return Some(outcome),
        };
        let entry = self.tlb.lookup(context.tag(), context.input(address))?;
        let permitted = entry.permissions().allow(wanted);
        permitted.then(|| Outcome::Translated {
            entry,
            stages: context.stages.bits(),
        })
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.configurations.forget(0, StreamId::MAX);
        self.tlb.invalidate(&Invalidation::All);
    }
}

/// Caches that remember nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncached;

impl Caches for Uncached {
    fn context(&mut self, _sid: StreamId) -> Option<StreamContext> {
        None
    }

    fn keep_context(&mut self, _sid: StreamId, _context: &StreamContext) {}

    fn lookup(&mut self, _tag: Tag, _address: u64) -> Option<Entry> {
        None
    }

    fn insert(&mut self, _tag: Tag, _address: u64, _entry: &Entry) {}

    fn note_split(&mut self, _stage1_log2_bytes: u8) {}
}

/// For whoever has the caches to himself.
impl Caches for Store {
    fn context(&mut self, sid: StreamId) -> Option<StreamContext> {
        self.configurations.get(sid).copied()
    }

    fn keep_context(&mut self, sid: StreamId, context: &StreamContext) {
        let generation = self.configurations.generation();
        self.configurations.keep(generation, sid, context);
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        self.tlb.lookup(tag, address)
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        let generation = self.tlb.generation();
        self.tlb.insert(generation, tag, address, entry);
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.tlb.note_split(stage1_log2_bytes);
    }
}
