// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands (chapter 4): what the words of a Command queue entry mean.
//!
//! Reserved fields are ignored throughout (4.1.5), and a command that is
//! forwarded carries none of them: the host would refuse it.

mod leniency;
pub mod opcode;
mod tlbi;

pub use self::leniency::Leniency;
use self::opcode::*;
use crate::{
    bits::{bit64, field64, mask32, mask64},
    features::Features,
    StreamId,
};

/// The command is ILLEGAL: `CERROR_ILL` (4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal;

/// What a forwarded command invalidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `CMD_TLBI_*` (4.4).
    Tlbi,
    /// `CMD_CFGI_CD`, `CMD_CFGI_CD_ALL` (4.3.3, 4.3.4).
    Cfgi,
    /// `CMD_ATC_INV` (4.5.1).
    Atc,
}

/// How a `CMD_SYNC` tells that it completed (4.7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionSignal {
    /// `SIG_NONE`, and everything that comes to the same: `SIG_SEV` where
    /// `IDR0.SEV` is 0, `SIG_IRQ` without an address where MSIs are used.
    None,
    /// `SIG_IRQ` as the wired interrupt.
    Irq,
    /// `SIG_IRQ` as an MSI: a 32-bit write.
    Msi {
        /// Where it is written to, 32-bit aligned.
        address: u64,
        /// What is written, little-endian.
        data: u32,
    },
    /// `SIG_SEV`.
    Sev,
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

/// `CMD_CFGI_STE_RANGE.Range` of `CMD_CFGI_ALL` (4.3.6).
const RANGE_ALL: u32 = 31;

/// The largest `CMD_ATC_INV.Size`: 2^64 bytes (4.5.1).
const ATC_SIZE_ALL: u64 = 52;

/// `SSV`, bit 11 of word 0.
const SSV: u64 = mask64(11, 1);
/// `SubstreamID`, bits 31:12 of word 0.
const SSID: u64 = mask64(12, 20);
/// `StreamID`, bits 63:32 of word 0.
const SID: u64 = mask64(32, 32);
/// `CMD_ATC_INV.Global`, bit 9 of word 0.
const ATC_GLOBAL: u64 = mask64(9, 1);
/// `CMD_ATC_INV.Size` (5:0) and `Address` (63:12) of word 1.
const ATC_SPAN: u64 = mask64(0, 6) | mask64(12, 52);
/// `CMD_SYNC.MSIAddress`, bits 55:2 of word 1.
const MSI_ADDRESS: u64 = mask64(2, 54);
/// `Leaf`, bit 0 of word 1.
const LEAF: u64 = mask64(0, 1);

/// Decodes a Command queue entry, given as two words in CPU order.
///
/// # Errors
///
/// [`Illegal`] for everything that is ILLEGAL on the Non-secure Command queue
/// of an SMMU with these features. Where the specification leaves the choice,
/// out-of-range parameters have no effect (4.1.7) and Reserved fields are
/// ignored (4.1.5).
#[inline]
pub fn decode(words: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    let opcode = words[0] as u8;
    match opcode {
        TLBI_NH_ALL..=TLBI_NSNH_ALL => tlbi::decode(opcode, words, features),
        SYNC => sync(words, features),
        ATC_INV => atc_inv(words, features),
        PREFETCH_CONFIG..=CFGI_VMS_PIDM => configuration(opcode, words, features),
        _ => other(opcode, words, features),
    }
}

/// Opcodes 0x01 to 0x07 (4.2, 4.3): all of them have `SSec`.
fn configuration(opcode: u8, words: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    let [word0, word1] = words;
    if ssec(word0) {
        return Err(Illegal);
    }
    let sid = stream_id(word0);
    match opcode {
        PREFETCH_CONFIG => Ok(Command::PrefetchConfig),
        PREFETCH_ADDR => Ok(Command::PrefetchAddr),
        CFGI_STE if sid > features.max_sid() => Ok(Command::NoEffect),
        CFGI_STE => Ok(Command::CfgiSte {
            sid,
            leaf: word1 & LEAF != 0,
        }),
        CFGI_STE_RANGE => Ok(ste_range(sid, field64(word1, 0, 5) as u32, features)),
        CFGI_CD if features.s1p() => {
            let ssid = field64(word0, 12, 20) as u32;
            if !features.ssid_in_range(ssid) {
                return Ok(Command::NoEffect);
            }
            let keep = [u64::from(opcode) | (word0 & (SID | SSID)), word1 & LEAF];
            Ok(for_stream(keep, Kind::Cfgi, features))
        }
        CFGI_CD_ALL if features.s1p() => Ok(for_stream(
            [u64::from(opcode) | (word0 & SID), 0],
            Kind::Cfgi,
            features,
        )),
        // There is no PARTID_MAP that could be cached.
        CFGI_VMS_PIDM if features.mpam() => Ok(Command::NoEffect),
        _ => Err(Illegal),
    }
}

