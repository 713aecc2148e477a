// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Commands as the trace events show them, which tools parse.

use std::ffi::CStr;

use smmuv3::command::{opcode::*, Command};

::trace::include_trace!("hw_arm");

/// Name of an opcode in `smmuv3_cmdq_opcode` and `smmuv3_cmdq_consume_error`.
pub const fn name(opcode: u8) -> &'static CStr {
    match opcode {
        PREFETCH_CONFIG => c"SMMU_CMD_PREFETCH_CONFIG",
        PREFETCH_ADDR => c"SMMU_CMD_PREFETCH_ADDR",
        CFGI_STE => c"SMMU_CMD_CFGI_STE",
        CFGI_STE_RANGE => c"SMMU_CMD_CFGI_STE_RANGE",
        CFGI_CD => c"SMMU_CMD_CFGI_CD",
        CFGI_CD_ALL => c"SMMU_CMD_CFGI_CD_ALL",
        TLBI_NH_ALL => c"SMMU_CMD_TLBI_NH_ALL",
        TLBI_NH_ASID => c"SMMU_CMD_TLBI_NH_ASID",
        TLBI_NH_VA => c"SMMU_CMD_TLBI_NH_VA",
        TLBI_NH_VAA => c"SMMU_CMD_TLBI_NH_VAA",
        0x18 => c"SMMU_CMD_TLBI_EL3_ALL",
        0x1a => c"SMMU_CMD_TLBI_EL3_VA",
        TLBI_EL2_ALL => c"SMMU_CMD_TLBI_EL2_ALL",
        TLBI_EL2_ASID => c"SMMU_CMD_TLBI_EL2_ASID",
        TLBI_EL2_VA => c"SMMU_CMD_TLBI_EL2_VA",
        TLBI_EL2_VAA => c"SMMU_CMD_TLBI_EL2_VAA",
        TLBI_S12_VMALL => c"SMMU_CMD_TLBI_S12_VMALL",
        TLBI_S2_IPA => c"SMMU_CMD_TLBI_S2_IPA",
        TLBI_NSNH_ALL => c"SMMU_CMD_TLBI_NSNH_ALL",
        ATC_INV => c"SMMU_CMD_ATC_INV",
        PRI_RESP => c"SMMU_CMD_PRI_RESP",
        RESUME => c"SMMU_CMD_RESUME",
        STALL_TERM => c"SMMU_CMD_STALL_TERM",
        SYNC => c"SMMU_CMD_SYNC",
        0 | 0x47.. => c"INVALID",
        _ => c"UNKNOWN",
    }
}

/// Name of an event number in `smmuv3_propagate_event`.
pub const fn event(number: u8) -> &'static CStr {
    match number {
        0x01 => c"SMMU_EVT_F_UUT",
        0x02 => c"SMMU_EVT_C_BAD_STREAMID",
        0x03 => c"SMMU_EVT_F_STE_FETCH",
        0x04 => c"SMMU_EVT_C_BAD_STE",
        0x05 => c"SMMU_EVT_F_BAD_ATS_TREQ",
        0x06 => c"SMMU_EVT_F_STREAM_DISABLED",
        0x07 => c"SMMU_EVT_F_TRANS_FORBIDDEN",
        0x08 => c"SMMU_EVT_C_BAD_SUBSTREAMID",
        0x09 => c"SMMU_EVT_F_CD_FETCH",
        0x0a => c"SMMU_EVT_C_BAD_CD",
        0x0b => c"SMMU_EVT_F_WALK_EABT",
        0x10 => c"SMMU_EVT_F_TRANSLATION",
        0x11 => c"SMMU_EVT_F_ADDR_SIZE",
        0x12 => c"SMMU_EVT_F_ACCESS",
        0x13 => c"SMMU_EVT_F_PERMISSION",
        0x20 => c"SMMU_EVT_F_TLB_CONFLICT",
        0x21 => c"SMMU_EVT_F_CFG_CONFLICT",
        0x24 => c"SMMU_EVT_E_PAGE_REQ",
        0x25.. => c"INVALID",
        _ => c"UNKNOWN",
    }
}

/// The event of each kind of command, with its parameters. VMIDs count if there
/// is a stage 2.
pub fn command(words: [u64; 2], command: Option<&Command>, stage2: bool) {
    let sid = (words[0] >> 32) as u32;
    let vmid = if stage2 { i32::from(sid as u16) } else { -1 };
    let asid = (words[0] >> 48) as i32;
    match command {
        Some(Command::CfgiSte { .. }) => trace::trace_smmuv3_cmdq_cfgi_ste(sid as i32),
        Some(Command::CfgiSteRange { first, last }) => {
            trace::trace_smmuv3_cmdq_cfgi_ste_range(*first as i32, *last as i32);
        }
        Some(Command::Forward { .. }) => match words[0] as u8 {
            CFGI_CD | CFGI_CD_ALL => trace::trace_smmuv3_cmdq_cfgi_cd(sid),
            TLBI_NH_ALL => trace::trace_smmuv3_cmdq_tlbi_nh(vmid),
            TLBI_NH_ASID => trace::trace_smmuv3_cmdq_tlbi_nh_asid(asid),
            TLBI_NSNH_ALL => trace::trace_smmuv3_cmdq_tlbi_nsnh(),
            TLBI_S12_VMALL => trace::trace_smmuv3_cmdq_tlbi_s12_vmid(vmid),
            TLBI_NH_VA => range(words, vmid, asid, 1),
            TLBI_NH_VAA => range(words, vmid, -1, 1),
            TLBI_S2_IPA => range(words, vmid, -1, 2),
            _ => {}
        },
        _ => {}
    }
}

/// Invalidation by address (section 4.4.1.1).
fn range(words: [u64; 2], vmid: i32, asid: i32, stage: i32) {
    let field = |word: u64, low: u32, width: u32| (word >> low) & ((1 << width) - 1);
    let (num, scale) = (field(words[0], 12, 5), field(words[0], 20, 5));
    let (ttl, granule) = (field(words[1], 8, 2), field(words[1], 10, 2));
    let pages = if granule == 0 { 1 } else { (num + 1) << scale };
    trace::trace_smmuv3_range_inval(
        vmid,
        asid,
        words[1] & !0xfff,
        granule as u8,
        pages,
        ttl as u8,
        words[1] & 1 != 0,
        stage,
    );
}
