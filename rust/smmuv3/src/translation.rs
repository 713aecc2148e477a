// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Translation in software (§3.3, §3.4, §15), for a device without a host
//! SMMU.
//!
//! [`translate`] takes a transaction through configuration and translation
//! tables. It has no state: cached results go through [`Caches`], so
//! that the caller decides how these are locked, and walks run unlocked.

mod config_cache;
mod context;
mod entry;
mod fault;
mod fetch;
mod range;
mod store;
mod tlb;
mod tlbi;
mod walk;
mod walks;

use core::fmt;

pub use config_cache::ConfigCache;
pub use context::{Context, Stages, StreamContext};
pub use entry::{Entry, Permissions, Tag};
pub use fault::Fault;
pub use range::Range;
pub use store::{Store, Uncached};
pub use tlb::Tlb;
pub use tlbi::TlbiScope;
pub use walks::Walk;

use self::walk::Walker;
use crate::{
    address::exceeds, cd::BadCd, features::Features, memory::GuestMemory,
    registers::StreamTableRegisters, ste::BadSte, StreamId,
};

/// One descriptor that a walk has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkStep {
    /// 1 or 2.
    pub stage: u8,
    /// 0 to 3.
    pub level: u8,
    /// The address that the stage translates.
    pub input: u64,
    /// log2 of the bytes that a descriptor of this level maps.
    pub log2_bytes: u8,
    /// Address of the descriptor.
    pub address: u64,
    /// Index of the descriptor in its table.
    pub index: u32,
    /// Its value.
    pub descriptor: u64,
}

/// The reason that a configuration structure is ILLEGAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadConfig {
    /// The Stream table entry is (§5.2.2).
    Ste(BadSte),
    /// The Context descriptor is (§5.4.2).
    Cd(BadCd),
}

impl fmt::Display for BadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ste(reason) => reason.fmt(f),
            Self::Cd(reason) => reason.fmt(f),
        }
    }
}

/// The caches that a translation uses: configuration cache and TLB (§3.17,
/// §4.3, §4.4).
pub trait Caches {
    /// Returns the configuration of a stream.
    fn context(&mut self, sid: StreamId) -> Option<StreamContext>;

    /// Caches the configuration of a stream.
    fn insert_context(&mut self, sid: StreamId, context: &StreamContext);

    /// Returns the translation of an address.
    fn lookup(&mut self, tag: Tag, address: u64) -> Option<Entry>;

    /// Inserts the translation of an address.
    fn insert(&mut self, tag: Tag, address: u64, entry: &Entry);

    /// Notes that the next entry is a piece of a page or block of stage 1, of this
    /// size: stage 2's pages are smaller. An invalidation of any address of it
    /// means all pieces.
    fn note_split(&mut self, stage1_log2_bytes: u8);

    /// The Stream table entry or Context descriptor of `sid` is ILLEGAL. The event that
    /// records it, `C_BAD_STE` or `C_BAD_CD`, does not give the reason.
    fn rejected(&mut self, sid: StreamId, reason: BadConfig) {
        let _ = (sid, reason);
    }

    /// A walk has read a descriptor.
    fn walked(&mut self, step: &WalkStep) {
        let _ = step;
    }
}

/// The outcome of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The SMMU is disabled: it passes untranslated (§6.3.14, `GBPA`).
    Disabled,
    /// Its stream bypasses translation.
    Bypass,
    /// It is aborted without an event.
    Abort,
    /// It is translated.
    Translated {
        /// To where.
        entry: Entry,
        /// The stages that translate, as bits: 1 is stage 1, 2 is stage 2.
        stages: u8,
    },
    /// It is aborted, and an event may have to be recorded.
    Fault(Fault),
}

/// Takes a transaction of `sid` at `address` through the SMMU. An access that
/// wants nothing only asks where the address leads.
pub fn translate<M: GuestMemory, C: Caches>(
    registers: &StreamTableRegisters,
    features: &Features,
    memory: &mut M,
    caches: &mut C,
    sid: StreamId,
    address: u64,
    wanted: Permissions,
) -> Outcome {
    if !registers.smmu_enabled {
        // An address beyond the output size is aborted, and no event is recorded (§3.4).
        let too_large = exceeds(address, features.oas_bits());
        return if registers.gbpa_abort || too_large {
            Outcome::Abort
        } else {
            Outcome::Disabled
        };
    }
    let context = match caches.context(sid) {
        Some(context) => context,
        None => match fetch::fetch_context(registers, features, memory, caches, sid) {
            Ok(context) => {
                caches.insert_context(sid, &context);
                context
            }
            Err(fault) => return Outcome::Fault(fault),
        },
    };
    let context = match context.translation_of(address) {
        Ok(context) => context,
        Err(outcome) => return outcome,
    };
    match through(context, memory, caches, address, wanted) {
        Ok(entry) => Outcome::Translated {
            entry,
            stages: context.stages.bits(),
        },
        Err(fault) => Outcome::Fault(fault),
    }
}

fn through<M: GuestMemory, C: Caches>(
    context: &Context,
    memory: &mut M,
    caches: &mut C,
    address: u64,
    wanted: Permissions,
) -> Result<Entry, Fault> {
    let tag = context.tag();
    let input = context.input(address);
    // An access that an entry does not permit is walked for, because the fault has more
    // fields than the entry, and the tables may permit it by now.
    if let Some(entry) = caches.lookup(tag, input) {
        if entry.permissions().allow(wanted) {
            return Ok(entry);
        }
    }
    let mut walker = Walker {
        memory,
        caches,
        oas_bits: context.ias_bits,
    };
    let entry = walker.walk(context, input, wanted)?;
    // Stage 2 alone is inserted where it is walked.
    if tag.asid.is_some() {
        caches.insert(tag, input, &entry);
    }
    Ok(entry)
}
