// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Decoding of an offset into the register space.

use super::{Page0, QUEUES, SIDS};

/// Size of the register space's pages in bytes.
pub(super) const PAGE: u64 = 0x1_0000;

/// Distance of the registers of two queues in a page, in bytes.
pub(super) const STRIDE: u64 = 0x80;

/// A queue as an offset names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// By its global number: a VCMDQ.
    Vcmdq(usize),
    /// By its number in the VINTF: an LVCMDQ.
    Lvcmdq(usize),
}

/// The 32 bits of a queue's page 1 that an offset names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page1 {
    pub(super) register: Base,
    pub(super) is_high: bool,
}

/// A register of a queue's page 1, 64 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// `VCMDQ_BASE`.
    Queue,
    /// `VCMDQ_CONS_INDX_BASE_DRAM`.
    ConsDram,
}

/// The register, or the word of one, at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Config,
    Param,
    Status,
    ViErrMap(usize),
    ViIntMask(usize),
    CmdqErrMap(usize),
    CmdqAllocMap(usize),
    VintfConfig,
    VintfStatus,
    SidMatch(usize),
    SidReplace(usize),
    LvcmdqErrMap(usize),
    Page0(Name, Page0),
    Page1(Name, Page1),
}

impl Register {
    /// Returns the register at `offset`, a multiple of 4, or `None` if there is none.
    pub(super) fn at(offset: u64) -> Option<Self> {
        let within = offset % PAGE;
        match offset / PAGE {
            0 => Self::in_config_page(within),
            1 => Self::in_page0(within, Name::Vcmdq),
            2 => Self::in_page1(within, Name::Vcmdq),
            3 => Self::in_page0(within, Name::Lvcmdq),
            4 => Self::in_page1(within, Name::Lvcmdq),
            _ => None,
        }
    }

    fn in_config_page(offset: u64) -> Option<Self> {
        let element = |first: u64| ((offset - first) / 4) as usize;
        Some(match offset {
            0x000 => Self::Config,
            0x004 => Self::Param,
            0x008 => Self::Status,
            0x014..0x01c => Self::ViErrMap(element(0x014)),
            0x01c..0x024 => Self::ViIntMask(element(0x01c)),
            0x024..0x034 => Self::CmdqErrMap(element(0x024)),
            0x200..0x1000 if element(0x200) < QUEUES => Self::CmdqAllocMap(element(0x200)),
            0x1000 => Self::VintfConfig,
            0x1004 => Self::VintfStatus,
            0x1040..0x1080 if element(0x1040) < SIDS => Self::SidMatch(element(0x1040)),
            0x1080..0x10c0 if element(0x1080) < SIDS => Self::SidReplace(element(0x1080)),
            0x10c0..0x10d0 => Self::LvcmdqErrMap(element(0x10c0)),
            _ => return None,
        })
    }

    fn in_page0(offset: u64, name: fn(usize) -> Name) -> Option<Self> {
        let queue = queue(offset)?;
        let register = Page0::ALL
            .into_iter()
            .find(|register| register.offset() == offset % STRIDE)?;
        Some(Self::Page0(name(queue), register))
    }

    fn in_page1(offset: u64, name: fn(usize) -> Name) -> Option<Self> {
        let queue = queue(offset)?;
        let register = match offset % STRIDE {
            0x0 | 0x4 => Base::Queue,
            0x8 | 0xc => Base::ConsDram,
            _ => return None,
        };
        let is_high = offset % 8 != 0;
        Some(Self::Page1(name(queue), Page1 { register, is_high }))
    }
}

/// Returns the number of the queue whose registers are at `offset` into a page.
fn queue(offset: u64) -> Option<usize> {
    let queue = (offset / STRIDE) as usize;
    (queue < QUEUES).then_some(queue)
}
