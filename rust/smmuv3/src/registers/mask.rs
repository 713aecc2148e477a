// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The bits of each register that exist with given features; the rest is RES0
//! and neither stored nor shown (6.2).

use crate::{
    bits::{mask32, mask64},
    features::Features,
    queue::POINTER_MASK,
};

/// `CR0` and `CR0ACK` (6.3.9).
pub(super) const fn cr0(features: &Features) -> u32 {
    let mut mask = super::CR0_SMMUEN | super::CR0_EVENTQEN | super::CR0_CMDQEN;
    if features.pri() {
        mask |= super::CR0_PRIQEN;
    }
    if features.ats() {
        mask |= mask32(4, 1);
    }
    if features.vmw() {
        mask |= mask32(6, 3);
    }
    if features.dpt() {
        mask |= mask32(10, 1);
    }
    mask
}

/// `CR1.QUEUE_{SH,OC,IC}` (6.3.11).
pub(super) const CR1_QUEUE: u32 = mask32(0, 6);
/// `CR1.TABLE_{SH,OC,IC}` (6.3.11).
pub(super) const CR1_TABLE: u32 = mask32(6, 6);

/// `CR2` (6.3.12).
pub(super) const fn cr2(features: &Features) -> u32 {
    let mut mask = mask32(1, 1);
    if features.hyp() {
        mask |= mask32(0, 1);
    }
    if features.btm() {
        mask |= mask32(2, 1);
    }
    if features.atsrecerr() {
        mask |= mask32(3, 1);
    }
    mask
}

/// `STATUSR` (6.3.13).
pub(super) const fn statusr(features: &Features) -> u32 {
    features.dormhint() as u32
}

/// `GBPA` without `Update`, which is never seen set (6.3.14).
pub(super) const GBPA: u32 =
    mask32(0, 5) | mask32(8, 4) | mask32(12, 2) | mask32(16, 4) | super::GBPA_ABORT;

/// `IRQ_CTRL` and `IRQ_CTRLACK` (6.3.16).
pub(super) const fn irq_ctrl(features: &Features) -> u32 {
    let mask = super::IRQ_CTRL_GERROR | super::IRQ_CTRL_EVENTQ;
    if features.pri() {
        mask | mask32(1, 1)
    } else {
        mask
    }
}

/// `*_IRQ_CFG0` (6.3.21): present only with MSIs.
pub(super) const fn irq_cfg0(features: &Features) -> u64 {
    if features.msi() {
        mask64(2, 54) & mask64(0, features.oas_bits())
    } else {
        0
    }
}

/// `*_IRQ_CFG1` (6.3.22): present only with MSIs.
pub(super) const fn irq_cfg1(features: &Features) -> u32 {
    if features.msi() {
        u32::MAX
    } else {
        0
    }
}

/// `*_IRQ_CFG2` (6.3.23): present only with MSIs.
pub(super) const fn irq_cfg2(features: &Features) -> u32 {
    if features.msi() {
        mask32(0, 6)
    } else {
        0
    }
}

/// `STRTAB_BASE` (6.3.24).
pub(super) const fn strtab_base(features: &Features) -> u64 {
    mask64(62, 1) | (mask64(6, 50) & mask64(0, features.oas_bits()))
}

/// `STRTAB_BASE_CFG` (6.3.25).
pub(super) const fn strtab_base_cfg(features: &Features) -> u32 {
    if features.st_level() == 0 {
        mask32(0, 6)
    } else {
        mask32(0, 11) | mask32(16, 2)
    }
}

/// `CMDQ_BASE` and `EVENTQ_BASE` (6.3.26, 6.3.29).
pub(super) const fn queue_base(features: &Features) -> u64 {
    mask64(62, 1) | (mask64(5, 51) & mask64(0, features.oas_bits())) | mask64(0, 5)
}

/// `CMDQ_PROD` (6.3.27).
pub(super) const CMDQ_PROD: u32 = POINTER_MASK;
/// `CMDQ_CONS.ERR` (6.3.28).
pub(super) const CMDQ_CONS_ERR: u32 = mask32(24, 7);
/// `EVENTQ_PROD` and `EVENTQ_CONS`: index and overflow flag (6.3.95, 6.3.96).
pub(super) const EVENTQ_POINTER: u32 = POINTER_MASK | mask32(31, 1);
