// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stream table entries (5.2).

use crate::features::Features;

/// A Stream table entry: eight words in CPU order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ste(pub [u64; 8]);

/// Why a Stream table entry is ILLEGAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSte {
    /// `V` is 0.
    Invalid,
}

/// What a stream is to be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamConfig {
    /// Transactions abort.
    Abort,
    /// Transactions pass untranslated.
    Bypass,
    /// Stage 1 translates.
    Stage1 {
        /// Words 0 and 1 with the fields that a nested stage 1 takes: `V`,
        /// `Config`, `S1Fmt`, `S1ContextPtr`, `S1CDMax`; `S1DSS`, `S1CIR`,
        /// `S1COR`, `S1CSH`, `S1STALLD`, `EATS`.
        ste: [u64; 2],
    },
    /// The entry is ILLEGAL (`C_BAD_STE`, 7.3.4): transactions abort.
    Bad(BadSte),
}

impl Ste {
    /// What this entry says.
    pub fn config(&self, features: &Features) -> StreamConfig {
        let _ = features;
        StreamConfig::Abort
    }
}
