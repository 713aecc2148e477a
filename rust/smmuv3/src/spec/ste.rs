// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Stream table entries (§5.2) and Level 1 Stream table descriptors (§5.1).

use bilge::prelude::*;

use super::layout;

/// `STE.Config`: the translation of a stream's transactions.
#[bitsize(3)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBits)]
pub enum SteConfig {
    /// Both stages bypassed.
    Bypass = 0b100,
    /// Stage 1 translates.
    Stage1 = 0b101,
    /// Stage 2 translates.
    Stage2 = 0b110,
    /// Both stages translate.
    Nested = 0b111,
    /// Transactions abort, for every value of the lower two bits.
    #[fallback]
    Abort = 0b000,
}

/// `STE.S1Fmt`: format of the table of Context descriptors.
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBits)]
pub enum S1Fmt {
    /// Two levels, the second of 4KB.
    TwoLevel4K = 0b01,
    /// Two levels, the second of 64KB.
    TwoLevel64K = 0b10,
    /// One level; 0b11 is Reserved and behaves as this.
    #[fallback]
    Linear = 0b00,
}

/// `STE.S1DSS`: the treatment of transactions without a `SubstreamID` where there are
/// substreams.
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBits)]
pub enum S1Dss {
    /// They bypass stage 1.
    Bypass = 0b01,
    /// They use the Context descriptor of substream 0.
    Substream0 = 0b10,
    /// They are terminated; 0b11 is Reserved and behaves as this.
    #[fallback]
    Terminate = 0b00,
}

/// `STE.EATS`: permission of ATS.
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBits)]
pub enum Eats {
    /// None.
    Disabled = 0b00,
    /// Full ATS.
    Full = 0b01,
    /// Split-stage ATS.
    SplitStage = 0b10,
    /// Full ATS with checks by the Device Permission Table.
    DptChecked = 0b11,
}

/// `STE.S2TG`: granule of stage 2. `CD.TG0` is encoded in the same way.
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBits)]
pub enum Tg0 {
    /// 4KB.
    Gran4K = 0b00,
    /// 64KB.
    Gran64K = 0b01,
    /// 16KB.
    Gran16K = 0b10,
    /// No granule: ILLEGAL.
    Reserved = 0b11,
}

layout! {
    /// `STE`, bits 63:0 (§5.2).
    #[doc(alias = "STE")]
    SteWord0: u64 [64] {
        /// `V`.
        v: bool,
        /// `Config`.
        config: SteConfig,
        /// `S1Fmt`.
        s1fmt: S1Fmt,
        /// `S1ContextPtr`, without the 6 bits that are 0.
        s1contextptr: u50,
        reserved: u3,
        /// `S1CDMax`.
        s1cdmax: u5,
    }
}

layout! {
    /// `STE`, bits 127:64 (§5.2).
    SteWord1: u64 [64] {
        /// `S1DSS`.
        s1dss: S1Dss,
        /// `S1CIR`.
        s1cir: u2,
        /// `S1COR`.
        s1cor: u2,
        /// `S1CSH`.
        s1csh: u2,
        /// `S2HWU59`.
        s2hwu59: bool,
        /// `S2HWU60`.
        s2hwu60: bool,
        /// `S2HWU61`.
        s2hwu61: bool,
        /// `S2HWU62`.
        s2hwu62: bool,
        /// `DRE`.
        dre: bool,
        /// `CONT`.
        cont: u4,
        /// `DCP`.
        dcp: bool,
        /// `PPAR`.
        ppar: bool,
        /// `MEV`.
        mev: bool,
        /// `SW_RESERVED`: software's own.
        software: u4,
        /// `S1PIE`.
        s1pie: bool,
        /// `S2FWB`.
        s2fwb: bool,
        /// `S1MPAM`.
        s1mpam: bool,
        /// `S1STALLD`.
        s1stalld: bool,
        /// `EATS`.
        eats: Eats,
        /// `STRW`.
        strw: u2,
        /// `MemAttr`.
        memattr: u4,
        /// `MTCFG`.
        mtcfg: bool,
        /// `ALLOCCFG`.
        alloccfg: u4,
        reserved: u3,
        /// `SHCFG`.
        shcfg: u2,
        /// `NSCFG`.
        nscfg: u2,
        /// `PRIVCFG`.
        privcfg: u2,
        /// `INSTCFG`.
        instcfg: u2,
        /// IMPLEMENTATION DEFINED.
        implementation: u12,
    }
}

