// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Reads the configuration of a stream (§3.3): Stream table entry and Context
//! descriptor, the latter through stage 2 where both stages translate.

use super::{
    context::{Context, Stages, StreamContext},
    fault::Fault,
    walk::Walker,
    BadConfig, Caches, Permissions,
};
use crate::{
    cd::{self, Cd, CdFault},
    event::{Class, EventType},
    features::Features,
    memory::{BusAbort, GuestMemory},
    registers::StreamTableRegisters,
    ste::{Stage2, StreamConfig},
    stream_table::{self, SteFault},
    StreamId,
};

/// Reads the configuration of `sid`; `SMMUEN` is not checked.
// Rare: inlined, it would make every transaction slower.
#[inline(never)]
pub(super) fn fetch_context<M: GuestMemory, C: Caches>(
    registers: &StreamTableRegisters,
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
    /// Physical address of the last access.
    physical: u64,
    /// The fault of stage 2 that aborted the last access, if one did.
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
