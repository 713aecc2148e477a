// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The bits of each register that exist with given features; the rest is RES0
//! and neither stored nor shown (§6.2).

use super::Registers;
use crate::{
    address::truncate,
    features::Features,
    spec::{
        mask,
        register::{
            CmdqCons, CmdqProd, Cr0, Cr1, Cr2, EventqIndex, Gbpa, IrqCfg0, IrqCfg1, IrqCfg2,
            IrqCtrl, QueueBase, Statusr, StrtabBase, StrtabBaseCfg,
        },
    },
};

/// `CR0` and `CR0ACK` (§6.3.9).
pub(super) fn cr0(features: &Features) -> u64 {
    let mut mask = mask!(Cr0: smmuen | eventqen | cmdqen);
    if features.pri() {
        mask |= mask!(Cr0: priqen);
    }
    if features.ats() {
        mask |= mask!(Cr0: atschk);
    }
    if features.vmw() {
        mask |= mask!(Cr0: vmw);
    }
    if features.dpt() {
        mask |= mask!(Cr0: dpt_walk_en);
    }
    mask.into()
}

/// `CR1.QUEUE_{SH,OC,IC}` (§6.3.11).
pub(super) const CR1_QUEUE: u64 = mask!(Cr1: queue_ic | queue_oc | queue_sh) as u64;
/// `CR1.TABLE_{SH,OC,IC}` (§6.3.11).
pub(super) const CR1_TABLE: u64 = mask!(Cr1: table_ic | table_oc | table_sh) as u64;

/// Returns the fields of `CR1` that describe nothing that is enabled (§6.3.11).
pub(super) fn cr1_writable(registers: &Registers) -> u64 {
    let mut mask = 0;
    if registers.cr0_in_effect() & mask!(Cr0: cmdqen | eventqen | priqen) == 0 {
        mask |= CR1_QUEUE;
    }
    if !registers.smmu_enabled() {
        mask |= CR1_TABLE;
    }
    mask
}

/// `CR2` (§6.3.12).
pub(super) fn cr2(features: &Features) -> u64 {
    let mut mask = mask!(Cr2: recinvsid);
    if features.hyp() {
        mask |= mask!(Cr2: e2h);
    }
    if features.btm() {
        mask |= mask!(Cr2: ptm);
    }
    if features.atsrecerr() {
        mask |= mask!(Cr2: rec_cfg_ats);
    }
    mask.into()
}

/// `STATUSR` (§6.3.13).
pub(super) fn statusr(features: &Features) -> u64 {
    if features.dormhint() {
        Statusr::DEFINED.into()
    } else {
        0
    }
}

/// `GBPA` without `Update`, which is never seen set (§6.3.14).
pub(super) const GBPA: u64 = (Gbpa::DEFINED & !mask!(Gbpa: update)) as u64;

/// `IRQ_CTRL` and `IRQ_CTRLACK` (§6.3.16).
pub(super) fn irq_ctrl(features: &Features) -> u64 {
    let mut mask = mask!(IrqCtrl: gerror_irqen | eventq_irqen);
    if features.pri() {
        mask |= mask!(IrqCtrl: priq_irqen);
    }
    mask.into()
}

/// `GERROR` and `GERRORN` (§6.3.19).
pub(super) fn gerror(features: &Features) -> u64 {
    crate::gerror::defined(features).into()
}

/// `*_IRQ_CFG0` (§6.3.21): present only with MSIs.
pub(super) fn irq_cfg0(features: &Features) -> u64 {
    if features.msi() {
        truncate(IrqCfg0::DEFINED, features.oas_bits())
    } else {
        0
    }
}

/// `*_IRQ_CFG1` (§6.3.22): present only with MSIs.
pub(super) fn irq_cfg1(features: &Features) -> u64 {
    if features.msi() {
        IrqCfg1::DEFINED.into()
    } else {
        0
    }
}

/// `*_IRQ_CFG2` (§6.3.23): present only with MSIs.
pub(super) fn irq_cfg2(features: &Features) -> u64 {
    if features.msi() {
        IrqCfg2::DEFINED.into()
    } else {
        0
    }
}

/// `STRTAB_BASE` (§6.3.24).
pub(super) fn strtab_base(features: &Features) -> u64 {
    mask!(StrtabBase: ra) | truncate(mask!(StrtabBase: addr), features.oas_bits())
}

/// `STRTAB_BASE_CFG` (§6.3.25).
pub(super) fn strtab_base_cfg(features: &Features) -> u64 {
    let mask = if features.st_level() == 0 {
        mask!(StrtabBaseCfg: log2size)
    } else {
        StrtabBaseCfg::DEFINED
    };
    mask.into()
}

/// `CMDQ_BASE` and `EVENTQ_BASE` (§6.3.26, §6.3.29).
pub(super) fn queue_base(features: &Features) -> u64 {
    let address = truncate(mask!(QueueBase: addr), features.oas_bits());
    mask!(QueueBase: hint | log2size) | address
}

/// `CMDQ_PROD` (§6.3.27).
pub(super) const CMDQ_PROD: u64 = CmdqProd::DEFINED as u64;
/// `CMDQ_CONS` (§6.3.28).
pub(super) const CMDQ_CONS: u64 = CmdqCons::DEFINED as u64;
/// `EVENTQ_PROD` and `EVENTQ_CONS`: index and overflow flag (§6.3.95, §6.3.96).
pub(super) const EVENTQ_INDEX: u64 = EventqIndex::DEFINED as u64;