layout! {
    /// `STE`, bits 191:128 (§5.2).
    SteWord2: u64 [64] {
        /// `S2VMID`.
        s2vmid: u16,
        /// IMPLEMENTATION DEFINED.
        implementation: u16,
        /// `S2T0SZ`.
        s2t0sz: u6,
        /// `S2SL0`.
        s2sl0: u2,
        /// `S2IR0`.
        s2ir0: u2,
        /// `S2OR0`.
        s2or0: u2,
        /// `S2SH0`.
        s2sh0: u2,
        /// `S2TG`.
        s2tg: Tg0,
        /// `S2PS`.
        s2ps: u3,
        /// `S2AA64`.
        s2aa64: bool,
        /// `S2ENDI`.
        s2endi: bool,
        /// `S2AFFD`.
        s2affd: bool,
        /// `S2PTW`.
        s2ptw: bool,
        /// `S2HD`.
        s2hd: bool,
        /// `S2HA`.
        s2ha: bool,
        /// `S2S`.
        s2s: bool,
        /// `S2R`.
        s2r: bool,
        /// `S2HAFT`.
        s2haft: bool,
        /// `S2PIE`.
        s2pie: bool,
        /// `S2POE`.
        s2poe: bool,
        /// `DPT_VMATCH`.
        dpt_vmatch: u2,
    }
}

layout! {
    /// `STE`, bits 255:192 (§5.2).
    SteWord3: u64 [64] {
        /// `S2NSW`.
        s2nsw: bool,
        /// `S2NSA`.
        s2nsa: bool,
        /// `S2SL0_2`.
        s2sl0_2: bool,
        /// `S2DS`.
        s2ds: bool,
        /// `S2TTB`, bits 51:4 of the address.
        s2ttb: u48,
        /// Bits 55:52 of `S2TTB`, with VMSAv9-128 only.
        s2ttb_high: u4,
        reserved: u5,
        /// `S2SKL`.
        s2skl: u2,
        reserved: u1,
    }
}

layout! {
    /// Level 1 Stream table descriptor (§5.1).
    #[doc(alias = "L1STD")]
    L1Std: u64 [64] {
        /// `Span`.
        span: u5,
        reserved: u1,
        /// `L2Ptr`, without the 6 bits that are 0.
        l2ptr: u50,
        reserved: u8,
    }
}

impl SteWord0 {
    /// `S1ContextPtr` as an address.
    #[inline]
    pub fn context_table(self) -> u64 {
        u64::from(self.s1contextptr()) << 6
    }
}

impl SteWord3 {
    /// `S2TTB` as an address.
    #[inline]
    pub fn table(self) -> u64 {
        u64::from(self.s2ttb()) << 4
    }
}

