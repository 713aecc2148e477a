// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands that do nothing but invalidate: those that a host SMMU executes.
//!
//! Each holds its two words as layouts, in which nothing is set but the fields that the
//! command has on this SMMU: the decoder sets them one by one, and there is no other
//! way to make one than to derive it from such a one. Whole words are also what is
//! fast. Separate fields would be put together again for the host, and the copy of a
//! structure right after its fields were stored stalls most processors: that was a third
//! more for each command.

use bilge::prelude::*;

use super::opcode::*;
use crate::{
    address::low_bits,
    spec::{
        command::{AtcInvWord1, CfgiWord1, Granule, StreamWord0, TlbiWord0, TlbiWord1},
        mask,
    },
    StreamId,
};

/// An invalidation, with the fields that its command has on this SMMU. A field that is
/// Reserved in a command, or RES0 with these ID registers, is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// `CMD_TLBI_*` (§4.4).
    Tlbi(Tlbi),
    /// `CMD_CFGI_CD` or `CMD_CFGI_CD_ALL` (§4.3.3, §4.3.4).
    Cfgi(Cfgi),
    /// `CMD_ATC_INV` (§4.5.1).
    AtcInv(AtcInv),
}

/// A TLB invalidation. `VMID` is 0 where stage 2 is not implemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlbi {
    pub(super) word0: TlbiWord0,
    pub(super) word1: TlbiWord1,
}

/// An invalidation of Context descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cfgi {
    word0: StreamWord0,
    word1: CfgiWord1,
}

/// An invalidation of a device's ATC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtcInv {
    pub(super) word0: StreamWord0,
    pub(super) word1: AtcInvWord1,
}

impl Tlbi {
    /// Everything of the Non-secure, non-Hyp world: `CMD_TLBI_NSNH_ALL`.
    pub const NSNH_ALL: Self = Self {
        word0: TlbiWord0::of(TLBI_NSNH_ALL as u64),
        word1: TlbiWord1::of(0),
    };

    /// The first page of ASID 0: `CMD_TLBI_NH_VA`.
    pub(crate) const NH_VA: Self = Self {
        word0: TlbiWord0::of(TLBI_NH_VA as u64),
        word1: TlbiWord1::of(0),
    };

    /// Returns the opcode, one of those of §4.4 that a host takes from a guest.
    #[inline]
    pub fn opcode(&self) -> u8 {
        self.word0.opcode()
    }

    /// Returns `VMID`.
    #[inline]
    pub fn vmid(&self) -> u16 {
        self.word0.vmid()
    }

    /// Returns `ASID`.
    #[inline]
    pub fn asid(&self) -> u16 {
        self.word0.asid()
    }

    /// Returns `Address`, aligned to 4KB.
    #[inline]
    pub fn address(&self) -> u64 {
        self.word1.page()
    }

    /// Returns `Leaf`: tables before the last level are not affected.
    #[inline]
    pub fn leaf(&self) -> bool {
        self.word1.leaf()
    }

    /// Returns log2 of the granule in bytes, or `None` if `TG` gives none and so there
    /// is neither a range nor a level hint (§4.4.1.1).
    #[inline]
    pub fn granule_shift(&self) -> Option<u8> {
        match self.word1.tg() {
            Granule::None => None,
            Granule::Gran4K => Some(12),
            Granule::Gran16K => Some(14),
            Granule::Gran64K => Some(16),
        }
    }

    /// Returns `TG` as encoded.
    pub fn tg(&self) -> u8 {
        self.word1.tg() as u8
    }

    /// Returns `TTL`.
    pub fn ttl(&self) -> u8 {
        self.word1.ttl().value()
    }

    /// Returns `NUM`.
    #[inline]
    pub fn num(&self) -> u8 {
        self.word0.num().value()
    }

    /// Returns `SCALE`.
    #[inline]
    pub fn scale(&self) -> u8 {
        self.word0.scale().value()
    }

    /// Returns whether this is about one page of stage 1, of any granule.
    #[inline]
    pub(crate) fn is_by_page(&self) -> bool {
        matches!(self.opcode(), TLBI_NH_VA | TLBI_NH_VAA) && self.word1.tg() == Granule::None
    }

