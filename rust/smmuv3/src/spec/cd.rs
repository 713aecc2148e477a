// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Context descriptors (§5.4) and Level 1 Context descriptors (§5.3).

use bilge::prelude::*;

use super::{layout, ste::Tg0};

/// `CD.TG1`, which is encoded differently from [`Tg0`].
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBits)]
pub enum Tg1 {
    /// No granule: ILLEGAL.
    Reserved = 0b00,
    /// 16KB.
    Gran16K = 0b01,
    /// 4KB.
    Gran4K = 0b10,
    /// 64KB.
    Gran64K = 0b11,
}

layout! {
    /// `CD`, bits 63:0 (§5.4).
    #[doc(alias = "CD")]
    CdWord0: u64 [64] {
        /// `T0SZ`.
        t0sz: u6,
        /// `TG0`.
        tg0: Tg0,
        /// `IR0`.
        ir0: u2,
        /// `OR0`.
        or0: u2,
        /// `SH0`.
        sh0: u2,
        /// `EPD0`.
        epd0: bool,
        /// `ENDI`.
        endi: bool,
        /// `T1SZ`.
        t1sz: u6,
        /// `TG1`.
        tg1: Tg1,
        /// `IR1`.
        ir1: u2,
        /// `OR1`.
        or1: u2,
        /// `SH1`.
        sh1: u2,
        /// `EPD1`.
        epd1: bool,
        /// `V`.
        v: bool,
        /// `IPS`.
        ips: u3,
        /// `AFFD`.
        affd: bool,
        /// `WXN`.
        wxn: bool,
        /// `UWXN`.
        uwxn: bool,
        /// `TBI0`.
        tbi0: bool,
        /// `TBI1`.
        tbi1: bool,
        /// `PAN`.
        pan: bool,
        /// `AA64`.
        aa64: bool,
        /// `HD`.
        hd: bool,
        /// `HA`.
        ha: bool,
        /// `S`.
        s: bool,
        /// `R`.
        r: bool,
        /// `A`.
        a: bool,
        /// `ASET`.
        aset: bool,
        /// `ASID`.
        asid: u16,
    }
}

layout! {
    /// `CD`, bits 127:64 and 191:128 (§5.4): one table each, `x` is 0 or 1.
    #[doc(alias = "CD")]
    CdTable: u64 [64] {
        /// `NSCFGx`.
        nscfg: bool,
        /// `HADx`.
        had: bool,
        /// `E0PDx`.
        e0pd: bool,
        /// `HAFT` of the first table, `AIE` of the second.
        haft: bool,
        /// `TTBx`, bits 51:4 of the address.
        ttb: u48,
        /// Bits 55:52 of `TTBx`, with VMSAv9-128 only.
        ttb_high: u4,
        reserved: u2,
        /// `PnCH` of the first table, `DS` of the second.
        pnch: bool,
        /// `EPAN` of the first table, `PIE` of the second.
        epan: bool,
        /// `HWUx59`.
        hwu59: bool,
        /// `HWUx60`.
        hwu60: bool,
        /// `HWUx61`.
        hwu61: bool,
        /// `HWUx62`.
        hwu62: bool,
    }
}

layout! {
    /// Level 1 Context descriptor (§5.3).
    #[doc(alias = "L1CD")]
    L1Cd: u64 [64] {
        /// `V`.
        v: bool,
        reserved: u11,
        /// `L2Ptr`, without the 12 bits that are 0.
        l2ptr: u44,
        reserved: u8,
    }
}

impl CdTable {
    /// `TTBx` as an address.
    #[inline]
    pub fn table(self) -> u64 {
        u64::from(self.ttb()) << 4
    }
}

impl L1Cd {
    /// `L2Ptr` as an address.
    #[inline]
    pub fn table(self) -> u64 {
        u64::from(self.l2ptr()) << 12
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cd_field_positions_match_spec() {
        CdWord0::check(&[
            ("t0sz", 5, 0),
            ("tg0", 7, 6),
            ("ir0", 9, 8),
            ("or0", 11, 10),
            ("sh0", 13, 12),
            ("epd0", 14, 14),
            ("endi", 15, 15),
            ("t1sz", 21, 16),
            ("tg1", 23, 22),
            ("ir1", 25, 24),
            ("or1", 27, 26),
            ("sh1", 29, 28),
            ("epd1", 30, 30),
            ("v", 31, 31),
            ("ips", 34, 32),
            ("affd", 35, 35),
            ("wxn", 36, 36),
            ("uwxn", 37, 37),
            ("tbi0", 38, 38),
            ("tbi1", 39, 39),
            ("pan", 40, 40),
            ("aa64", 41, 41),
            ("hd", 42, 42),
            ("ha", 43, 43),
            ("s", 44, 44),
            ("r", 45, 45),
            ("a", 46, 46),
            ("aset", 47, 47),
            ("asid", 63, 48),
        ]);
    }

    #[test]
    fn cd_ttb_positions_match_spec() {
        // bits 127:64 of the descriptor, less 64
        CdTable::check(&[
            ("nscfg", 64 - 64, 64 - 64),
            ("had", 65 - 64, 65 - 64),
            ("e0pd", 66 - 64, 66 - 64),
            ("haft", 67 - 64, 67 - 64),
            ("ttb", 115 - 64, 68 - 64),
            ("ttb_high", 119 - 64, 116 - 64),
            ("pnch", 122 - 64, 122 - 64),
            ("epan", 123 - 64, 123 - 64),
            ("hwu59", 124 - 64, 124 - 64),
            ("hwu60", 125 - 64, 125 - 64),
            ("hwu61", 126 - 64, 126 - 64),
            ("hwu62", 127 - 64, 127 - 64),
        ]);
        assert_eq!(CdTable::of(u64::MAX).table(), 0x000f_ffff_ffff_fff0);
    }

    #[test]
    fn l1cd_field_positions_match_spec() {
        L1Cd::check(&[("v", 0, 0), ("l2ptr", 55, 12)]);
        assert_eq!(L1Cd::of(u64::MAX).table(), 0x00ff_ffff_ffff_f000);
    }
}
