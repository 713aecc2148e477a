// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Text of trace events about commands and events. Tools parse it.

use std::ffi::CStr;

use smmuv3::{
    cmdq::Observer,
    command::{opcode::*, Command, Invalidation, Tlbi},
    features::Features,
    gerror::CommandError,
    queue::QueueLayout,
    registers::CmdqRun,
};

use crate::guest_errors::GuestErrors;

::trace::include_trace!("hw_arm");

/// Returns the name of an opcode in `smmuv3_cmdq_opcode` and `smmuv3_cmdq_consume_error`.
pub const fn command_name(opcode: u8) -> &'static CStr {
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

/// Returns the name of an event number in `smmuv3_propagate_event`.
pub const fn event_name(number: u8) -> &'static CStr {
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

/// Returns whether a trace event of single commands is enabled.
fn are_commands_traced() -> bool {
    trace::trace_smmuv3_cmdq_opcode_enabled()
        || trace::trace_smmuv3_cmdq_cfgi_ste_enabled()
        || trace::trace_smmuv3_cmdq_cfgi_ste_range_enabled()
        || trace::trace_smmuv3_cmdq_cfgi_cd_enabled()
        || trace::trace_smmuv3_cmdq_tlbi_nh_enabled()
        || trace::trace_smmuv3_cmdq_tlbi_nh_asid_enabled()
        || trace::trace_smmuv3_cmdq_tlbi_nsnh_enabled()
        || trace::trace_smmuv3_cmdq_tlbi_s12_vmid_enabled()
        || trace::trace_smmuv3_range_inval_enabled()
}

/// Traces a command with its parameters. VMIDs count if there is a stage 2.
fn trace_command(opcode: u8, command: Option<&Command>, stage2: bool) {
    match command {
        Some(Command::CfgiSte { sid }) => trace::trace_smmuv3_cmdq_cfgi_ste(*sid as i32),
        Some(Command::CfgiSteRange { first, last }) => {
            trace::trace_smmuv3_cmdq_cfgi_ste_range(*first as i32, *last as i32);
        }
        Some(Command::Invalidate(Invalidation::Cfgi(cfgi))) => {
            trace::trace_smmuv3_cmdq_cfgi_cd(cfgi.sid());
        }
        // a command in place of one about EL2 is not the one that the guest issued
        Some(Command::Invalidate(Invalidation::Tlbi(tlbi))) if tlbi.opcode() == opcode => {
            trace_tlbi(tlbi, stage2);
        }
        _ => {}
    }
}

fn trace_tlbi(tlbi: &Tlbi, stage2: bool) {
    let vmid = if stage2 { i32::from(tlbi.vmid()) } else { -1 };
    let asid = i32::from(tlbi.asid());
    match tlbi.opcode() {
        TLBI_NH_ALL => trace::trace_smmuv3_cmdq_tlbi_nh(vmid),
        TLBI_NH_ASID => trace::trace_smmuv3_cmdq_tlbi_nh_asid(asid),
        TLBI_NSNH_ALL => trace::trace_smmuv3_cmdq_tlbi_nsnh(),
        TLBI_S12_VMALL => trace::trace_smmuv3_cmdq_tlbi_s12_vmid(vmid),
        TLBI_NH_VA => trace_range(tlbi, vmid, asid, 1),
        TLBI_NH_VAA => trace_range(tlbi, vmid, -1, 1),
        TLBI_S2_IPA => trace_range(tlbi, vmid, -1, 2),
        _ => {}
    }
}

/// Traces an invalidation by address (§4.4.1.1).
fn trace_range(tlbi: &Tlbi, vmid: i32, asid: i32, stage: i32) {
    let pages = (u64::from(tlbi.num()) + 1) << tlbi.scale();
    trace::trace_smmuv3_range_inval(
        vmid,
        asid,
        tlbi.address(),
        tlbi.tg(),
        pages,
        tlbi.ttl(),
        tlbi.leaf(),
        stage,
    );
}

/// Traces one run of the Command queue's consumer.
pub struct CmdqObserver<'a> {
    guest_errors: &'a GuestErrors,
    /// VMIDs count, because there is a stage 2
    has_vmids: bool,
    /// A trace event of single commands is enabled. Checked once a run, because a check for
    /// each command costs as much as executing it.
    are_commands_traced: bool,
}

/// Returns index and wrap flag of a pointer of the Command queue.
fn split(ring: &QueueLayout, pointer: u32) -> (u32, u8) {
    let index = ring.index(pointer);
    (index, u8::from(pointer & ring.pointer_mask() != index))
}

impl<'a> CmdqObserver<'a> {
    /// Returns the observer for an SMMU.
    pub fn new(guest_errors: &'a GuestErrors, features: &Features) -> Self {
        Self {
            guest_errors,
            has_vmids: features.s2p(),
            are_commands_traced: are_commands_traced(),
        }
    }
}

impl Observer for CmdqObserver<'_> {
    fn activated(&mut self, toggled: u32, gerror: u32) {
        trace::trace_smmuv3_write_gerror(toggled, gerror);
    }

    fn consume_begin(&mut self, run: &CmdqRun) {
        let (prod, prod_wrap) = split(run.layout(), run.prod());
        let (cons, cons_wrap) = split(run.layout(), run.cons());
        trace::trace_smmuv3_cmdq_consume(prod, cons, prod_wrap, cons_wrap);
    }

    #[inline]
    fn command(&mut self, opcode: u8, command: Option<&Command>) {
        if self.are_commands_traced {
            trace::trace_smmuv3_cmdq_opcode(command_name(opcode));
            trace_command(opcode, command, self.has_vmids);
        }
    }

    fn tolerated(&mut self, opcode: u8) {
        self.guest_errors.tolerated_command(command_name(opcode));
    }

    fn error(&mut self, opcode: u8, code: CommandError) {
        trace::trace_smmuv3_cmdq_consume_error(command_name(opcode), code.code() as u8);
    }

    fn consume_end(&mut self, run: &CmdqRun) {
        let (prod, prod_wrap) = split(run.layout(), run.prod());
        let (cons, cons_wrap) = split(run.layout(), run.cons());
        trace::trace_smmuv3_cmdq_consume_out(prod, cons, prod_wrap, cons_wrap);
    }
}
