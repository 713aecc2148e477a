// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What a `CMD_TLBI_*` asks to be forgotten (4.4).

use super::{
    entry::{within, Tag},
    range::Range,
};
use crate::{
    bits::{bit64, field64, mask64},
    command::opcode::*,
};

/// Which translations are to be forgotten.
///
/// `Leaf` and level hints only narrow what must go, and no more than complete
/// translations are cached: they are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invalidation {
    /// Everything (`CMD_TLBI_NSNH_ALL`).
    All,
    /// Everything of a VMID, at both stages (`CMD_TLBI_S12_VMALL`).
    Vmid(u16),
    /// Everything of a VMID that stage 1 has a part in, global or not
    /// (`CMD_TLBI_NH_ALL`).
    VmidStage1(u16),
    /// Everything of an ASID that is not global (`CMD_TLBI_NH_ASID`).
    Asid {
        /// The VMID that the ASID belongs to.
        vmid: u16,
        /// The ASID.
        asid: u16,
    },
    /// Virtual addresses of an ASID, and global ones whatever their ASID
    /// (`CMD_TLBI_NH_VA`).
    Address {
        /// The VMID that the ASID belongs to.
        vmid: u16,
        /// The ASID; without one every ASID (`CMD_TLBI_NH_VAA`).
        asid: Option<u16>,
        /// The addresses.
        range: Range,
    },
    /// Intermediate physical addresses, where stage 2 translates alone
    /// (`CMD_TLBI_S2_IPA`). Software forgets combined translations by VMID or
    /// virtual address (4.4.3.1).
    Ipa {
        /// The VMID.
        vmid: u16,
        /// The addresses.
        range: Range,
    },
}

/// `SCALE` is no larger than this in effect (4.4.1.1).
const MAX_SCALE: u64 = 39;
/// Bits of an address that are compared. TBI may apply to commands (4.4.2).
const ADDRESS_BITS: u32 = 56;

impl Invalidation {
    /// What the words of a [`Command::Forward`](crate::Command::Forward) ask
    /// for, if it is about translations.
    ///
    /// The decoding has left no bits in them that this SMMU ignores.
    pub const fn of([word0, word1]: [u64; 2]) -> Option<Self> {
        let vmid = (word0 >> 32) as u16;
        let asid = (word0 >> 48) as u16;
        Some(match word0 as u8 {
            TLBI_NSNH_ALL => Self::All,
            TLBI_S12_VMALL => Self::Vmid(vmid),
            TLBI_NH_ALL => Self::VmidStage1(vmid),
            TLBI_NH_ASID => Self::Asid { vmid, asid },
            TLBI_NH_VA => Self::Address {
                vmid,
                asid: Some(asid),
                range: virtual_range(word0, word1),
            },
            TLBI_NH_VAA => Self::Address {
                vmid,
                asid: None,
                range: virtual_range(word0, word1),
            },
            TLBI_S2_IPA => Self::Ipa {
                vmid,
                range: range(word0, word1, ADDRESS_BITS),
            },
            _ => return None,
        })
    }

    /// The addresses that who has remembered translations of `tag` must
    /// forget, if any. `globals`: global ones may be among them.
    pub fn reach(&self, tag: Tag, globals: bool) -> Option<Range> {
        let stage1 = tag.asid.is_some();
        let (hit, range) = match *self {
            Self::All => (true, Range::ALL),
            Self::Vmid(vmid) => (tag.vmid == vmid, Range::ALL),
            Self::VmidStage1(vmid) => (stage1 && tag.vmid == vmid, Range::ALL),
            Self::Asid { vmid, asid } => (tag.vmid == vmid && tag.asid == Some(asid), Range::ALL),
            Self::Address { vmid, asid, range } => (
                stage1 && tag.vmid == vmid && (globals || asid.is_none() || tag.asid == asid),
                range,
            ),
            Self::Ipa { vmid, range } => (!stage1 && tag.vmid == vmid, range),
        };
        hit.then_some(range)
    }
}

/// The range of a virtual address. It belongs to the table that its first
/// address does: what would overflow from `TTB0`'s region into `TTB1`'s, or
/// from there to the bottom, need not be affected (4.4.1.1).
const fn virtual_range(word0: u64, word1: u64) -> Range {
    let half = range(word0, word1, ADDRESS_BITS - 1);
    if !bit64(word1, ADDRESS_BITS - 1) {
        return half;
    }
    let upper = !mask64(0, ADDRESS_BITS - 1);
    Range {
        first: half.first | upper,
        last: half.last | upper,
    }
}

/// `Address` and the range behind it (4.4.1.1), of addresses that have `bits`
/// bits. Without `TG` it is a 4KB page: the smallest that there is.
///
/// An address that is not aligned to its granule is UNPREDICTABLE: all that
/// can be meant is included.
const fn range(word0: u64, word1: u64, bits: u32) -> Range {
    let top = mask64(0, bits);
    let first = word1 & mask64(12, 52) & top;
    let granule = field64(word1, 10, 2);
    if granule == 0 {
        return Range::page(first, 12);
    }
    let log2_granule = 10 + 2 * granule as u8;
    let scale = field64(word0, 20, 6);
    let scale = if scale < MAX_SCALE { scale } else { MAX_SCALE };
    // At most 2^(5 + 39 + 16).
    let bytes = ((field64(word0, 12, 5) + 1) << scale) << log2_granule;
    let last = first.saturating_add(bytes - 1) | within(log2_granule);
    Range {
        first: first & !within(log2_granule),
        last: if last < top { last } else { top },
    }
}
