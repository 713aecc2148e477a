// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Context descriptors (5.3, 5.4), for walks in software.

use crate::{
    bits::{bit64, field64, mask64},
    cmdq::GuestMemory,
    features::{address_bits, Features},
};

/// Size of a Context descriptor in bytes, and its log2.
const CD_BYTES: usize = 64;
const CD_LOG2_BYTES: u32 = 6;
/// `S1ContextPtr`, bits 55:6 of STE word 0.
const CONTEXT_POINTER: u64 = mask64(6, 50);
/// `L1CD.L2Ptr`, bits 55:12 (5.3).
const L2_POINTER: u64 = mask64(12, 44);
/// `TTB0` and `TTB1`, bits 51:4 (5.4).
const TRANSLATION_TABLE: u64 = mask64(4, 48);

/// Why there is no Context descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdFault {
    /// The `SubstreamID` is outside the table, or the stream takes none
    /// (`C_BAD_SUBSTREAMID`, 7.3.9).
    BadSubstreamId,
    /// Transactions without a `SubstreamID` are terminated (`STE.S1DSS`;
    /// `F_STREAM_DISABLED`, 7.3.7).
    StreamDisabled,
    /// Transactions without a `SubstreamID` bypass stage 1 (`STE.S1DSS`): no
    /// fault.
    Bypassed,
    /// Reading the table aborted (`F_CD_FETCH`, 7.3.10).
    FetchAbort {
        /// Of the descriptor that was to be read.
        address: u64,
    },
}

/// A Context descriptor that is ILLEGAL (`C_BAD_CD`, 7.3.11; 5.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCd;

/// Where one of the two stage 1 tables lies (`TTB0`, `TTB1`).
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
    /// `TBI0` in bit 0, `TBI1` in bit 1: the top byte is ignored.
    pub tbi: u8,
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
        let word0 = self.0[0];
        let valid = bit64(word0, 31);
        let aarch64 = bit64(word0, 41);
        // ENDI is IGNORED where no walk is made: EPD0 and EPD1.
        let big_endian = bit64(word0, 15) && !(bit64(word0, 14) && bit64(word0, 30));
        // Hardware update of flags is not implemented by a walk in software.
        let updates = field64(word0, 42, 2) != 0;
        let stalls = bit64(word0, 44) && features.stall_model() == 0b01;
        let silent = !bit64(word0, 46) && features.term_model();
        let wide_asid = field64(word0, 56, 8) != 0 && !features.asid16();
        if !valid || !aarch64 || big_endian || updates || stalls || silent || wide_asid {
            return Err(BadCd);
        }
        let oas_bits = address_bits(field64(word0, 32, 3) as u8).min(features.oas_bits()) as u8;
        Ok(Translation {
            affd: bit64(word0, 35),
            oas_bits,
            tbi: field64(word0, 38, 2) as u8,
            asid: field64(word0, 48, 16) as u16,
            record_faults: bit64(word0, 45),
            tables: [
                self.table(0, granule0(field64(word0, 6, 2)), oas_bits, features)?,
                self.table(1, granule1(field64(word0, 22, 2)), oas_bits, features)?,
            ],
        })
    }

    /// Table 0 or 1. What is disabled is not checked (5.4.2).
    fn table(
        &self,
        half: u32,
        granule_shift: Option<u8>,
        oas_bits: u8,
        features: &Features,
    ) -> Result<TranslationTable, BadCd> {
        let low = half * 16;
        let [word0, word1, word2, ..] = self.0;
        let word = if half == 0 { word1 } else { word2 };
        let table = TranslationTable {
            disabled: bit64(word0, low + 14),
            base: word & TRANSLATION_TABLE,
            tsz: field64(word0, low, 6) as u8,
            granule_shift: granule_shift.unwrap_or(12),
            had: bit64(word, 1) && features.had(),
        };
        let implemented = match granule_shift {
            Some(12) => features.gran4k(),
            Some(14) => features.gran16k(),
            Some(16) => features.gran64k(),
            _ => false,
        };
        // More than 48 bits go with the 64KB granule only (5.4, TTB0).
        let limit = if table.granule_shift == 16 { 52 } else { 48 };
        let fits = table.base & !mask64(0, u32::from(oas_bits).min(limit)) == 0;
        if table.disabled || (implemented && fits && (16..=39).contains(&table.tsz)) {
            Ok(table)
        } else {
            Err(BadCd)
        }
    }
}

/// `TG0` (5.4).
const fn granule0(encoding: u64) -> Option<u8> {
    match encoding {
        0b00 => Some(12),
        0b01 => Some(16),
        0b10 => Some(14),
        _ => None,
    }
}

/// `TG1` (5.4): encoded otherwise than `TG0`.
const fn granule1(encoding: u64) -> Option<u8> {
    match encoding {
        0b10 => Some(12),
        0b11 => Some(16),
        0b01 => Some(14),
        _ => None,
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
    let [word0, word1] = *ste;
    let table = word0 & CONTEXT_POINTER & mask64(0, features.oas_bits());
    // Without SubstreamIDs S1ContextPtr is the address of the one descriptor.
    let cd_max = match features.ssidsize() {
        0 => 0,
        _ => field64(word0, 59, 5) as u32,
    };
    if u64::from(ssid) >> cd_max != 0 {
        return Err(CdFault::BadSubstreamId);
    }
    if ssid == 0 && cd_max != 0 {
        match field64(word1, 0, 2) {
            0b10 => {}
            0b01 => return Err(CdFault::Bypassed),
            _ => return Err(CdFault::StreamDisabled),
        }
    }
    let leaf_log2 = match field64(word0, 4, 2) {
        _ if cd_max == 0 => None,
        0b01 => Some(6),
        0b10 => Some(10),
        _ => None,
    };
    let address = match leaf_log2 {
        None => descriptor(table, ssid),
        Some(split) => {
            let at = table.wrapping_add(u64::from(ssid >> split) << 3);
            let l1cd = memory
                .read_u64(at)
                .map_err(|_| CdFault::FetchAbort { address: at })?;
            if !bit64(l1cd, 0) {
                return Err(CdFault::BadSubstreamId);
            }
            let leaf = l1cd & L2_POINTER;
            // SMMUv3.1 and later do not truncate this address (3.4.3).
            if leaf & !mask64(0, features.oas_bits()) != 0 {
                return Err(CdFault::BadSubstreamId);
            }
            // A second level of 64KB is aligned to that (5.2, S1Fmt).
            let leaf = leaf & !mask64(0, split + CD_LOG2_BYTES);
            descriptor(leaf, ssid & ((1 << split) - 1))
        }
    };
    let bytes: [u8; CD_BYTES] = read(memory, address)?;
    let mut words = [0; 8];
    for (word, eight) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = eight
            .iter()
            .rev()
            .fold(0, |high, byte| (high << 8) | u64::from(*byte));
    }
    Ok(Cd(words))
}

/// Address of descriptor `index` of an array.
const fn descriptor(base: u64, index: u32) -> u64 {
    base.wrapping_add((index as u64) << CD_LOG2_BYTES)
}

fn read<M: GuestMemory, const N: usize>(memory: &mut M, address: u64) -> Result<[u8; N], CdFault> {
    let mut bytes = [0; N];
    match memory.read(address, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(CdFault::FetchAbort { address }),
    }
}
