// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stream table entries and Context descriptors (§5).

use smmuv3::{
    cd::{self, BadCd, CdFault, Translation},
    registers::StreamTableRegisters,
    ste::STE_BYTES,
    stream_table, Cd, Features, GuestMemory, Ste, SteFault, StreamConfig, StreamId,
};

use crate::surroundings::{Least, Memory};

/// Decodes a Stream table entry.
#[inline(never)]
pub fn ste(bytes: &[u8; STE_BYTES], features: &Features) -> (StreamConfig, u16) {
    let ste = Ste::from_bytes(bytes);
    (ste.config(features), ste.vmid(features))
}

/// Decodes a Context descriptor.
///
/// # Errors
///
/// [`BadCd`] if it is ILLEGAL.
#[inline(never)]
pub fn context_descriptor(cd: &Cd, features: &Features) -> Result<Translation, BadCd> {
    cd.translation(features)
}

/// Reads a Stream table entry.
///
/// # Errors
///
/// [`SteFault`] if there is none.
#[inline(never)]
pub fn fetch_ste(
    registers: &StreamTableRegisters,
    features: &Features,
    memory: &mut dyn GuestMemory,
    sid: StreamId,
) -> Result<Ste, SteFault> {
    stream_table::fetch(registers, features, &mut Memory(memory), sid)
}

/// Reads and decodes one.
#[inline(never)]
pub fn evaluate(
    registers: &StreamTableRegisters,
    features: &Features,
    memory: &mut dyn GuestMemory,
    sid: StreamId,
) -> StreamConfig {
    stream_table::evaluate(registers, features, &mut Memory(memory), sid)
}

/// Reads a Context descriptor.
///
/// # Errors
///
/// [`CdFault`] if there is none.
#[inline(never)]
pub fn fetch_cd(
    ste: &[u64; 2],
    features: &Features,
    memory: &mut dyn GuestMemory,
    ssid: u32,
) -> Result<Cd, CdFault> {
    cd::fetch(ste, features, &mut Memory(memory), ssid)
}

/// Reads both from memory without functions of its own for words.
#[inline(never)]
pub fn fetch_bytewise(
    registers: &StreamTableRegisters,
    features: &Features,
    memory: &mut dyn GuestMemory,
    sid: StreamId,
    ste: &[u64; 2],
) -> (Result<Ste, SteFault>, Result<Cd, CdFault>) {
    let memory = &mut Least(memory);
    (
        stream_table::fetch(registers, features, memory, sid),
        cd::fetch(ste, features, memory, 0),
    )
}

/// Returns the split point of a Stream table.
#[inline(never)]
pub fn split(strtab_base_cfg: u32) -> Option<u8> {
    stream_table::two_level_split(strtab_base_cfg)
}
