// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands that are ILLEGAL, but that existing software relies on.

use super::{opcode::*, tlbi, Command};
use crate::features::Features;

/// The ILLEGAL commands that are consumed all the same.
///
/// It stands beside [`Features`] and not in them: the ID registers that a guest
/// reads do not change with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leniency {
    /// None.
    #[default]
    Strict,
    /// `CMD_TLBI_EL2_*` where `IDR0.Hyp` is 0 (§4.4.2.7 to §4.4.2.10).
    ///
    /// EDK2's `SmmuDxe` issues `CMD_TLBI_EL2_ALL` with any ID registers,
    /// and gives the SMMU up if that is an error.
    El2Tlbi,
}

impl Leniency {
    /// Returns the command that replaces one that is ILLEGAL, or `None` if that one
    /// stops the queue.
    ///
    /// All entries are invalidated, not only those that the command names: that is always
    /// permitted (§4.4), and it leaves no operand that could be out of range.
    pub(crate) const fn instead(self, opcode: u8, features: &Features) -> Option<Command> {
        match (self, opcode) {
            (Self::El2Tlbi, TLBI_EL2_ALL..=TLBI_EL2_VAA) if !features.hyp() => {
                Some(tlbi::nsnh_all())
            }
            _ => None,
        }
    }
}
