// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! TLB invalidation (4.4).

use super::{opcode::*, Command, Illegal, Kind};
use crate::{
    bits::{field64, mask64},
    features::Features,
};

/// Leaf, bit 0 of word 1.
const LEAF: u64 = mask64(0, 1);
/// TTL, bits 9:8 of word 1.
const TTL: u64 = mask64(8, 2);
/// TG, bits 11:10 of word 1.
const TG: u64 = mask64(10, 2);
/// Address, bits 63:12 of word 1.
const ADDRESS: u64 = mask64(12, 52);
/// NUM, bits 16:12 of word 0.
const NUM: u64 = mask64(12, 5);

/// TG of the 16KB granule.
const TG_16K: u64 = 0b10;

/// Opcodes 0x10 to 0x30: everything that a Non-secure queue knows of 4.4.
pub(super) fn decode(
    opcode: u8,
    [word0, word1]: [u64; 2],
    features: &Features,
) -> Result<Command, Illegal> {
    let stage1 = features.s1p();
    let stage2 = features.s2p();
    let el2 = stage1 && features.hyp();
    let vmid = word0 & vmid(features);
    let asid = word0 & asid(features);
    match opcode {
        TLBI_NH_VA if stage1 => by_address(opcode, asid | vmid, word0, word1, features),
        TLBI_NH_VAA if stage1 => by_address(opcode, vmid, word0, word1, features),
        TLBI_NH_ASID if stage1 => Ok(forward([u64::from(opcode) | asid | vmid, 0])),
        TLBI_NH_ALL if stage1 => Ok(forward([u64::from(opcode) | vmid, 0])),
        TLBI_NSNH_ALL => Ok(forward([u64::from(opcode), 0])),
        TLBI_EL2_ALL | TLBI_EL2_ASID if el2 => Ok(everything()),
        TLBI_EL2_VA | TLBI_EL2_VAA if el2 => {
            by_address(opcode, 0, word0, word1, features).map(|_| everything())
        }
        TLBI_S12_VMALL if stage2 => Ok(forward([u64::from(opcode) | vmid, 0])),
        TLBI_S2_IPA if stage2 => by_address(opcode, vmid, word0, word1, features),
        _ => Err(Illegal),
    }
}

/// The ASID as wide as it is implemented: bits 63:48 or (55:48) of word 0.
/// An ASID with bits above need not match anything (4.4).
const fn asid(features: &Features) -> u64 {
    if features.asid16() {
        mask64(48, 16)
    } else {
        mask64(48, 8)
    }
}

/// The VMID as wide as it is implemented: bits 47:32 or 39:32 of word 0. With
/// stage 1 alone it is RES0 (4.4.2): there is none to be matched, and a host
/// puts its own in.
const fn vmid(features: &Features) -> u64 {
    match (features.s2p(), features.vmid16()) {
        (false, _) => 0,
        (true, false) => mask64(32, 8),
        (true, true) => mask64(32, 16),
    }
}

/// A command that names an address: range and level hint (4.4.1.1).
///
/// `identity` are the bits of word 0 that say whose entries are meant.
fn by_address(
    opcode: u8,
    identity: u64,
    word0: u64,
    word1: u64,
    features: &Features,
) -> Result<Command, Illegal> {
    let mut words = [u64::from(opcode) | identity, word1 & (ADDRESS | LEAF)];
    let granule = field64(word1, 10, 2);
    // Without RIL or without a granule the other fields are RES0.
    if !features.ril() || granule == 0 {
        return Ok(forward(words));
    }
    let scale = if features.ds() {
        mask64(20, 6)
    } else {
        mask64(20, 5)
    };
    let range = word0 & (NUM | scale);
    // Level 1 of the 16KB granule exists with 52-bit addresses only; it is
    // Reserved otherwise and treated as no hint at all.
    let no_level_1 = granule == TG_16K && !features.ds();
    let level = match field64(word1, 8, 2) {
        1 if no_level_1 => 0,
        level => level,
    };
    if range == 0 && level == 0 {
        return Err(Illegal);
    }
    words[0] |= range;
    words[1] |= (word1 & TG) | ((level << 8) & TTL);
    Ok(forward(words))
}

const fn forward(words: [u64; 2]) -> Command {
    Command::Forward {
        words,
        target: None,
        kind: Kind::Tlbi,
    }
}

/// In place of a command about EL2, which no host takes from a guest: more than
/// is asked for may always be invalidated (4.4), and this is the most there is.
pub(super) const fn everything() -> Command {
    forward([TLBI_NSNH_ALL as u64, 0])
}
