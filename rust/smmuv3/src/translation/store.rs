// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Both caches together, and how transactions that run at the same time as
//! invalidations use them.

use super::{
    config_cache::ConfigCache,
    context::StreamContext,
    walks::{Walk, Walks},
    Caches, Entry, Outcome, Permissions, Tag, Tlb, TlbiScope,
};
use crate::StreamId;

/// The configuration cache and the TLB of one SMMU, and the walks that may put
/// something into them.
///
/// A walk reads memory while other threads use the store. Its result is inserted,
/// and may be used, only while [`is_current`](Self::is_current) says that no
/// invalidation since it began can have reached it. To find that out costs nothing but
/// a few comparisons for each invalidation and walk in flight, so one that names
/// other streams or addresses disturbs nothing.
#[derive(Default)]
pub struct Store {
    configurations: ConfigCache,
    tlb: Tlb,
    walks: Walks,
    /// Walks in flight that invalidations have to wait for.
    undisturbed: usize,
}

impl Store {
    /// Returns the cached configuration of a stream.
    pub fn configuration(&self, sid: StreamId) -> Option<&StreamContext> {
        self.configurations.get(sid)
    }

    /// Returns a cached translation.
    pub const fn tlb(&self) -> &Tlb {
        &self.tlb
    }

    /// Returns the outcome of a transaction, if both caches hit. Only while the SMMU
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

    /// Begins a walk for a transaction of `sid` at `address`.
    pub fn begin(&mut self, sid: StreamId, address: u64) -> Walk {
        let mut walk = self.walks.begin(sid);
        // A walk that hits in the configuration cache reads tables at once.
        if let Some(StreamContext::Translate(context)) = self.configurations.get(sid) {
            let (tag, input) = (context.tag(), context.input(address));
            self.walks.register(&mut walk, tag, input);
        }
        walk
    }

    /// Begins a walk that no invalidation races with: until it ends,
    /// invalidations have to wait ([`must_wait`](Self::must_wait)).
    pub fn begin_undisturbed(&mut self, sid: StreamId, address: u64) -> Walk {
        let mut walk = self.begin(sid, address);
        walk.undisturbed = true;
        self.undisturbed += 1;
        walk
    }

    /// Returns whether there are walks that invalidations have to wait for.
    pub const fn must_wait(&self) -> bool {
        self.undisturbed != 0
    }

    /// Ends a walk.
    pub fn end(&mut self, walk: &Walk) {
        self.walks.end(walk);
        if walk.undisturbed {
            self.undisturbed = self.undisturbed.saturating_sub(1);
        }
    }

    /// Returns whether no invalidation since the walk began can have reached anything
    /// that it has read.
    pub fn is_current(&self, walk: &Walk) -> bool {
        self.walks.is_current(walk)
    }

    /// Inserts the configuration of a stream that a walk has found, if that is
    /// current.
    ///
    /// Context descriptors are read through stage 2, so it depends on invalidations
    /// of translations too.
    pub fn insert_context_for(&mut self, walk: &Walk, sid: StreamId, context: &StreamContext) {
        if self.is_current(walk) {
            self.configurations.insert(sid, context);
        }
    }

    /// Returns the translation of an address that a walk needs. If there is none the
    /// walk reads tables next.
    pub fn lookup_for(&mut self, walk: &mut Walk, tag: Tag, address: u64) -> Option<Entry> {
        self.walks.register(walk, tag, address);
        let entry = self.tlb.lookup(tag, address)?;
        let split = match tag.asid {
            Some(_) => self.tlb.split(),
            None => 0,
        };
        let log2_bytes = entry.log2_bytes.max(split);
        self.walks.found(walk, tag, &entry, log2_bytes);
        Some(entry)
    }

    /// Inserts a translation that a walk has found, if that is current.
    pub fn insert_for(&mut self, walk: &Walk, tag: Tag, address: u64, entry: &Entry) {
        if self.is_current(walk) {
            self.tlb.insert(tag, address, entry);
        }
    }

    /// Invalidates translations.
    pub fn invalidate(&mut self, what: &TlbiScope) {
        self.tlb.invalidate(what);
        self.walks.invalidate(what);
    }

    /// Invalidates the configurations of the streams in `first..=last`.
    pub fn invalidate_configurations(&mut self, first: StreamId, last: StreamId) {
        self.configurations.invalidate(first, last);
        self.walks.invalidate_configurations(first, last);
    }

    /// Invalidates everything.
    pub fn clear(&mut self) {
        self.invalidate_configurations(0, StreamId::MAX);
        self.invalidate(&TlbiScope::All);
    }
}

/// Caches in which every look-up misses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncached;

impl Caches for Uncached {
    fn context(&mut self, _sid: StreamId) -> Option<StreamContext> {
        None
    }

    fn insert_context(&mut self, _sid: StreamId, _context: &StreamContext) {}

    fn lookup(&mut self, _tag: Tag, _address: u64) -> Option<Entry> {
        None
    }

    fn insert(&mut self, _tag: Tag, _address: u64, _entry: &Entry) {}

    fn note_split(&mut self, _stage1_log2_bytes: u8) {}
}

/// Direct access for a caller with exclusive ownership, such as tests and benchmarks.
impl Caches for Store {
    fn context(&mut self, sid: StreamId) -> Option<StreamContext> {
        self.configurations.get(sid).copied()
    }

    fn insert_context(&mut self, sid: StreamId, context: &StreamContext) {
        self.configurations.insert(sid, context);
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        self.tlb.lookup(tag, address)
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        self.tlb.insert(tag, address, entry);
    }

    fn note_split(&mut self, stage1_log2_bytes: u8) {
        self.tlb.note_split(stage1_log2_bytes);
    }
}
