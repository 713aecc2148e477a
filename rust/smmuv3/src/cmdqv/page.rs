// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The control registers of a queue, and the host's page with those of queues in
//! hardware.

use super::offset::STRIDE;
use crate::spec::{
    cmdqv::{VcmdqConfig, VcmdqGerror, VcmdqStatus},
    mask,
    register::{CmdqCons, CmdqProd},
};

/// A register of a queue's control page (page 0), 32 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Page0 {
    /// `VCMDQ_CONS_INDX`.
    Cons,
    /// `VCMDQ_PROD_INDX`.
    Prod,
    /// `VCMDQ_CONFIG`.
    Config,
    /// `VCMDQ_STATUS`, read-only.
    Status,
    /// `VCMDQ_GERROR`, read-only.
    Gerror,
    /// `VCMDQ_GERRORN`.
    Gerrorn,
}

impl Page0 {
    /// Every register, in the order of their offsets.
    pub const ALL: [Self; 6] = [
        Self::Cons,
        Self::Prod,
        Self::Config,
        Self::Status,
        Self::Gerror,
        Self::Gerrorn,
    ];

    /// Returns the offset in bytes from the first register of the queue.
    pub const fn offset(self) -> u64 {
        match self {
            Self::Cons => 0x00,
            Self::Prod => 0x04,
            Self::Config => 0x08,
            Self::Status => 0x0c,
            Self::Gerror => 0x10,
            Self::Gerrorn => 0x14,
        }
    }

    /// Returns the offset in bytes into the page of the register of LVCMDQ `lvcmdq`.
    pub const fn offset_of(self, lvcmdq: usize) -> u64 {
        STRIDE * lvcmdq as u64 + self.offset()
    }

    /// Returns the bits that exist.
    pub(super) const fn defined(self) -> u32 {
        match self {
            Self::Cons => CmdqCons::DEFINED,
            Self::Prod => CmdqProd::DEFINED,
            Self::Config => VcmdqConfig::DEFINED,
            Self::Status => VcmdqStatus::DEFINED,
            Self::Gerror | Self::Gerrorn => VcmdqGerror::DEFINED,
        }
    }

    /// Returns the bits that software writes; none of a read-only register.
    pub(super) const fn writable(self) -> u32 {
        match self {
            Self::Cons => mask!(CmdqCons: rd),
            Self::Status | Self::Gerror => 0,
            _ => self.defined(),
        }
    }
}

/// The host's control page of the VINTF.
///
/// It is only asked for queues that are in hardware. Values come from the guest, which
/// has the page mapped: they are shown or saved, and never used as an address or as the
/// bound of a loop. An access is 32 bits wide, and volatile.
pub trait HostPage {
    /// Returns a register of LVCMDQ `lvcmdq`, which is less than
    /// [`QUEUES`](super::QUEUES).
    fn read(&mut self, lvcmdq: usize, register: Page0) -> u32;

    /// Writes a register of LVCMDQ `lvcmdq`, which is less than
    /// [`QUEUES`](super::QUEUES).
    fn write(&mut self, lvcmdq: usize, register: Page0, value: u32);
}

/// The page of a host without one: reads return 0, writes are ignored.
#[derive(Clone, Copy, Debug)]
pub struct NoPage;

impl HostPage for NoPage {
    fn read(&mut self, _: usize, _: Page0) -> u32 {
        0
    }

    fn write(&mut self, _: usize, _: Page0, _: u32) {}
}
