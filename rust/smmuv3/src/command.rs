// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands (chapter 4): what the words of a Command queue entry mean.

use crate::{features::Features, StreamId};

/// The command is ILLEGAL: `CERROR_ILL` (4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal;

/// What a forwarded command invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `CMD_TLBI_*`.
    Tlbi,
    /// `CMD_CFGI_CD`, `CMD_CFGI_CD_ALL`.
    Cfgi,
    /// `CMD_ATC_INV`.
    Atc,
}

/// How a `CMD_SYNC` tells that it completed (4.7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionSignal {
    /// `SIG_NONE`, and `SIG_SEV` where `IDR0.SEV` is 0.
    None,
    /// `SIG_IRQ`: the wired interrupt, and an MSI if there is an address.
    Irq {
        /// 32-bit write of `data` to `address`.
        msi: Option<Msi>,
    },
    /// `SIG_SEV`.
    Sev,
}

/// A Message Signalled Interrupt (3.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where it is written to, 32-bit aligned.
    pub address: u64,
    /// What is written, little-endian.
    pub data: u32,
}

/// A command that is not ILLEGAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `CMD_PREFETCH_CONFIG` (4.2.1): a hint that is not taken.
    PrefetchConfig,
    /// `CMD_PREFETCH_ADDR` (4.2.2): a hint that is not taken.
    PrefetchAddr,
    /// `CMD_CFGI_STE` (4.3.1).
    CfgiSte {
        /// Whose Stream table entry changed.
        sid: StreamId,
        /// Only the entry itself is to be read again, no upper level.
        leaf: bool,
    },
    /// `CMD_CFGI_STE_RANGE` (4.3.2) and `CMD_CFGI_ALL` (4.3.6).
    CfgiSteRange {
        /// The lowest `StreamID`.
        first: StreamId,
        /// The highest `StreamID`.
        last: StreamId,
    },
    /// An invalidation for the host's SMMU.
    Forward {
        /// The command with every bit cleared that is Reserved or the host's.
        words: [u64; 2],
        /// Of which stream, if it names one. Without a device there the
        /// command has no effect.
        target: Option<StreamId>,
        /// What it invalidates.
        kind: Kind,
    },
    /// Legal, but nothing here is affected by it.
    NoEffect,
    /// `CMD_SYNC` (4.7.3).
    Sync {
        /// How its completion is told.
        signal: CompletionSignal,
    },
}

/// Decodes a Command queue entry, given as two words in CPU order.
///
/// # Errors
///
/// [`Illegal`] for everything that is ILLEGAL on the Non-secure Command queue
/// of an SMMU with these features.
pub fn decode(words: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    let _ = (words, features);
    Err(Illegal)
}
