// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands (§4): decoding of a Command queue entry.
//!
//! Reserved fields are ignored throughout (§4.1.5). A decoded command has no place for
//! them, so a host, which would refuse it, never sees one.

mod invalidation;
mod leniency;
pub mod opcode;
mod restriction;
mod tlbi;

use self::opcode::*;
pub use self::{
    invalidation::{AtcInv, Cfgi, Invalidation, Tlbi},
    leniency::Leniency,
    restriction::{GuestOwned, Restriction, Unrestricted},
};
use crate::{
    address::{low_bits, truncate},
    features::Features,
    spec::command::{
        AtcInvWord1, CfgiRangeWord1, CfgiWord1, CompletionType, PriRespWord1, PriResponse,
        StreamWord0, SyncWord0, SyncWord1,
    },
    StreamId,
};

/// The command is ILLEGAL: `CERROR_ILL` (§4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal;

/// The completion signal of a `CMD_SYNC` (§4.7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionSignal {
    /// `SIG_NONE`, and everything that comes to the same: `SIG_SEV` where
    /// `IDR0.SEV` is 0.
    None,
    /// `SIG_IRQ` as the wired interrupt.
    Irq,
    /// `SIG_IRQ` as an MSI: a 32-bit write, without the wired interrupt.
    Msi {
        /// Address of the write, 32-bit aligned.
        address: u64,
        /// The value that is written, little-endian.
        data: u32,
    },
    /// `SIG_SEV`.
    Sev,
}

/// A command that is not ILLEGAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `CMD_PREFETCH_CONFIG` (§4.2.1): a hint that is not taken.
    PrefetchConfig,
    /// `CMD_PREFETCH_ADDR` (§4.2.2): a hint that is not taken.
    PrefetchAddr,
    /// `CMD_CFGI_STE` (§4.3.1).
    CfgiSte {
        /// The stream whose entry changed.
        sid: StreamId,
    },
    /// `CMD_CFGI_STE_RANGE` (§4.3.2) and `CMD_CFGI_ALL` (§4.3.6).
    CfgiSteRange {
        /// The lowest `StreamID`.
        first: StreamId,
        /// The highest `StreamID`.
        last: StreamId,
    },
    /// An invalidation for the host's SMMU, or for the caches of this one.
    Invalidate(Invalidation),
    /// Legal, but nothing here is affected by it.
    NoEffect,
    /// `CMD_SYNC` (§4.7.3).
    Sync {
        /// The signal of its completion.
        signal: CompletionSignal,
    },
}

/// `CMD_CFGI_STE_RANGE.Range` of `CMD_CFGI_ALL` (§4.3.6).
const RANGE_ALL: u32 = 31;

/// The largest `CMD_ATC_INV.Size`: 2^64 bytes (§4.5.1).
const ATC_SIZE_ALL: u8 = 52;

/// Decodes a Command queue entry, given as two words in CPU order.
///
/// # Errors
///
/// [`Illegal`] for everything that is ILLEGAL on the Non-secure Command queue
/// of an SMMU with these features. Where the specification leaves the choice,
/// out-of-range parameters have no effect (§4.1.7) and Reserved fields are
/// ignored (§4.1.5).
#[inline]
pub fn decode(words: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    let opcode = opcode(words);
    match opcode {
        TLBI_NH_ALL..=TLBI_NSNH_ALL => tlbi::decode(opcode, words, features),
        SYNC => sync(words, features),
        ATC_INV => atc_inv(words, features),
        PREFETCH_CONFIG..=CFGI_VMS_PIDM => configuration(opcode, words, features),
        _ => other(opcode, words, features),
    }
}

/// Returns the opcode of a Command queue entry, which is where it is in all of them.
#[inline]
pub const fn opcode([word0, _]: [u64; 2]) -> u8 {
    word0 as u8
}

