// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Stream table (§3.3.1, §5.1, §6.3.24, §6.3.25).

use crate::{
    address::{align_down, entry, truncate},
    features::Features,
    memory::GuestMemory,
    registers::StreamTableRegisters,
    spec::{
        register::{StrtabBase, StrtabBaseCfg, StrtabFormat},
        ste::L1Std,
    },
    ste::{Ste, StreamConfig, STE_BYTES},
    StreamId,
};

/// log2 of the size of a Stream table entry in bytes.
const STE_LOG2_BYTES: u32 = 6;
/// log2 of the size of a Level 1 Stream table descriptor in bytes (§5.1).
const L1STD_LOG2_BYTES: u32 = 3;
/// The largest `L1STD.Span` that is not Reserved (§5.1).
const MAX_SPAN: u32 = 11;

/// The reason that there is no Stream table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteFault {
    /// The `StreamID` is outside the table (`C_BAD_STREAMID`, §7.3.3).
    BadStreamId,
    /// Reading the table aborted (`F_STE_FETCH`, §7.3.4).
    FetchAbort {
        /// Of the entry or descriptor that was to be read.
        address: u64,
    },
}

/// `STRTAB_BASE` and `STRTAB_BASE_CFG` as they are used (§6.3.24, §6.3.25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    base: u64,
    /// `LOG2SIZE` as written: it aligns the table.
    log2size: u32,
    /// Split point of a two-level table.
    split: Option<u32>,
    oas_bits: u32,
}

impl Table {
    fn new(registers: &StreamTableRegisters, features: &Features) -> Self {
        let config = StrtabBaseCfg::of(registers.strtab_base_cfg);
        let split = two_level_split(registers.strtab_base_cfg);
        Self {
            base: StrtabBase::of(registers.strtab_base).table(),
            log2size: config.log2size().value().into(),
            split: split.filter(|_| features.st_level() != 0).map(u32::from),
            oas_bits: features.oas_bits(),
        }
    }

    /// `address` truncated to the output address size (§3.4.3) and aligned to
    /// `2^log2` bytes.
    fn aligned(&self, address: u64, log2: u32) -> u64 {
        align_down(truncate(address, self.oas_bits), log2)
    }

    /// Returns the address of entry `sid` of a linear table.
    fn linear(&self, sid: StreamId) -> u64 {
        let base = self.aligned(self.base, self.log2size + STE_LOG2_BYTES);
        entry(base, u64::from(sid), STE_LOG2_BYTES)
    }

    /// Returns the address of the descriptor that covers `sid` in a two-level table.
    fn descriptor(&self, sid: StreamId, split: u32) -> u64 {
        let log2_bytes = self.log2size.saturating_sub(split) + L1STD_LOG2_BYTES;
        // No table is aligned to less than 64 bytes: ADDR begins with bit 6.
        let base = self.aligned(self.base, log2_bytes);
        entry(base, u64::from(sid >> split), L1STD_LOG2_BYTES)
    }

    /// Returns the address of entry `sid` below the descriptor `l1std` (§5.1).
    fn second_level(&self, sid: StreamId, split: u32, l1std: u64) -> Result<u64, SteFault> {
        let l1std = L1Std::of(l1std);
        let span = u32::from(l1std.span().value());
        if span == 0 || span > MAX_SPAN || span > split + 1 {
            return Err(SteFault::BadStreamId);
        }
        let index = truncate(sid.into(), split);
        if index >> (span - 1) != 0 {
            return Err(SteFault::BadStreamId);
        }
        let base = self.aligned(l1std.table(), STE_LOG2_BYTES + (span - 1));
        Ok(entry(base, index, STE_LOG2_BYTES))
    }
}

/// Returns `STRTAB_BASE_CFG.SPLIT` as it takes effect, if `FMT` says two levels
/// (§6.3.25).
pub fn two_level_split(strtab_base_cfg: u32) -> Option<u8> {
    let config = StrtabBaseCfg::of(strtab_base_cfg);
    match (config.format(), config.split().value()) {
        (StrtabFormat::Linear, _) => None,
        (StrtabFormat::TwoLevel, split @ (6 | 8 | 10)) => Some(split),
        // Reserved values behave as 6.
        (StrtabFormat::TwoLevel, _) => Some(6),
    }
}

/// Finds the Stream table entry of `sid`; `SMMUEN` is not checked.
///
/// # Errors
///
/// [`SteFault`] if the table does not reach that far or cannot be read.
pub fn fetch<M: GuestMemory>(
    registers: &StreamTableRegisters,
    features: &Features,
    memory: &mut M,
    sid: StreamId,
) -> Result<Ste, SteFault> {
    let table = Table::new(registers, features);
    // For the range check LOG2SIZE counts up to SIDSIZE (§6.3.25).
    if sid > features.max_sid() || u64::from(sid) >> table.log2size.min(63) != 0 {
        return Err(SteFault::BadStreamId);
    }
    let address = match table.split {
        None => table.linear(sid),
        Some(split) => {
            let address = table.descriptor(sid, split);
            let descriptor = memory
                .read_u64(address)
                .map_err(|_| SteFault::FetchAbort { address })?;
            table.second_level(sid, split, descriptor)?
        }
    };
    let mut bytes = [0; STE_BYTES];
    match memory.read(address, &mut bytes) {
        Ok(()) => Ok(Ste::from_bytes(&bytes)),
        Err(_) => Err(SteFault::FetchAbort { address }),
    }
}

/// Returns the configuration of the stream `sid`: `GBPA`'s while the SMMU is disabled
/// (§6.3.14), else its entry's. Without an entry transactions abort.
///
/// The table is not read while the SMMU is disabled (§6.3.9.6).
pub fn evaluate<M: GuestMemory>(
    registers: &StreamTableRegisters,
    features: &Features,
    memory: &mut M,
    sid: StreamId,
) -> StreamConfig {
    if registers.smmu_enabled {
        match fetch(registers, features, memory, sid) {
            Ok(ste) => ste.config(features),
            Err(_) => StreamConfig::Abort,
        }
    } else if registers.gbpa_abort {
        StreamConfig::Abort
    } else {
        StreamConfig::Bypass
    }
}
