// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The translation of a stream (§3.3), as its Stream table entry and Context descriptor
//! set it up.

use super::{fault::Fault, Outcome, Tag};
use crate::{
    address::exceeds,
    cd::Translation,
    spec::{mask, vmsa::InputAddress},
    ste::Stage2,
};

/// The treatment of a stream's transactions while the SMMU is enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamContext {
    /// They are aborted, and no event is recorded (§5.2, `Config`).
    Abort,
    /// They pass untranslated, if their addresses have no more bits than this:
    /// bypassed or not, stage 1 puts out nothing larger (IAS, §3.4).
    Bypass {
        /// Bits of an address.
        ias_bits: u8,
    },
    /// They are translated.
    Translate(Context),
}

/// The translation of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// `STE.S2VMID`; 0 where stage 2 is not implemented.
    pub vmid: u16,
    /// Bits of an IPA where stage 1 does not translate (IAS, §3.4).
    pub ias_bits: u8,
    /// The stages that translate, with their parameters.
    pub stages: Stages,
}

/// The stages that translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stages {
    /// Stage 1 alone.
    Stage1(Translation),
    /// Stage 2 alone.
    Stage2(Stage2),
    /// Stage 1, and stage 2 for everything that comes of it.
    Nested(Translation, Stage2),
}

/// `address` with its top byte replaced by copies of bit 55, if it is ignored
/// (`CD.TBIx`, §3.4.1).
const fn effective_address(stage1: &Translation, address: u64) -> u64 {
    let [lower_ignored, upper_ignored] = stage1.tbi;
    match InputAddress::is_upper(address) {
        false if lower_ignored => address & !mask!(InputAddress: top_byte),
        true if upper_ignored => address | mask!(InputAddress: top_byte),
        _ => address,
    }
}

impl StreamContext {
    /// Returns the translation of a transaction at `address`.
    ///
    /// # Errors
    ///
    /// The outcome of a transaction that is not translated.
    #[inline]
    pub(super) const fn translation_of(&self, address: u64) -> Result<&Context, Outcome> {
        match self {
            Self::Translate(context) => Ok(context),
            Self::Abort => Err(Outcome::Abort),
            Self::Bypass { ias_bits } if !exceeds(address, *ias_bits as u32) => {
                Err(Outcome::Bypass)
            }
            Self::Bypass { .. } => Err(Outcome::Fault(Fault::bypassed_address_size())),
        }
    }
}

impl Stages {
    /// Returns stage 1, if it translates.
    pub const fn stage1(&self) -> Option<&Translation> {
        match self {
            Self::Stage1(stage1) | Self::Nested(stage1, _) => Some(stage1),
            Self::Stage2(_) => None,
        }
    }

    /// Returns the stages as bits: 1 is stage 1, 2 is stage 2.
    pub const fn bits(&self) -> u8 {
        match self {
            Self::Stage1(_) => 1,
            Self::Stage2(_) => 2,
            Self::Nested(..) => 3,
        }
    }
}

impl Context {
    /// Returns `address` as it is translated, and cached in the TLB.
    pub(super) fn input(&self, address: u64) -> u64 {
        match self.stages.stage1() {
            Some(stage1) => effective_address(stage1, address),
            None => address,
        }
    }

    /// Returns log2 of the granule that `address` is translated with first.
    pub const fn granule_shift(&self, address: u64) -> u8 {
        match &self.stages {
            Stages::Stage1(stage1) | Stages::Nested(stage1, _) => {
                let [lower, upper] = &stage1.tables;
                if InputAddress::is_upper(address) {
                    upper.granule_shift
                } else {
                    lower.granule_shift
                }
            }
            Stages::Stage2(stage2) => stage2.granule_shift,
        }
    }

    /// Returns the same where `tag` says what is translated: IPAs by stage 2.
    pub const fn granule_shift_of(&self, tag: Tag, address: u64) -> u8 {
        match &self.stages {
            Stages::Nested(_, stage2) if tag.asid.is_none() => stage2.granule_shift,
            _ => self.granule_shift(address),
        }
    }

    /// Returns the tag under which translations of this stream are in the TLB.
    pub const fn tag(&self) -> Tag {
        let asid = match self.stages.stage1() {
            Some(stage1) => Some(stage1.asid),
            None => None,
        };
        Tag {
            vmid: self.vmid,
            asid,
        }
    }
}
