// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! TLB invalidation (§4.4).

use bilge::prelude::*;

use super::{opcode::*, Command, Illegal, Invalidation, Tlbi};
use crate::{
    features::Features,
    spec::{
        command::{Granule, TlbiWord0, TlbiWord1},
        mask,
    },
};

/// Decodes opcodes 0x10 to 0x30: everything of §4.4 that a Non-secure queue has.
pub(super) fn decode(
    opcode: u8,
    [word0, word1]: [u64; 2],
    features: &Features,
) -> Result<Command, Illegal> {
    let (word0, word1) = (TlbiWord0::of(word0), TlbiWord1::of(word1));
    let stage1 = features.s1p();
    let stage2 = features.s2p();
    let el2 = stage1 && features.hyp();
    let mut everything = TlbiWord0::of(0);
    everything.set_opcode(opcode);
    let mut of_vmid = everything;
    of_vmid.set_vmid(vmid(word0, features));
    let mut of_asid = of_vmid;
    of_asid.set_asid(asid(word0, features));
    match opcode {
        TLBI_NH_VA if stage1 => by_address(of_asid, word0, word1, features),
        TLBI_NH_VAA if stage1 => by_address(of_vmid, word0, word1, features),
        TLBI_NH_ASID if stage1 => Ok(whole(of_asid)),
        TLBI_NH_ALL if stage1 => Ok(whole(of_vmid)),
        TLBI_NSNH_ALL => Ok(whole(everything)),
        TLBI_EL2_ALL | TLBI_EL2_ASID if el2 => Ok(nsnh_all()),
        TLBI_EL2_VA | TLBI_EL2_VAA if el2 => {
            by_address(everything, word0, word1, features).map(|_| nsnh_all())
        }
        TLBI_S12_VMALL if stage2 => Ok(whole(of_vmid)),
        TLBI_S2_IPA if stage2 => by_address(of_vmid, word0, word1, features),
        _ => Err(Illegal),
    }
}

/// Returns the ASID as wide as it is implemented. An ASID with bits above need not
/// match anything (§4.4).
fn asid(word0: TlbiWord0, features: &Features) -> u16 {
    if features.asid16() {
        word0.asid()
    } else {
        word0.asid() & 0xff
    }
}

/// Returns the VMID as wide as it is implemented. With stage 1 alone it is RES0
/// (§4.4.2): there is none to be matched, and a host puts its own in.
fn vmid(word0: TlbiWord0, features: &Features) -> u16 {
    match (features.s2p(), features.vmid16()) {
        (false, _) => 0,
        (true, false) => word0.vmid() & 0xff,
        (true, true) => word0.vmid(),
    }
}

/// Decodes a command by address, with range and level hint (§4.4.1.1). `kept` has the
/// fields that name the owner of the entries.
fn by_address(
    mut kept: TlbiWord0,
    word0: TlbiWord0,
    word1: TlbiWord1,
    features: &Features,
) -> Result<Command, Illegal> {
    let tg = word1.tg();
    // Without RIL or without a granule the other fields are RES0.
    if !features.ril() || tg == Granule::None {
        return Ok(tlbi(kept, word1.raw() & mask!(TlbiWord1: address | leaf)));
    }
    let scale = if features.ds() {
        word0.scale()
    } else {
        word0.scale() & u6::new(0x1f)
    };
    kept.set_num(word0.num());
    kept.set_scale(scale);
    let mut hint = word1.ttl();
    // Level 1 of the 16KB granule exists with 52-bit addresses only; it is
    // Reserved otherwise and treated as no hint at all.
    if tg == Granule::Gran16K && !features.ds() && hint == u2::new(1) {
        hint = u2::new(0);
    }
    if word0.num() == u5::new(0) && scale == u6::new(0) && hint == u2::new(0) {
        return Err(Illegal);
    }
    let mut address = TlbiWord1::of(word1.raw() & mask!(TlbiWord1: address | leaf | tg));
    address.set_ttl(hint);
    Ok(tlbi(kept, address.raw()))
}

/// Returns a command that names no address.
const fn whole(word0: TlbiWord0) -> Command {
    tlbi(word0, 0)
}

const fn tlbi(word0: TlbiWord0, word1: u64) -> Command {
    let word1 = TlbiWord1::of(word1);
    Command::Invalidate(Invalidation::Tlbi(Tlbi { word0, word1 }))
}

/// In place of a command about EL2, which no host takes from a guest: more than
/// is asked for may always be invalidated (§4.4), and this is the most there is.
pub(super) const fn nsnh_all() -> Command {
    Command::Invalidate(Invalidation::Tlbi(Tlbi::NSNH_ALL))
}
