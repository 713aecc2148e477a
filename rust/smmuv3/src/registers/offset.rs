// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Offsets of the registers that are more than RES0 here (6.1, 6.2).

/// The whole Non-secure register space: page 0 and page 1.
pub const SIZE: u64 = 0x2_0000;

/// Page 1 holds the Event queue's indexes and aliases page 0 otherwise (6.2).
pub(super) const PAGE_OFFSET_MASK: u64 = 0xffff;

pub(super) const IDR0: u64 = 0x000;
pub(super) const IDR5: u64 = 0x014;
pub(super) const IIDR: u64 = 0x018;
pub(super) const AIDR: u64 = 0x01c;
pub(super) const CR0: u64 = 0x020;
pub(super) const CR0ACK: u64 = 0x024;
pub(super) const CR1: u64 = 0x028;
pub(super) const CR2: u64 = 0x02c;
pub(super) const STATUSR: u64 = 0x040;
pub(super) const GBPA: u64 = 0x044;
pub(super) const IRQ_CTRL: u64 = 0x050;
pub(super) const IRQ_CTRLACK: u64 = 0x054;
pub(super) const GERROR: u64 = 0x060;
pub(super) const GERRORN: u64 = 0x064;
pub(super) const GERROR_IRQ_CFG0: u64 = 0x068;
pub(super) const GERROR_IRQ_CFG0_HIGH: u64 = 0x06c;
pub(super) const GERROR_IRQ_CFG1: u64 = 0x070;
pub(super) const GERROR_IRQ_CFG2: u64 = 0x074;
pub(super) const STRTAB_BASE: u64 = 0x080;
pub(super) const STRTAB_BASE_HIGH: u64 = 0x084;
pub(super) const STRTAB_BASE_CFG: u64 = 0x088;
pub(super) const CMDQ_BASE: u64 = 0x090;
pub(super) const CMDQ_BASE_HIGH: u64 = 0x094;
pub(super) const CMDQ_PROD: u64 = 0x098;
pub(super) const CMDQ_CONS: u64 = 0x09c;
pub(super) const EVENTQ_BASE: u64 = 0x0a0;
pub(super) const EVENTQ_BASE_HIGH: u64 = 0x0a4;
pub(super) const EVENTQ_PROD: u64 = 0x0a8;
pub(super) const EVENTQ_CONS: u64 = 0x0ac;
pub(super) const EVENTQ_IRQ_CFG0: u64 = 0x0b0;
pub(super) const EVENTQ_IRQ_CFG0_HIGH: u64 = 0x0b4;
pub(super) const EVENTQ_IRQ_CFG1: u64 = 0x0b8;
pub(super) const EVENTQ_IRQ_CFG2: u64 = 0x0bc;
pub(super) const ID_REGS: u64 = 0xfd0;
pub(super) const ID_REGS_LAST: u64 = 0xffc;
