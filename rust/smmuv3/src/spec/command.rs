// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands (§4), one layout for all that have the same fields.

use bilge::prelude::*;

use super::layout;

/// `TG` of a `CMD_TLBI_*` by address (§4.4.1.1).
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBits)]
pub enum Granule {
    /// Not given: neither a range nor a level hint.
    None = 0b00,
    /// 4KB.
    Gran4K = 0b01,
    /// 16KB.
    Gran16K = 0b10,
    /// 64KB.
    Gran64K = 0b11,
}

/// `CMD_SYNC.CS`: how completion is signalled (§4.7.3).
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBits)]
pub enum CompletionType {
    /// `SIG_NONE`: by `CMDQ_CONS.RD` alone.
    SigNone = 0b00,
    /// `SIG_IRQ`: by an interrupt, wired or as an MSI.
    SigIrq = 0b01,
    /// `SIG_SEV`: by an event for `WFE`.
    SigSev = 0b10,
    /// No signal: ILLEGAL.
    Reserved = 0b11,
}

/// `CMD_PRI_RESP.Resp` (§4.5.2).
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBits)]
pub enum PriResponse {
    /// The request failed for good.
    ResponseFailure = 0b00,
    /// The request was not for these pages.
    InvalidRequest = 0b01,
    /// The pages are there.
    Success = 0b10,
    /// No response: ILLEGAL.
    Reserved = 0b11,
}

layout! {
    /// Bits 63:0 of a command that names a stream (§4.2, §4.3, §4.5, §4.6). Each
    /// command has some of the fields between opcode and `StreamID` only.
    #[doc(alias = "CMD_CFGI_STE")]
    #[doc(alias = "CMD_CFGI_STE_RANGE")]
    #[doc(alias = "CMD_CFGI_CD")]
    #[doc(alias = "CMD_CFGI_CD_ALL")]
    #[doc(alias = "CMD_ATC_INV")]
    StreamWord0: u64 [64] {
        /// Opcode.
        opcode: u8,
        reserved: u1,
        /// `Global`, of `CMD_ATC_INV`.
        global: bool,
        /// `SSec`.
        ssec: bool,
        /// `SSV`.
        ssv: bool,
        /// `SubstreamID`.
        ssid: u20,
        /// `StreamID`.
        sid: u32,
    }
}

layout! {
    /// Bits 127:64 of `CMD_CFGI_STE` and `CMD_CFGI_CD` (§4.3.1, §4.3.3).
    CfgiWord1: u64 [64] {
        /// `Leaf`.
        leaf: bool,
        reserved: u63,
    }
}

layout! {
    /// Bits 127:64 of `CMD_CFGI_STE_RANGE` and `CMD_CFGI_ALL` (§4.3.2, §4.3.6).
    #[doc(alias = "CMD_CFGI_ALL")]
    CfgiRangeWord1: u64 [64] {
        /// `Range`.
        range: u5,
        reserved: u59,
    }
}

layout! {
    /// Bits 63:0 of `CMD_TLBI_*` (§4.4).
    #[doc(alias = "CMD_TLBI_NH_ALL")]
    #[doc(alias = "CMD_TLBI_NH_ASID")]
    #[doc(alias = "CMD_TLBI_NH_VA")]
    #[doc(alias = "CMD_TLBI_NH_VAA")]
    #[doc(alias = "CMD_TLBI_S12_VMALL")]
    #[doc(alias = "CMD_TLBI_S2_IPA")]
    #[doc(alias = "CMD_TLBI_NSNH_ALL")]
    TlbiWord0: u64 [64] {
        /// Opcode.
        opcode: u8,
        reserved: u4,
        /// `NUM`.
        num: u5,
        reserved: u3,
        /// `SCALE`.
        scale: u6,
        reserved: u6,
        /// `VMID`.
        vmid: u16,
        /// `ASID`.
        asid: u16,
    }
}

