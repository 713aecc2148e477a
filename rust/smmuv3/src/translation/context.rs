// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Configuration of a stream (§3.3): Stream table entry and Context descriptor, as
//! walks use them.

use super::{
    fault::Fault,
    walk::{effective_address, upper_half, Walker},
    BadConfig, Caches, Outcome, Permissions, Tag,
};
use crate::{
    address::exceeds,
    cd::{self, Cd, CdFault, Translation},
    event::{Class, EventType},
    features::Features,
    memory::{BusAbort, GuestMemory},
    registers::Registers,
    ste::{Stage2, StreamConfig},
    stream_table::{self, SteFault},
    StreamId,
};

/// What becomes of a stream's transactions while the SMMU is enabled.
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

/// How a stream is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// `STE.S2VMID`; 0 where stage 2 is not implemented.
    pub vmid: u16,
    /// Bits of an IPA where stage 1 does not translate (IAS, §3.4).
    pub ias_bits: u8,
    /// Which stages translate, and how.
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

impl StreamContext {
    /// Returns how a transaction at `address` is translated.
    ///
    /// # Errors
    ///
    /// What becomes of it if it is not.
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
                if upper_half(address) {
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

/// Reads the configuration of `sid`, whatever `SMMUEN` says.
pub(super) fn fetch<M: GuestMemory, C: Caches>(
    registers: &Registers,
    features: &Features,
    memory: &mut M,
    caches: &mut C,
    sid: StreamId,
) -> Result<StreamContext, Fault> {
    let ste =
        stream_table::fetch(registers, features, memory, sid).map_err(|fault| match fault {
            SteFault::BadStreamId => Fault::configuration(EventType::BadStreamId),
            SteFault::FetchAbort { address } => Fault::fetch(EventType::SteFetch, address),
        })?;
    let vmid = ste.vmid(features);
    let ias_bits = features.oas_bits() as u8;
    let stage1 = |observer: &mut C, cd: &Cd| {
        cd.translation(features).map_err(|reason| {
            observer.rejected(sid, BadConfig::Cd(reason));
            Fault::configuration(EventType::BadCd)
        })
    };
    let stages = match ste.config(features) {
        StreamConfig::Abort => return Ok(StreamContext::Abort),
        StreamConfig::Bypass => return Ok(StreamContext::Bypass { ias_bits }),
        StreamConfig::Bad(reason) => {
            caches.rejected(sid, BadConfig::Ste(reason));
            return Err(Fault::configuration(EventType::BadSte));
        }
        StreamConfig::Stage2(stage2) => Stages::Stage2(stage2),
        StreamConfig::Stage1 { ste } => match context_descriptor(&ste, features, memory)? {
            Some(cd) => Stages::Stage1(stage1(caches, &cd)?),
            None => return Ok(StreamContext::Bypass { ias_bits }),
        },
        StreamConfig::Nested { ste, stage2 } => {
            // Addresses of Context descriptors are IPAs (§5.2, S1ContextPtr).
            let mut memory = IpaSpace {
                walker: Walker {
                    memory,
                    caches,
                    oas_bits: ias_bits,
                },
                vmid,
                stage2: &stage2,
                physical: 0,
                fault: None,
            };
            let found = context_descriptor(&ste, features, &mut memory);
            let found = found.map_err(|fault| match fault.event {
                EventType::CdFetch => memory
                    .fault
                    .unwrap_or_else(|| Fault::fetch(EventType::CdFetch, memory.physical)),
                _ => fault,
            });
            match found? {
                Some(cd) => Stages::Nested(stage1(caches, &cd)?, stage2),
                None => Stages::Stage2(stage2),
            }
        }
    };
    Ok(StreamContext::Translate(Context {
        vmid,
        ias_bits,
        stages,
    }))
}

/// Finds the Context descriptor for transactions without a `SubstreamID`; `None` if
/// they bypass stage 1.
fn context_descriptor<M: GuestMemory>(
    ste: &[u64; 2],
    features: &Features,
    memory: &mut M,
) -> Result<Option<Cd>, Fault> {
    match cd::fetch(ste, features, memory, 0) {
        Ok(cd) => Ok(Some(cd)),
        Err(CdFault::Bypassed) => Ok(None),
        Err(CdFault::BadSubstreamId) => Err(Fault::configuration(EventType::BadSubstreamId)),
        Err(CdFault::StreamDisabled) => Err(Fault::configuration(EventType::StreamDisabled)),
        Err(CdFault::FetchAbort { address }) => Err(Fault::fetch(EventType::CdFetch, address)),
    }
}

/// Guest memory by its IPAs.
struct IpaSpace<'a, M, C> {
    walker: Walker<'a, M, C>,
    vmid: u16,
    stage2: &'a Stage2,
    /// Where the last access went.
    physical: u64,
    /// Why the last access was answered with an abort, if stage 2 is to blame.
    fault: Option<Fault>,
}

impl<M: GuestMemory, C: Caches> IpaSpace<'_, M, C> {
    fn physical(&mut self, ipa: u64) -> Result<u64, BusAbort> {
        let translated = self
            .walker
            .ipa(self.vmid, self.stage2, ipa, Permissions::READ, Class::Cd);
        match translated {
            Ok(entry) => {
                self.physical = entry.translate(ipa);
                Ok(self.physical)
            }
            Err(fault) => {
                self.fault = Some(fault);
                Err(BusAbort)
            }
        }
    }
}

impl<M: GuestMemory, C: Caches> GuestMemory for IpaSpace<'_, M, C> {
    /// Of a descriptor, which does not cross a page: it is aligned to its size.
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), BusAbort> {
        let physical = self.physical(address)?;
        self.walker.memory.read(physical, buffer)
    }

    fn read_u64(&mut self, address: u64) -> Result<u64, BusAbort> {
        let physical = self.physical(address)?;
        self.walker.memory.read_u64(physical)
    }

    fn write(&mut self, _address: u64, _data: &[u8]) -> Result<(), BusAbort> {
        Err(BusAbort)
    }
}