/// `CMD_CFGI_STE_RANGE` and `CMD_CFGI_ALL` (4.3.2, 4.3.6): the 2^(Range+1)
/// streams of the aligned block that `sid` lies in.
const fn ste_range(sid: StreamId, range: u32, features: &Features) -> Command {
    let max = features.max_sid();
    if range == RANGE_ALL {
        return Command::CfgiSteRange {
            first: 0,
            last: max,
        };
    }
    let within = mask32(0, range + 1);
    let first = sid & !within;
    if first > max {
        return Command::NoEffect;
    }
    let last = sid | within;
    Command::CfgiSteRange {
        first,
        last: if last < max { last } else { max },
    }
}

/// `CMD_ATC_INV` (4.5.1). That it is IGNORED while `SMMUEN` is 0 is for the
/// consumer to see.
fn atc_inv([word0, word1]: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    if !features.ats() || field64(word1, 0, 6) > ATC_SIZE_ALL {
        return Err(Illegal);
    }
    let mut keep = u64::from(ATC_INV) | (word0 & SID);
    // Without SubstreamIDs the command behaves as though SSV were 0; SSID and
    // Global mean nothing then.
    if word0 & SSV != 0 && features.ssidsize() != 0 {
        if !features.ssid_in_range(field64(word0, 12, 20) as u32) {
            return Ok(Command::NoEffect);
        }
        keep |= word0 & (SSV | SSID | ATC_GLOBAL);
    }
    Ok(for_stream([keep, word1 & ATC_SPAN], Kind::Atc, features))
}

/// `CMD_SYNC` (4.7.3). Its interrupt is an MSI if `IDR0.MSI` says so, and
/// wired otherwise.
fn sync([word0, word1]: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    // The whole address field is compared with zero, before it is truncated.
    let address = word1 & MSI_ADDRESS;
    let signal = match field64(word0, 12, 2) {
        0b00 => CompletionSignal::None,
        0b01 if !features.msi() => CompletionSignal::Irq,
        0b01 if address != 0 => CompletionSignal::Msi {
            address: address & mask64(0, features.oas_bits()),
            data: (word0 >> 32) as u32,
        },
        0b01 => CompletionSignal::None,
        0b10 if features.sev() => CompletionSignal::Sev,
        0b10 => CompletionSignal::None,
        _ => return Err(Illegal),
    };
    Ok(Command::Sync { signal })
}

/// Commands of features that have nothing behind them here.
fn other(opcode: u8, [word0, word1]: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    let legal = match opcode {
        PRI_RESP => features.pri() && field64(word1, 12, 2) != 0b11,
        RESUME | STALL_TERM => features.stall_model() != 0b01 && !ssec(word0),
        DPTI_ALL | DPTI_PA => features.dpt(),
        _ => false,
    };
    if legal {
        Ok(Command::NoEffect)
    } else {
        Err(Illegal)
    }
}

/// An invalidation that names a stream; out of range it has no effect (4.1.7).
#[inline]
const fn for_stream(words: [u64; 2], kind: Kind, features: &Features) -> Command {
    let sid = stream_id(words[0]);
    if sid > features.max_sid() {
        return Command::NoEffect;
    }
    Command::Forward {
        words,
        target: Some(sid),
        kind,
    }
}

/// `SSec`: the Non-secure queue cannot speak of Secure streams (4.1.6).
#[inline]
const fn ssec(word0: u64) -> bool {
    bit64(word0, 10)
}

#[inline]
const fn stream_id(word0: u64) -> StreamId {
    (word0 >> 32) as StreamId
}
