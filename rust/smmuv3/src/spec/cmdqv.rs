// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Registers of CMDQ virtualization (CMDQV) as NVIDIA's Tegra241 has it.
//!
//! No hardware specification is public. Offsets, fields and their functions are taken
//! from Linux's driver (`drivers/iommu/arm/arm-smmu-v3/tegra241-cmdqv.c`, 7.3) and from
//! QEMU's device (`hw/arm/tegra241-cmdqv.h`, 11.1), and the names are theirs. Bits that
//! neither names are called `reserved`.
//!
//! `VCMDQ_CONS_INDX` and `VCMDQ_PROD_INDX` have the layouts of the Command queue's
//! registers: [`CmdqCons`](super::register::CmdqCons) and
//! [`CmdqProd`](super::register::CmdqProd).

use bilge::prelude::*;

use super::layout;

layout! {
    /// `CONFIG` of the CMDQV, at 0x000 of the CONFIG page.
    CmdqvConfig: u32 [32] {
        /// `CMDQV_EN`: VINTFs and queues can be enabled.
        cmdqv_en: bool,
        /// `CMDQV_PER_CMD_OFFSET`.
        per_cmd_offset: u3,
        /// `CMDQV_MAX_CLK_BATCH`.
        max_clk_batch: u8,
        /// `CMDQV_MAX_CMD_BATCH`.
        max_cmd_batch: u8,
        /// `CONS_DRAM_EN`.
        cons_dram_en: bool,
        reserved: u11,
    }
}

layout! {
    /// `PARAM`, at 0x004 of the CONFIG page: sizes, as powers of two.
    CmdqvParam: u32 [32] {
        /// `CMDQV_VER`.
        ver: u4,
        /// log2 of the number of VCMDQs.
        log2_vcmdqs: u4,
        /// log2 of the number of VINTFs.
        log2_vintfs: u4,
        /// log2 of the number of `SID_MATCH` registers of a VINTF.
        log2_sids: u4,
        reserved: u16,
    }
}

layout! {
    /// `STATUS` of the CMDQV, at 0x008 of the CONFIG page.
    CmdqvStatus: u32 [32] {
        /// `CMDQV_ENABLED`.
        cmdqv_enabled: bool,
        reserved: u31,
    }
}

layout! {
    /// A word of `VI_ERR_MAP` or `VI_INT_MASK`: a bit for each VINTF. An SMMU of a guest
    /// has one.
    VintfMap: u32 [32] {
        /// VINTF 0.
        vintf0: bool,
        reserved: u31,
    }
}

layout! {
    /// `CMDQ_ALLOC_MAP`, one for each VCMDQ.
    CmdqAllocMap: u32 [32] {
        /// `ALLOC`: the VCMDQ belongs to a VINTF.
        alloc: bool,
        /// `LVCMDQ`: its logical number there.
        lvcmdq: u7,
        reserved: u7,
        /// `VIRT_INTF_INDX`: the VINTF.
        vintf: u6,
        reserved: u11,
    }
}

layout! {
    /// `CONFIG` of a VINTF.
    VintfConfig: u32 [32] {
        /// `ENABLE`.
        enable: bool,
        /// `VMID`.
        vmid: u16,
        /// `HYP_OWN`: the queues of the VINTF execute every command.
        hyp_own: bool,
        reserved: u14,
    }
}

layout! {
    /// `STATUS` of a VINTF.
    VintfStatus: u32 [32] {
        /// `ENABLE_OK`.
        enable_ok: bool,
        /// `STATUS`: 0 none, 1 a VCMDQ is in error.
        status: u3,
        reserved: u12,
        /// `VI_NUM_LVCMDQ`: the number of VCMDQs that belong to the VINTF.
        num_lvcmdq: u8,
        reserved: u8,
    }
}

layout! {
    /// `SID_MATCH`, of a VINTF.
    SidMatch: u32 [32] {
        /// `ENABLE`.
        enable: bool,
        /// The virtual `StreamID`.
        sid: u20,
        reserved: u11,
    }
}