impl L1Std {
    /// `L2Ptr` as an address.
    #[inline]
    pub fn table(self) -> u64 {
        u64::from(self.l2ptr()) << 6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ste_field_positions_match_spec() {
        SteWord0::check(&[
            ("v", 0, 0),
            ("config", 3, 1),
            ("s1fmt", 5, 4),
            ("s1contextptr", 55, 6),
            ("s1cdmax", 63, 59),
        ]);
        // bits 127:64 of the entry, less 64
        SteWord1::check(&[
            ("s1dss", 65 - 64, 64 - 64),
            ("s1cir", 67 - 64, 66 - 64),
            ("s1cor", 69 - 64, 68 - 64),
            ("s1csh", 71 - 64, 70 - 64),
            ("s2hwu59", 72 - 64, 72 - 64),
            ("s2hwu60", 73 - 64, 73 - 64),
            ("s2hwu61", 74 - 64, 74 - 64),
            ("s2hwu62", 75 - 64, 75 - 64),
            ("dre", 76 - 64, 76 - 64),
            ("cont", 80 - 64, 77 - 64),
            ("dcp", 81 - 64, 81 - 64),
            ("ppar", 82 - 64, 82 - 64),
            ("mev", 83 - 64, 83 - 64),
            ("software", 87 - 64, 84 - 64),
            ("s1pie", 88 - 64, 88 - 64),
            ("s2fwb", 89 - 64, 89 - 64),
            ("s1mpam", 90 - 64, 90 - 64),
            ("s1stalld", 91 - 64, 91 - 64),
            ("eats", 93 - 64, 92 - 64),
            ("strw", 95 - 64, 94 - 64),
            ("memattr", 99 - 64, 96 - 64),
            ("mtcfg", 100 - 64, 100 - 64),
            ("alloccfg", 104 - 64, 101 - 64),
            ("shcfg", 109 - 64, 108 - 64),
            ("nscfg", 111 - 64, 110 - 64),
            ("privcfg", 113 - 64, 112 - 64),
            ("instcfg", 115 - 64, 114 - 64),
            ("implementation", 127 - 64, 116 - 64),
        ]);
    }

    #[test]
    fn ste_stage2_field_positions_match_spec() {
        SteWord2::check(&[
            ("s2vmid", 143 - 128, 128 - 128),
            ("implementation", 159 - 128, 144 - 128),
            ("s2t0sz", 165 - 128, 160 - 128),
            ("s2sl0", 167 - 128, 166 - 128),
            ("s2ir0", 169 - 128, 168 - 128),
            ("s2or0", 171 - 128, 170 - 128),
            ("s2sh0", 173 - 128, 172 - 128),
            ("s2tg", 175 - 128, 174 - 128),
            ("s2ps", 178 - 128, 176 - 128),
            ("s2aa64", 179 - 128, 179 - 128),
            ("s2endi", 180 - 128, 180 - 128),
            ("s2affd", 181 - 128, 181 - 128),
            ("s2ptw", 182 - 128, 182 - 128),
            ("s2hd", 183 - 128, 183 - 128),
            ("s2ha", 184 - 128, 184 - 128),
            ("s2s", 185 - 128, 185 - 128),
            ("s2r", 186 - 128, 186 - 128),
            ("s2haft", 187 - 128, 187 - 128),
            ("s2pie", 188 - 128, 188 - 128),
            ("s2poe", 189 - 128, 189 - 128),
            ("dpt_vmatch", 191 - 128, 190 - 128),
        ]);
        SteWord3::check(&[
            ("s2nsw", 192 - 192, 192 - 192),
            ("s2nsa", 193 - 192, 193 - 192),
            ("s2sl0_2", 194 - 192, 194 - 192),
            ("s2ds", 195 - 192, 195 - 192),
            ("s2ttb", 243 - 192, 196 - 192),
            ("s2ttb_high", 247 - 192, 244 - 192),
            ("s2skl", 254 - 192, 253 - 192),
        ]);
        assert_eq!(SteWord3::of(u64::MAX).table(), 0x000f_ffff_ffff_fff0);
    }

    #[test]
    fn l1std_field_positions_match_spec() {
        L1Std::check(&[("span", 4, 0), ("l2ptr", 55, 6)]);
        assert_eq!(L1Std::of(u64::MAX).table(), 0x00ff_ffff_ffff_ffc0);
        assert_eq!(
            SteWord0::of(u64::MAX).context_table(),
            0x00ff_ffff_ffff_ffc0
        );
    }
}
