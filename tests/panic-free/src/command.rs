// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Decoding of commands (§4).

use smmuv3::{
    command::{decode, opcode, AtcInv, Cfgi, GuestOwned, Restriction, Tlbi},
    Command, Features, Illegal, Invalidation, StreamId,
};

/// Decodes a Command queue entry.
///
/// # Errors
///
/// [`Illegal`] if it is.
#[inline(never)]
pub fn decoded(words: [u64; 2], features: &Features) -> Result<Command, Illegal> {
    decode(words, features)
}

/// Returns whether a queue that a guest owns executes an entry, and its opcode.
#[inline(never)]
pub fn permitted(words: [u64; 2]) -> (bool, u8) {
    (GuestOwned::permits(words), opcode(words))
}

/// Returns what a host gets of a command.
#[inline(never)]
pub fn forwarded(command: &Invalidation) -> ([u64; 2], u8, Option<StreamId>, bool, bool) {
    (
        command.to_words(),
        command.opcode(),
        command.target(),
        command.is_tlbi(),
        command.is_atc_inv(),
    )
}

/// Returns the fields of a TLB invalidation.
#[inline(never)]
pub fn tlbi(tlbi: &Tlbi) -> ([u64; 6], Option<u8>, bool) {
    (
        [
            tlbi.opcode().into(),
            tlbi.vmid().into(),
            tlbi.asid().into(),
            tlbi.address(),
            tlbi.tg().into(),
            [tlbi.ttl(), tlbi.num(), tlbi.scale()]
                .into_iter()
                .fold(0, |all, field| all ^ u64::from(field)),
        ],
        tlbi.granule_shift(),
        tlbi.leaf(),
    )
}

/// Returns the fields of an invalidation of a stream's caches.
#[inline(never)]
pub fn stream(
    cfgi: &Cfgi,
    atc: &AtcInv,
    sid: StreamId,
) -> (Cfgi, [StreamId; 2], Option<(u64, u64)>) {
    (
        Cfgi::cd_all(sid),
        [cfgi.sid(), atc.sid()],
        atc.addresses_without_substream(),
    )
}
