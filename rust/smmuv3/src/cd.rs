// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Context descriptors (§5.3, §5.4), for walks in software.

use core::fmt;

use crate::{
    address::{align_down, entry, exceeds, truncate, words},
    features::{address_bits, Features},
    memory::GuestMemory,
    spec::{
        cd::{CdTable, CdWord0, L1Cd, Tg1},
        ste::{S1Dss, S1Fmt, SteWord0, SteWord1, Tg0},
    },
};

/// Size of a Context descriptor in bytes, and its log2.
const CD_BYTES: usize = 64;
const CD_LOG2_BYTES: u32 = 6;
/// log2 of the size of a Level 1 Context descriptor in bytes (§5.3).
const L1CD_LOG2_BYTES: u32 = 3;

/// The reason that there is no Context descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdFault {
    /// The `SubstreamID` is outside the table, or the stream takes none
    /// (`C_BAD_SUBSTREAMID`, §7.3.9).
    BadSubstreamId,
    /// Transactions without a `SubstreamID` are terminated (`STE.S1DSS`;
    /// `F_STREAM_DISABLED`, §7.3.7).
    StreamDisabled,
    /// Transactions without a `SubstreamID` bypass stage 1 (`STE.S1DSS`): no
    /// fault.
    Bypassed,
    /// Reading the table aborted (`F_CD_FETCH`, §7.3.10).
    FetchAbort {
        /// Of the descriptor that was to be read.
        address: u64,
    },
}

/// The reason that a Context descriptor is ILLEGAL (`C_BAD_CD`, §7.3.11; §5.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadCd {
    /// `V` is 0.
    Invalid,
    /// `AA64` asks for VMSAv8-32 tables, which are not implemented.
    Format,
    /// `ENDI` asks for big-endian tables, which are not implemented.
    Endianness,
    /// `HA` or `HD` asks for updates that are not implemented.
    Updates,
    /// `S` asks for stalls, which are not implemented.
    Stall,
    /// `A` is 0 although terminated transactions always abort.
    Terminate,
    /// `ASID` has more bits than are implemented.
    Asid,
    /// `TG0` or `TG1` is Reserved, or a granule that is not implemented.
    Granule,
    /// `T0SZ` or `T1SZ` is out of range.
    Size,
    /// `TTB0` or `TTB1` is above the effective `IPS`.
    Table,
}

impl fmt::Display for BadCd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "CD.V is 0",
            Self::Format => "CD.AA64 selects VMSAv8-32 LPAE, which is not implemented",
            Self::Endianness => "CD.ENDI selects big-endian tables, which are not implemented",
            Self::Updates => "CD.HA or CD.HD is 1, but hardware update of flags is not implemented",
            Self::Stall => "CD.S is 1, but IDR0.STALL_MODEL is 0b01",
            Self::Terminate => "CD.A is 0, but IDR0.TERM_MODEL is 1",
            Self::Asid => "CD.ASID is greater than 255, but IDR0.ASID16 is 0",
            Self::Granule => "CD.TG0 or CD.TG1 selects a granule that IDR5 does not have",
            Self::Size => "CD.T0SZ or CD.T1SZ is out of range",
            Self::Table => "CD.TTB0 or CD.TTB1 is outside the effective CD.IPS",
        })
    }
}

/// Location and format of one of the two stage 1 tables (`TTB0`, `TTB1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationTable {
    /// `EPDx`: walks from this table are not made.
    pub disabled: bool,
    /// Address of the table.
    pub base: u64,
    /// `TxSZ`: 64 less the number of input address bits.
    pub tsz: u8,
    /// log2 of the granule in bytes: 12, 14 or 16.
    pub granule_shift: u8,
    /// Effective `HADx`: hierarchical attributes are disabled.
    pub had: bool,
}

/// Stage 1 as a Context descriptor sets it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// `AFFD`: no Access flag faults.
    pub affd: bool,
    /// Effective `IPS`: output address size in bits, no more than the SMMU's.
    pub oas_bits: u8,
    /// `TBI0` and `TBI1`: the top byte is ignored.
    pub tbi: [bool; 2],
    /// `ASID`.
    pub asid: u16,
    /// `R`: faults are recorded.
    pub record_faults: bool,
    /// For the lower and for the upper half of the input addresses.
    pub tables: [TranslationTable; 2],
}

/// A Context descriptor: eight words in CPU order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cd(pub [u64; 8]);