layout! {
    /// Bits 127:64 of a `CMD_TLBI_*` by address (§4.4.1.1, §4.4.2).
    TlbiWord1: u64 [64] {
        /// `Leaf`.
        leaf: bool,
        reserved: u6,
        /// `TTL128`.
        ttl128: bool,
        /// `TTL`.
        ttl: u2,
        /// `TG`.
        tg: Granule,
        /// `Address`, bits 63:12.
        address: u52,
    }
}

layout! {
    /// Bits 127:64 of `CMD_ATC_INV` (§4.5.1).
    AtcInvWord1: u64 [64] {
        /// `Size`: log2 of the number of 4KB pages.
        size: u6,
        reserved: u6,
        /// `Address`, bits 63:12.
        address: u52,
    }
}

layout! {
    /// Bits 127:64 of `CMD_PRI_RESP` (§4.5.2).
    #[doc(alias = "CMD_PRI_RESP")]
    PriRespWord1: u64 [64] {
        /// `PRGIndex`.
        prgindex: u9,
        reserved: u3,
        /// `Resp`.
        resp: PriResponse,
        reserved: u50,
    }
}

layout! {
    /// Bits 63:0 of `CMD_SYNC` (§4.7.3).
    #[doc(alias = "CMD_SYNC")]
    SyncWord0: u64 [64] {
        /// Opcode.
        opcode: u8,
        reserved: u4,
        /// `CS`.
        cs: CompletionType,
        reserved: u8,
        /// `MSH`.
        msh: u2,
        /// `MSIAttr`.
        msiattr: u4,
        reserved: u4,
        /// `MSIData`.
        msidata: u32,
    }
}

layout! {
    /// Bits 127:64 of `CMD_SYNC` (§4.7.3).
    SyncWord1: u64 [64] {
        reserved: u2,
        /// `MSIAddress`, bits 55:2.
        msiaddress: u54,
        reserved: u8,
    }
}

impl TlbiWord1 {
    /// `Address` as an address.
    #[inline]
    pub fn page(self) -> u64 {
        u64::from(self.address()) << 12
    }
}

impl SyncWord1 {
    /// `MSIAddress` as an address.
    #[inline]
    pub fn msi(self) -> u64 {
        u64::from(self.msiaddress()) << 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_stream_id_positions_match_spec() {
        StreamWord0::check(&[
            ("opcode", 7, 0),
            ("global", 9, 9),
            ("ssec", 10, 10),
            ("ssv", 11, 11),
            ("ssid", 31, 12),
            ("sid", 63, 32),
        ]);
        CfgiWord1::check(&[("leaf", 64 - 64, 64 - 64)]);
        CfgiRangeWord1::check(&[("range", 68 - 64, 64 - 64)]);
    }

    #[test]
    fn tlbi_field_positions_match_spec() {
        TlbiWord0::check(&[
            ("opcode", 7, 0),
            ("num", 16, 12),
            ("scale", 25, 20),
            ("vmid", 47, 32),
            ("asid", 63, 48),
        ]);
        TlbiWord1::check(&[
            ("leaf", 64 - 64, 64 - 64),
            ("ttl128", 71 - 64, 71 - 64),
            ("ttl", 73 - 64, 72 - 64),
            ("tg", 75 - 64, 74 - 64),
            ("address", 127 - 64, 76 - 64),
        ]);
        assert_eq!(TlbiWord1::of(u64::MAX).page(), 0xffff_ffff_ffff_f000);
    }

    #[test]
    fn ats_command_field_positions_match_spec() {
        AtcInvWord1::check(&[("size", 69 - 64, 64 - 64), ("address", 127 - 64, 76 - 64)]);
        PriRespWord1::check(&[("prgindex", 72 - 64, 64 - 64), ("resp", 77 - 64, 76 - 64)]);
    }

    #[test]
    fn cmd_sync_field_positions_match_spec() {
        SyncWord0::check(&[
            ("opcode", 7, 0),
            ("cs", 13, 12),
            ("msh", 23, 22),
            ("msiattr", 27, 24),
            ("msidata", 63, 32),
        ]);
        SyncWord1::check(&[("msiaddress", 119 - 64, 66 - 64)]);
        assert_eq!(SyncWord1::of(u64::MAX).msi(), 0x00ff_ffff_ffff_fffc);
    }
}