    /// Returns whether `other` is the same command, but for `Address`.
    #[inline]
    pub(crate) fn differs_in_address_only(&self, other: &Self) -> bool {
        let differences = self.word1.raw() ^ other.word1.raw();
        self.word0 == other.word0 && differences & !mask!(TlbiWord1: address) == 0
    }

    /// Returns the same command with another `Address`, of which bits 11:0 are dropped.
    #[inline]
    pub(crate) const fn at(mut self, address: u64) -> Self {
        let others = self.word1.raw() & !mask!(TlbiWord1: address);
        self.word1 = TlbiWord1::of(others | (address & mask!(TlbiWord1: address)));
        self
    }

    /// Returns the same command for a range of granules (§4.4.1.1), with entries of any
    /// level: (`num` + 1) * 2^`scale`, which must be more than one.
    pub(crate) fn with_range(mut self, tg: Granule, num: u8, scale: u8) -> Self {
        self.word0.set_num(u5::extract_u8(num, 0));
        self.word0.set_scale(u6::extract_u8(scale, 0));
        self.word1.set_tg(tg);
        self
    }
}

impl Cfgi {
    /// `CMD_CFGI_CD` of one substream.
    pub(super) fn cd(sid: StreamId, ssid: u20, leaf: bool) -> Self {
        let mut cfgi = Self::cd_all(sid);
        cfgi.word0.set_opcode(CFGI_CD);
        cfgi.word0.set_ssid(ssid);
        cfgi.word1.set_leaf(leaf);
        cfgi
    }

    /// Returns `CMD_CFGI_CD_ALL`.
    pub fn cd_all(sid: StreamId) -> Self {
        let mut word0 = StreamWord0::of(0);
        word0.set_opcode(CFGI_CD_ALL);
        word0.set_sid(sid);
        Self {
            word0,
            word1: CfgiWord1::of(0),
        }
    }

    /// Returns `StreamID`.
    #[inline]
    pub fn sid(&self) -> StreamId {
        self.word0.sid()
    }
}

impl AtcInv {
    /// Returns `StreamID`.
    #[inline]
    pub fn sid(&self) -> StreamId {
        self.word0.sid()
    }

    /// Returns the lowest and the highest address, if entries without a `SubstreamID` are
    /// affected: `Global` affects them regardless of the `SubstreamID` (§4.5.1).
    pub fn addresses_without_substream(&self) -> Option<(u64, u64)> {
        if self.word0.ssv() && !self.word0.global() {
            return None;
        }
        let within = low_bits(u32::from(self.word1.size().value()) + 12);
        let address = self.word1.raw() & mask!(AtcInvWord1: address);
        Some((address & !within, address | within))
    }
}

impl Invalidation {
    /// Returns the opcode.
    #[inline]
    pub fn opcode(&self) -> u8 {
        match self {
            Self::Tlbi(tlbi) => tlbi.word0.opcode(),
            Self::Cfgi(cfgi) => cfgi.word0.opcode(),
            Self::AtcInv(atc) => atc.word0.opcode(),
        }
    }

    /// Returns the stream that the command names, if it names one. Without a device
    /// there the command has no effect.
    #[inline]
    pub fn target(&self) -> Option<StreamId> {
        match self {
            Self::Tlbi(_) => None,
            Self::Cfgi(cfgi) => Some(cfgi.word0.sid()),
            Self::AtcInv(atc) => Some(atc.word0.sid()),
        }
    }

    /// Returns whether this is a `CMD_TLBI_*`.
    #[inline]
    pub const fn is_tlbi(&self) -> bool {
        matches!(self, Self::Tlbi(_))
    }

    /// Returns whether this is a `CMD_ATC_INV`, which completes only when the device answers.
    #[inline]
    pub const fn is_atc_inv(&self) -> bool {
        matches!(self, Self::AtcInv(_))
    }

    /// Returns the Command queue entry, as two words in CPU order.
    ///
    /// Fields that this SMMU does not implement are 0 in it, because a host refuses a
    /// command with a Reserved bit set.
    #[inline]
    pub const fn to_words(&self) -> [u64; 2] {
        match self {
            Self::Tlbi(Tlbi { word0, word1 }) => [word0.raw(), word1.raw()],
            Self::Cfgi(Cfgi { word0, word1 }) => [word0.raw(), word1.raw()],
            Self::AtcInv(AtcInv { word0, word1 }) => [word0.raw(), word1.raw()],
        }
    }
}