impl Cd {
    /// Stage 1 as this descriptor sets it up.
    ///
    /// # Errors
    ///
    /// [`BadCd`] if it is not valid or ILLEGAL with these features.
    pub fn translation(&self, features: &Features) -> Result<Translation, BadCd> {
        let [word0, word1, word2, ..] = self.0;
        let (cd, lower, upper) = (CdWord0::of(word0), CdTable::of(word1), CdTable::of(word2));
        // ENDI is IGNORED where no walk is made: EPD0 and EPD1.
        let big_endian = cd.endi() && !(cd.epd0() && cd.epd1());
        let illegal = [
            (!cd.v(), BadCd::Invalid),
            (!cd.aa64(), BadCd::Format),
            (big_endian, BadCd::Endianness),
            // A walk in software updates nothing.
            (cd.hd() || cd.ha(), BadCd::Updates),
            (cd.s() && features.stall_model() == 0b01, BadCd::Stall),
            (!cd.a() && features.term_model(), BadCd::Terminate),
            (cd.asid() > 0xff && !features.asid16(), BadCd::Asid),
        ];
        if let Some((_, reason)) = illegal.into_iter().find(|(is_illegal, _)| *is_illegal) {
            return Err(reason);
        }
        let oas_bits = address_bits(cd.ips().value()).min(features.oas_bits()) as u8;
        let table = |word: CdTable, disabled, tsz, granule_shift: Option<u8>| {
            let table = TranslationTable {
                disabled,
                base: word.table(),
                tsz,
                granule_shift: granule_shift.unwrap_or(12),
                had: word.had() && features.had(),
            };
            // A disabled table is not checked (§5.4.2).
            if disabled {
                return Ok(table);
            }
            check_table(&table, granule_shift, oas_bits, features).map(|()| table)
        };
        Ok(Translation {
            affd: cd.affd(),
            oas_bits,
            tbi: [cd.tbi0(), cd.tbi1()],
            asid: cd.asid(),
            record_faults: cd.r(),
            tables: [
                table(lower, cd.epd0(), cd.t0sz().value(), granule0(cd.tg0()))?,
                table(upper, cd.epd1(), cd.t1sz().value(), granule1(cd.tg1()))?,
            ],
        })
    }
}

/// Returns whether walks can be made from `table`.
fn check_table(
    table: &TranslationTable,
    granule_shift: Option<u8>,
    oas_bits: u8,
    features: &Features,
) -> Result<(), BadCd> {
    let implemented = match granule_shift {
        Some(12) => features.gran4k(),
        Some(14) => features.gran16k(),
        Some(16) => features.gran64k(),
        _ => false,
    };
    // More than 48 bits go with the 64KB granule only (§5.4, TTB0, T0SZ).
    let is_wide = table.granule_shift == 16;
    let limit = if is_wide { 52 } else { 48 };
    let smallest = if is_wide && features.vax() > 0 {
        12
    } else {
        16
    };
    if !implemented {
        Err(BadCd::Granule)
    } else if exceeds(table.base, u32::from(oas_bits).min(limit)) {
        Err(BadCd::Table)
    } else if !(smallest..=39).contains(&table.tsz) {
        Err(BadCd::Size)
    } else {
        Ok(())
    }
}

/// `TG0` (§5.4).
const fn granule0(tg0: Tg0) -> Option<u8> {
    match tg0 {
        Tg0::Gran4K => Some(12),
        Tg0::Gran64K => Some(16),
        Tg0::Gran16K => Some(14),
        Tg0::Reserved => None,
    }
}

/// `TG1` (§5.4): encoded otherwise than `TG0`.
const fn granule1(tg1: Tg1) -> Option<u8> {
    match tg1 {
        Tg1::Gran4K => Some(12),
        Tg1::Gran64K => Some(16),
        Tg1::Gran16K => Some(14),
        Tg1::Reserved => None,
    }
}

/// Finds the Context descriptor of `ssid` below a stage 1 Stream table entry,
/// of which words 0 and 1 are given. `ssid` 0 stands for transactions without
/// a `SubstreamID`.
///
/// # Errors
///
/// [`CdFault`] if there is none.
pub fn fetch<M: GuestMemory>(
    ste: &[u64; 2],
    features: &Features,
    memory: &mut M,
    ssid: u32,
) -> Result<Cd, CdFault> {
    let (word0, word1) = (SteWord0::of(ste[0]), SteWord1::of(ste[1]));
    let table = truncate(word0.context_table(), features.oas_bits());
    // Without SubstreamIDs S1ContextPtr is the address of the one descriptor.
    let cd_max = match features.ssidsize() {
        0 => 0,
        _ => word0.s1cdmax().value(),
    };
    if u64::from(ssid) >> cd_max != 0 {
        return Err(CdFault::BadSubstreamId);
    }
    if ssid == 0 && cd_max != 0 {
        match word1.s1dss() {
            S1Dss::Substream0 => {}
            S1Dss::Bypass => return Err(CdFault::Bypassed),
            S1Dss::Terminate => return Err(CdFault::StreamDisabled),
        }
    }
    let leaf_log2 = match word0.s1fmt() {
        _ if cd_max == 0 => None,
        S1Fmt::TwoLevel4K => Some(6),
        S1Fmt::TwoLevel64K => Some(10),
        S1Fmt::Linear => None,
    };
    let address = match leaf_log2 {
        None => entry(table, ssid.into(), CD_LOG2_BYTES),
        Some(split) => {
            let at = entry(table, u64::from(ssid >> split), L1CD_LOG2_BYTES);
            let l1cd = memory
                .read_u64(at)
                .map_err(|_| CdFault::FetchAbort { address: at })?;
            let l1cd = L1Cd::of(l1cd);
            // SMMUv3.1 and later do not truncate this address (§3.4.3).
            if !l1cd.v() || exceeds(l1cd.table(), features.oas_bits()) {
                return Err(CdFault::BadSubstreamId);
            }
            // A second level of 64KB is aligned to that (§5.2, S1Fmt).
            let leaf = align_down(l1cd.table(), split + CD_LOG2_BYTES);
            entry(leaf, truncate(ssid.into(), split), CD_LOG2_BYTES)
        }
    };
    let mut bytes = [0; CD_BYTES];
    match memory.read(address, &mut bytes) {
        Ok(()) => Ok(Cd(words(&bytes))),
        Err(_) => Err(CdFault::FetchAbort { address }),
    }
}
