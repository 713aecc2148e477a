// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Command opcodes (§4.1.1) that are legal on some Non-secure Command queue.

/// `CMD_PREFETCH_CONFIG`.
pub const PREFETCH_CONFIG: u8 = 0x01;
/// `CMD_PREFETCH_ADDR`.
pub const PREFETCH_ADDR: u8 = 0x02;
/// `CMD_CFGI_STE`.
pub const CFGI_STE: u8 = 0x03;
/// `CMD_CFGI_STE_RANGE`, and `CMD_CFGI_ALL` with Range 31.
pub const CFGI_STE_RANGE: u8 = 0x04;
/// `CMD_CFGI_CD`.
pub const CFGI_CD: u8 = 0x05;
/// `CMD_CFGI_CD_ALL`.
pub const CFGI_CD_ALL: u8 = 0x06;
/// `CMD_CFGI_VMS_PIDM`.
pub const CFGI_VMS_PIDM: u8 = 0x07;
/// `CMD_TLBI_NH_ALL`.
pub const TLBI_NH_ALL: u8 = 0x10;
/// `CMD_TLBI_NH_ASID`.
pub const TLBI_NH_ASID: u8 = 0x11;
/// `CMD_TLBI_NH_VA`.
pub const TLBI_NH_VA: u8 = 0x12;
/// `CMD_TLBI_NH_VAA`.
pub const TLBI_NH_VAA: u8 = 0x13;
/// `CMD_TLBI_EL2_ALL`.
pub const TLBI_EL2_ALL: u8 = 0x20;
/// `CMD_TLBI_EL2_ASID`.
pub const TLBI_EL2_ASID: u8 = 0x21;
/// `CMD_TLBI_EL2_VA`.
pub const TLBI_EL2_VA: u8 = 0x22;
/// `CMD_TLBI_EL2_VAA`.
pub const TLBI_EL2_VAA: u8 = 0x23;
/// `CMD_TLBI_S12_VMALL`.
pub const TLBI_S12_VMALL: u8 = 0x28;
/// `CMD_TLBI_S2_IPA`.
pub const TLBI_S2_IPA: u8 = 0x2a;
/// `CMD_TLBI_NSNH_ALL`.
pub const TLBI_NSNH_ALL: u8 = 0x30;
/// `CMD_ATC_INV`.
pub const ATC_INV: u8 = 0x40;
/// `CMD_PRI_RESP`.
pub const PRI_RESP: u8 = 0x41;
/// `CMD_RESUME`.
pub const RESUME: u8 = 0x44;
/// `CMD_STALL_TERM`.
pub const STALL_TERM: u8 = 0x45;
/// `CMD_SYNC`.
pub const SYNC: u8 = 0x46;
/// `CMD_DPTI_ALL`.
pub const DPTI_ALL: u8 = 0x70;
/// `CMD_DPTI_PA`.
pub const DPTI_PA: u8 = 0x73;

/// Returns whether commands with this opcode only invalidate entries of a host's caches.
pub(crate) const fn is_invalidation(opcode: u8) -> bool {
    matches!(
        opcode,
        CFGI_CD
            | CFGI_CD_ALL
            | TLBI_NH_ALL
            | TLBI_NH_ASID
            | TLBI_NH_VA
            | TLBI_NH_VAA
            | TLBI_NSNH_ALL
            | ATC_INV
    )
}
