// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! CMDQ virtualization (Tegra241): its registers as a guest driver uses them,
//! and the hardware queues of the simulated host.

mod driver;
mod hardware;

pub use driver::{Cmdqv, View};
pub use hardware::{CmdqvHardware, Executed, HwQueue};

/// Bytes of the register region that a guest has.
pub const SIZE: u64 = 0x5_0000;
/// Bytes of one of its pages.
pub const PAGE: u64 = 0x1_0000;
/// Offset of the page that is the hardware's while it is mapped.
pub const VINTF_PAGE: u64 = 0x3_0000;
/// Number of its queues.
pub const QUEUES: u32 = 2;
/// Number of the interrupt output, behind those of the SMMU.
pub const IRQ: u32 = 4;
/// Bytes of the registers of one queue in a page.
pub const SLOT: u64 = 0x80;

/// Registers of the CONFIG page.
#[allow(missing_docs)]
pub mod reg {
    pub const CONFIG: u64 = 0x00;
    pub const PARAM: u64 = 0x04;
    pub const STATUS: u64 = 0x08;
    pub const VI_ERR_MAP: u64 = 0x14;
    pub const VI_INT_MASK: u64 = 0x1c;
    pub const CMDQ_ERR_MAP: u64 = 0x24;
    pub const CMDQ_ALLOC_MAP: u64 = 0x200;
    pub const VINTF_CONFIG: u64 = 0x1000;
    pub const VINTF_STATUS: u64 = 0x1004;
    pub const SID_MATCH: u64 = 0x1040;
    pub const SID_REPLACE: u64 = 0x1080;
    pub const LVCMDQ_ERR_MAP: u64 = 0x10c0;
}

/// `CONFIG.CMDQV_EN`, `VINTF_CONFIG.ENABLE`, `CONFIG.CMDQ_EN` of a queue, and
/// what acknowledges each in `STATUS`.
pub const ENABLE: u32 = 1 << 0;
/// `CMDQ_ALLOC_MAP.ALLOC`
pub const ALLOC: u32 = 1 << 0;
/// `VINTF_CONFIG.HYP_OWN`
pub const HYP_OWN: u32 = 1 << 17;
/// `GERROR.CMDQ_ERR`
pub const CMDQ_ERR: u32 = 1 << 0;
/// `GERROR.CMDQ_INIT_ERR`
pub const CMDQ_INIT_ERR: u32 = 1 << 2;

/// A 32-bit register of a queue on page 0.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Cons = 0x00,
    Prod = 0x04,
    Config = 0x08,
    Status = 0x0c,
    Gerror = 0x10,
    Gerrorn = 0x14,
}

/// `CONS_INDX.ERR`
pub mod cerror {
    /// Illegal opcode
    pub const ILL_OPCODE: u32 = 1;
    /// Abort on command fetch
    pub const ABT: u32 = 2;
    /// A stream that the VINTF does not match
    pub const ILL_ACCESS: u32 = 4;
}
