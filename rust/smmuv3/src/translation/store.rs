// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Both caches together, and how transactions that run at the same time as
//! invalidations use them.

use super::{
    configurations::Configurations, context::StreamContext, walk::effective_address, Caches, Entry,
    Invalidation, Outcome, Permissions, Tag, Tlb,
};
use crate::StreamId;

/// The configuration cache and the TLB of one SMMU.
#[derive(Default)]
pub struct Store {
    configurations: Configurations,
    tlb: Tlb,
    /// Changes with every invalidation of either.
    generation: u64,
    /// A global translation was found since everything was last forgotten.
    globals: bool,
}

/// The beginning of a transaction: what it finds out later is remembered only
/// if nothing was invalidated since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    generation: u64,
}

impl Store {
    /// Begins a transaction.
    pub const fn begin(&self) -> Session {
        Session {
            generation: self.generation,
        }
    }

    /// What becomes of a transaction, if both caches know. Only while the SMMU
    /// is enabled.
    #[inline]
    pub fn hit(&self, sid: StreamId, address: u64, wanted: Permissions) -> Option<Outcome> {
        match self.configurations.get(sid)? {
            StreamContext::Abort => Some(Outcome::Abort),
            StreamContext::Bypass => Some(Outcome::Bypass),
            StreamContext::Translate(context) => {
                let input = match context.stages.stage1() {
                    Some(stage1) => effective_address(stage1, address),
                    None => address,
                };
                let entry = self.tlb.lookup(context.tag(), input)?;
                entry
                    .permissions()
                    .allow(wanted)
                    .then(|| Outcome::Translated {
                        entry,
                        stages: context.stages.bits(),
                    })
            }
        }
    }

    /// The configuration of a stream, if it is remembered.
    pub fn context(&self, sid: StreamId) -> Option<StreamContext> {
        self.configurations.get(sid).copied()
    }

    /// Remembers a configuration that was read since `session` began.
    pub fn keep_context(&mut self, session: Session, sid: StreamId, context: &StreamContext) {
        if session == self.begin() {
            self.configurations.keep(sid, context);
        }
    }

    /// A translation, if it is remembered.
    pub fn lookup(&self, tag: Tag, address: u64) -> Option<Entry> {
        self.tlb.lookup(tag, address)
    }

    /// Remembers a translation that was found since `session` began.
    pub fn insert(&mut self, session: Session, tag: Tag, address: u64, entry: &Entry) {
        if session == self.begin() {
            self.globals |= entry.global && tag.asid.is_some();
            let generation = self.tlb.generation();
            self.tlb.insert(generation, tag, address, entry);
        }
    }

    /// Whether some stream may have used global translations: invalidations by
    /// address mean those too, whatever ASID they name.
    pub const fn has_seen_globals(&self) -> bool {
        self.globals
    }

    /// Executes a `CMD_TLBI_*`.
    pub fn invalidate(&mut self, what: &Invalidation) {
        self.generation = self.generation.wrapping_add(1);
        self.tlb.invalidate(what);
    }

    /// Executes a `CMD_CFGI_*` for the streams in `first..=last`.
    pub fn forget_streams(&mut self, first: StreamId, last: StreamId) {
        self.generation = self.generation.wrapping_add(1);
        self.configurations.forget(first, last);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.forget_streams(0, StreamId::MAX);
        self.invalidate(&Invalidation::All);
        self.globals = false;
    }
}

/// For whoever has the caches to himself.
impl Caches for Store {
    fn context(&mut self, sid: StreamId) -> Option<StreamContext> {
        Self::context(self, sid)
    }

    fn keep_context(&mut self, sid: StreamId, context: &StreamContext) {
        Self::keep_context(self, self.begin(), sid, context);
    }

    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry> {
        Self::lookup(self, tag, address)
    }

    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry) {
        Self::insert(self, self.begin(), tag, address, entry);
    }
}
