// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Global errors (§7.5, §6.3.19, §6.3.20) and the Command queue's error codes (§7.1).

use crate::{
    features::Features,
    spec::{mask, register::Gerror},
};

/// `GERROR.CMDQ_ERR`: a command cannot be processed, `CMDQ_CONS.ERR` says why.
pub const CMDQ_ERR: u32 = mask!(Gerror: cmdq_err);
/// `GERROR.EVENTQ_ABT_ERR`: an access to the Event queue aborted.
pub const EVENTQ_ABT_ERR: u32 = mask!(Gerror: eventq_abt_err);
/// `GERROR.PRIQ_ABT_ERR`: an access to the PRI queue aborted.
pub const PRIQ_ABT_ERR: u32 = mask!(Gerror: priq_abt_err);
/// `GERROR.MSI_CMDQ_ABT_ERR`: the MSI of a `CMD_SYNC` aborted.
pub const MSI_CMDQ_ABT_ERR: u32 = mask!(Gerror: msi_cmdq_abt_err);
/// `GERROR.MSI_EVENTQ_ABT_ERR`: an MSI of the Event queue aborted.
pub const MSI_EVENTQ_ABT_ERR: u32 = mask!(Gerror: msi_eventq_abt_err);
/// `GERROR.MSI_PRIQ_ABT_ERR`: an MSI of the PRI queue aborted.
pub const MSI_PRIQ_ABT_ERR: u32 = mask!(Gerror: msi_priq_abt_err);
/// `GERROR.MSI_GERROR_ABT_ERR`: a GERROR MSI aborted.
pub const MSI_GERROR_ABT_ERR: u32 = mask!(Gerror: msi_gerror_abt_err);
/// `GERROR.SFM_ERR`: Service failure mode was entered.
pub const SFM_ERR: u32 = mask!(Gerror: sfm_err);
/// `GERROR.CMDQP_ERR`: an error on a Command queue control page.
pub const CMDQP_ERR: u32 = mask!(Gerror: cmdqp_err);
/// `GERROR.DPT_ERR`: a Device Permission Table lookup fault.
pub const DPT_ERR: u32 = mask!(Gerror: dpt_err);

/// Returns the bits of `GERROR` and `GERRORN` that exist with these features; the
/// others are RES0 in both.
pub const fn defined(features: &Features) -> u32 {
    let mut bits = CMDQ_ERR | EVENTQ_ABT_ERR | SFM_ERR;
    if features.pri() {
        bits |= PRIQ_ABT_ERR;
    }
    if features.msi() {
        bits |= MSI_CMDQ_ABT_ERR | MSI_EVENTQ_ABT_ERR | MSI_GERROR_ABT_ERR;
        if features.pri() {
            bits |= MSI_PRIQ_ABT_ERR;
        }
    }
    if features.ecmdq() {
        bits |= CMDQP_ERR;
    }
    if features.dpt() {
        bits |= DPT_ERR;
    }
    bits
}

/// The reason that a command was not consumed: `CMDQ_CONS.ERR` (§7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandError {
    /// `CERROR_ILL`: unknown opcode or ILLEGAL parameters.
    Illegal,
    /// `CERROR_ABT`: the command could not be fetched. Software tries again
    /// from the same command, which also makes it the answer to a passing
    /// failure of the host.
    Abort,
    /// `CERROR_ATC_INV_SYNC`: on a `CMD_SYNC` only, a preceding `CMD_ATC_INV` did
    /// not complete (§3.9.1.4).
    AtcInvSync,
}

impl CommandError {
    /// The one with the largest code.
    pub(crate) const LARGEST: Self = Self::AtcInvSync;

    /// Returns the value of `CMDQ_CONS.ERR`.
    #[inline]
    pub const fn code(self) -> u32 {
        match self {
            Self::Illegal => 1,
            Self::Abort => 2,
            Self::AtcInvSync => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gerror_defines_only_implemented_bits() {
        let base = Features::arm_smmuv3();
        assert_eq!(defined(&base), 0x105);
        assert_eq!(defined(&base.with_msi(true)), 0x1b5);
        assert_eq!(defined(&base.with_pri(true)), 0x10d);
        assert_eq!(defined(&base.with_msi(true).with_pri(true)), 0x1fd);
        assert_eq!(defined(&base.with_ecmdq(true).with_dpt(true)), 0x705);
    }
}
