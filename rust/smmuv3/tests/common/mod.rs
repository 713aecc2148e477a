// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A machine around the crate: memory, a host that answers as its test requests,
//! and counters for interrupts.

// Each test crate uses its part of this.
#![allow(dead_code, unused_imports)]

pub mod batches;
pub mod counters;
pub mod host;
pub mod log;
pub mod machine;
pub mod memory;
pub mod reference;
pub mod smmu;
pub mod tables;
pub mod tlb_model;

pub use host::{Answer, TestHost};
pub use machine::{Counters, Machine};
pub use memory::Memory;

use smmuv3::{
    command::{decode, Invalidation},
    translation::TlbiScope,
    Command, Features,
};

/// The scope of a `CMD_TLBI_*`, given as words, on an SMMU with both stages.
///
/// # Panics
///
/// If it is none, or ILLEGAL.
pub fn tlbi_scope(words: [u64; 2]) -> TlbiScope {
    match decode(words, &smmu::BOTH) {
        Ok(Command::Invalidate(Invalidation::Tlbi(tlbi))) => TlbiScope::of(&tlbi),
        other => panic!("{words:x?} is no TLBI: {other:?}"),
    }
}

/// Returns the test vectors' defaults: an SMMUv3.2 with stage 1, ATS and
/// `SubstreamIDs`, without MSIs.
pub fn vector_features() -> Features {
    Features::arm_smmuv3()
        .with_ats(true)
        .with_ssidsize(20)
        .with_aidr(2)
}