/// Opcodes 0x01 to 0x07 (§4.2, §4.3): all of them have `SSec`.
fn configuration(
    opcode: u8,
    [word0, word1]: [u64; 2],
    features: &Features,
) -> Result<Command, Illegal> {
    let word0 = StreamWord0::of(word0);
    if is_secure(word0) {
        return Err(Illegal);
    }
    let (sid, ssid) = (word0.sid(), word0.ssid());
    match opcode {
        PREFETCH_CONFIG => Ok(Command::PrefetchConfig),
        PREFETCH_ADDR => Ok(Command::PrefetchAddr),
        CFGI_STE if sid > features.max_sid() => Ok(Command::NoEffect),
        CFGI_STE => Ok(Command::CfgiSte { sid }),
        CFGI_STE_RANGE => {
            let range = CfgiRangeWord1::of(word1).range();
            Ok(ste_range(sid, range.value().into(), features))
        }
        CFGI_CD if features.s1p() => {
            if !features.ssid_in_range(ssid.value()) {
                return Ok(Command::NoEffect);
            }
            let leaf = CfgiWord1::of(word1).leaf();
            let cfgi = Cfgi::cd(sid, ssid, leaf);
            Ok(for_stream(Invalidation::Cfgi(cfgi), sid, features))
        }
        CFGI_CD_ALL if features.s1p() => {
            let cfgi = Cfgi::cd_all(sid);
            Ok(for_stream(Invalidation::Cfgi(cfgi), sid, features))
        }
        // There is no PARTID_MAP that could be cached.
        CFGI_VMS_PIDM if features.mpam() => Ok(Command::NoEffect),
        _ => Err(Illegal),
    }
}

/// `CMD_CFGI_STE_RANGE` and `CMD_CFGI_ALL` (§4.3.2, §4.3.6): the 2^(Range+1)
/// streams of the aligned block that `sid` lies in.
const fn ste_range(sid: StreamId, range: u32, features: &Features) -> Command {
    let max = features.max_sid();
    if range == RANGE_ALL {
        return Command::CfgiSteRange {
            first: 0,
            last: max,
        };
    }
    let within = low_bits(range + 1) as u32;
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

/// `CMD_ATC_INV` (§4.5.1). That it is IGNORED while `SMMUEN` is 0 is for the
/// consumer to see.
fn atc_inv([word0, word1]: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    let (given, word1) = (StreamWord0::of(word0), AtcInvWord1::scrubbed(word1));
    if !features.ats() || word1.size().value() > ATC_SIZE_ALL {
        return Err(Illegal);
    }
    let sid = given.sid();
    let mut kept = StreamWord0::of(0);
    kept.set_opcode(ATC_INV);
    kept.set_sid(sid);
    // Without SubstreamIDs the command behaves as though SSV were 0; SSID and
    // Global mean nothing then.
    if given.ssv() && features.ssidsize() != 0 {
        if !features.ssid_in_range(given.ssid().value()) {
            return Ok(Command::NoEffect);
        }
        kept.set_ssv(true);
        kept.set_ssid(given.ssid());
        kept.set_global(given.global());
    }
    let atc = AtcInv { word0: kept, word1 };
    Ok(for_stream(Invalidation::AtcInv(atc), sid, features))
}

/// `CMD_SYNC` (§4.7.3). Its interrupt is an MSI if `IDR0.MSI` is 1 and there is an
/// address, and wired otherwise.
///
/// §4.7.3 has an SMMU with a wired output pulse it with an MSI, too. This one does
/// not: software that gives an address waits for the MSI, and a pulse of a line that
/// nothing is listening to would cost more than the MSI.
fn sync([word0, word1]: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    let word0 = SyncWord0::of(word0);
    // The whole address field is compared with zero, before it is truncated.
    let address = SyncWord1::of(word1).msi();
    let signal = match word0.cs() {
        CompletionType::SigNone => CompletionSignal::None,
        CompletionType::SigIrq if features.msi() && address != 0 => CompletionSignal::Msi {
            address: truncate(address, features.oas_bits()),
            data: word0.msidata(),
        },
        CompletionType::SigIrq => CompletionSignal::Irq,
        CompletionType::SigSev if features.sev() => CompletionSignal::Sev,
        CompletionType::SigSev => CompletionSignal::None,
        CompletionType::Reserved => return Err(Illegal),
    };
    Ok(Command::Sync { signal })
}

/// Commands of features that have nothing behind them here.
fn other(opcode: u8, [word0, word1]: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    let legal = match opcode {
        PRI_RESP => features.pri() && PriRespWord1::of(word1).resp() != PriResponse::Reserved,
        RESUME | STALL_TERM => features.stall_model() != 0b01 && !is_secure(StreamWord0::of(word0)),
        DPTI_ALL | DPTI_PA => features.dpt(),
        _ => false,
    };
    if legal {
        Ok(Command::NoEffect)
    } else {
        Err(Illegal)
    }
}

/// Returns an invalidation that names a stream; out of range it has no effect (§4.1.7).
#[inline]
const fn for_stream(invalidation: Invalidation, sid: StreamId, features: &Features) -> Command {
    if sid > features.max_sid() {
        return Command::NoEffect;
    }
    Command::Invalidate(invalidation)
}

/// Returns whether `SSec` is 1: the Non-secure queue cannot name Secure streams
/// (§4.1.6).
#[inline]
fn is_secure(word0: StreamWord0) -> bool {
    word0.ssec()
}
