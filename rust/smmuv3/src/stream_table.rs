// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Stream table (3.3.1, 5.1).

use crate::{
    cmdq::GuestMemory,
    features::Features,
    registers::Registers,
    ste::{Ste, StreamConfig},
    StreamId,
};

/// Why there is no Stream table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteFault {
    /// The `StreamID` is outside the table (`C_BAD_STREAMID`, 7.3.3).
    BadStreamId,
    /// Reading the table aborted (`F_STE_FETCH`, 7.3.4).
    FetchAbort {
        /// Of the entry or descriptor that was to be read.
        address: u64,
    },
}

/// Finds the Stream table entry of `sid`.
///
/// # Errors
///
/// [`SteFault`] if there is none.
pub fn fetch<M: GuestMemory>(
    registers: &Registers,
    features: &Features,
    memory: &mut M,
    sid: StreamId,
) -> Result<Ste, SteFault> {
    let _ = (registers, features, memory, sid);
    Err(SteFault::BadStreamId)
}

/// What the stream `sid` must be attached to now.
pub fn evaluate<M: GuestMemory>(
    registers: &Registers,
    features: &Features,
    memory: &mut M,
    sid: StreamId,
) -> StreamConfig {
    let _ = (registers, features, memory, sid);
    StreamConfig::Abort
}