layout! {
    /// `SID_REPLACE`, of a VINTF.
    SidReplace: u32 [32] {
        /// The physical `StreamID`.
        sid: u20,
        reserved: u12,
    }
}

layout! {
    /// `VCMDQ_CONFIG`.
    VcmdqConfig: u32 [32] {
        /// `CMDQ_EN`.
        cmdq_en: bool,
        reserved: u31,
    }
}

layout! {
    /// `VCMDQ_STATUS`.
    VcmdqStatus: u32 [32] {
        /// `CMDQ_EN_OK`.
        cmdq_en_ok: bool,
        reserved: u31,
    }
}

layout! {
    /// `VCMDQ_GERROR` and `VCMDQ_GERRORN`: an error is active while they differ.
    VcmdqGerror: u32 [32] {
        /// `CMDQ_ERR`: a command was not executed, `VCMDQ_CONS_INDX.ERR` says why.
        cmdq_err: bool,
        /// `CONS_DRAM_WR_ABT_ERR`: the index was not written to memory.
        cons_dram_wr_abt_err: bool,
        /// `CMDQ_INIT_ERR`: the queue could not be enabled.
        cmdq_init_err: bool,
        reserved: u29,
    }
}

layout! {
    /// `VCMDQ_BASE`.
    VcmdqBase: u64 [64] {
        /// `LOG2SIZE`: log2 of the number of entries.
        log2size: u5,
        /// `ADDR`, bits 47:5.
        addr: u43,
        reserved: u16,
    }
}

layout! {
    /// `VCMDQ_CONS_INDX_BASE_DRAM`.
    VcmdqDramBase: u64 [64] {
        reserved: u5,
        /// `ADDR`, bits 47:5.
        addr: u43,
        reserved: u16,
    }
}

impl VcmdqBase {
    /// `ADDR` as an address.
    #[inline]
    pub fn queue(self) -> u64 {
        u64::from(self.addr()) << 5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cmdqv_global_field_positions_match_driver() {
        CmdqvConfig::check(&[
            ("cmdqv_en", 0, 0),
            ("per_cmd_offset", 3, 1),
            ("max_clk_batch", 11, 4),
            ("max_cmd_batch", 19, 12),
            ("cons_dram_en", 20, 20),
        ]);
        CmdqvParam::check(&[
            ("ver", 3, 0),
            ("log2_vcmdqs", 7, 4),
            ("log2_vintfs", 11, 8),
            ("log2_sids", 15, 12),
        ]);
        CmdqvStatus::check(&[("cmdqv_enabled", 0, 0)]);
        VintfMap::check(&[("vintf0", 0, 0)]);
        CmdqAllocMap::check(&[("alloc", 0, 0), ("lvcmdq", 7, 1), ("vintf", 20, 15)]);
    }

    #[test]
    fn vintf_field_positions_match_driver() {
        VintfConfig::check(&[("enable", 0, 0), ("vmid", 16, 1), ("hyp_own", 17, 17)]);
        VintfStatus::check(&[
            ("enable_ok", 0, 0),
            ("status", 3, 1),
            ("num_lvcmdq", 23, 16),
        ]);
        SidMatch::check(&[("enable", 0, 0), ("sid", 20, 1)]);
        SidReplace::check(&[("sid", 19, 0)]);
    }

    #[test]
    fn vcmdq_field_positions_match_driver() {
        VcmdqConfig::check(&[("cmdq_en", 0, 0)]);
        VcmdqStatus::check(&[("cmdq_en_ok", 0, 0)]);
        VcmdqGerror::check(&[
            ("cmdq_err", 0, 0),
            ("cons_dram_wr_abt_err", 1, 1),
            ("cmdq_init_err", 2, 2),
        ]);
        VcmdqBase::check(&[("log2size", 4, 0), ("addr", 47, 5)]);
        VcmdqDramBase::check(&[("addr", 47, 5)]);
        assert_eq!(VcmdqBase::of(u64::MAX).queue(), 0x0000_ffff_ffff_ffe0);
    }
}
