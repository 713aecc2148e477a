// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Registers (§6.3).

use bilge::prelude::*;

use super::layout;

layout! {
    /// `SMMU_IDR0` (§6.3.1).
    #[doc(alias = "SMMU_IDR0")]
    Idr0: u32 [32] {
        /// `S2P`.
        s2p: bool,
        /// `S1P`.
        s1p: bool,
        /// `TTF`.
        ttf: u2,
        /// `COHACC`.
        cohacc: bool,
        /// `BTM`.
        btm: bool,
        /// `HTTU`.
        httu: u2,
        /// `DORMHINT`.
        dormhint: bool,
        /// `Hyp`.
        hyp: bool,
        /// `ATS`.
        ats: bool,
        /// `NS1ATS`.
        ns1ats: bool,
        /// `ASID16`.
        asid16: bool,
        /// `MSI`.
        msi: bool,
        /// `SEV`.
        sev: bool,
        /// `ATOS`.
        atos: bool,
        /// `PRI`.
        pri: bool,
        /// `VMW`.
        vmw: bool,
        /// `VMID16`.
        vmid16: bool,
        /// `CD2L`.
        cd2l: bool,
        /// `VATOS`.
        vatos: bool,
        /// `TTENDIAN`.
        ttendian: u2,
        /// `ATSRECERR`.
        atsrecerr: bool,
        /// `STALL_MODEL`.
        stall_model: u2,
        /// `TERM_MODEL`.
        term_model: bool,
        /// `ST_LEVEL`.
        st_level: u2,
        reserved: u1,
        /// `RME_IMPL`.
        rme_impl: bool,
        reserved: u1,
    }
}

layout! {
    /// `SMMU_IDR1` (§6.3.2).
    #[doc(alias = "SMMU_IDR1")]
    Idr1: u32 [32] {
        /// `SIDSIZE`.
        sidsize: u6,
        /// `SSIDSIZE`.
        ssidsize: u5,
        /// `PRIQS`.
        priqs: u5,
        /// `EVENTQS`.
        eventqs: u5,
        /// `CMDQS`.
        cmdqs: u5,
        /// `ATTR_PERMS_OVR`.
        attr_perms_ovr: bool,
        /// `ATTR_TYPES_OVR`.
        attr_types_ovr: bool,
        /// `REL`.
        rel: bool,
        /// `QUEUES_PRESET`.
        queues_preset: bool,
        /// `TABLES_PRESET`.
        tables_preset: bool,
        /// `ECMDQ`.
        ecmdq: bool,
    }
}

layout! {
    /// `SMMU_IDR3` (§6.3.4).
    #[doc(alias = "SMMU_IDR3")]
    Idr3: u32 [32] {
        reserved: u2,
        /// `HAD`.
        had: bool,
        /// `PBHA`.
        pbha: bool,
        /// `XNX`.
        xnx: bool,
        /// `PPS`.
        pps: bool,
        reserved: u1,
        /// `MPAM`.
        mpam: bool,
        /// `FWB`.
        fwb: bool,
        /// `STT`.
        stt: bool,
        /// `RIL`.
        ril: bool,
        /// `BBML`.
        bbml: u2,
        /// `E0PD`.
        e0pd: bool,
        /// `PTWNNC`.
        ptwnnc: bool,
        /// `DPT`.
        dpt: bool,
        /// `PASIDTT`.
        pasidtt: bool,
        /// `EPAN`.
        epan: bool,
        /// `S1PI`.
        s1pi: bool,
        /// `S2PI`.
        s2pi: bool,
        /// `S2PO`.
        s2po: bool,
        /// `THE`.
        the: bool,
        /// `MTEPERM`.
        mteperm: bool,
        /// `AIE`.
        aie: bool,
        reserved: u8,
    }
}

layout! {
    /// `SMMU_IDR5` (§6.3.6).
    #[doc(alias = "SMMU_IDR5")]
    Idr5: u32 [32] {
        /// `OAS`.
        oas: u3,
        reserved: u1,
        /// `GRAN4K`.
        gran4k: bool,
        /// `GRAN16K`.
        gran16k: bool,
        /// `GRAN64K`.
        gran64k: bool,
        /// `DS`.
        ds: bool,
        /// `D128`.
        d128: bool,
        reserved: u1,
        /// `VAX`.
        vax: u2,
        reserved: u4,
        /// `STALL_MAX`.
        stall_max: u16,
    }
}

layout! {
    /// `SMMU_CR0` and `SMMU_CR0ACK` (§6.3.9, §6.3.10).
    #[doc(alias = "SMMU_CR0")]
    Cr0: u32 [32] {
        /// `SMMUEN`.
        smmuen: bool,
        /// `PRIQEN`.
        priqen: bool,
        /// `EVENTQEN`.
        eventqen: bool,
        /// `CMDQEN`.
        cmdqen: bool,
        /// `ATSCHK`.
        atschk: bool,
        reserved: u1,
        /// `VMW`.
        vmw: u3,
        reserved: u1,
        /// `DPT_WALK_EN`.
        dpt_walk_en: bool,
        reserved: u21,
    }
}

layout! {
    /// `SMMU_CR1` (§6.3.11).
    #[doc(alias = "SMMU_CR1")]
    Cr1: u32 [32] {
        /// `QUEUE_IC`.
        queue_ic: u2,
        /// `QUEUE_OC`.
        queue_oc: u2,
        /// `QUEUE_SH`.
        queue_sh: u2,
        /// `TABLE_IC`.
        table_ic: u2,
        /// `TABLE_OC`.
        table_oc: u2,
        /// `TABLE_SH`.
        table_sh: u2,
        reserved: u20,
    }
}

layout! {
    /// `SMMU_CR2` (§6.3.12).
    #[doc(alias = "SMMU_CR2")]
    Cr2: u32 [32] {
        /// `E2H`.
        e2h: bool,
        /// `RECINVSID`.
        recinvsid: bool,
        /// `PTM`.
        ptm: bool,
        /// `REC_CFG_ATS`.
        rec_cfg_ats: bool,
        reserved: u28,
    }
}

layout! {
    /// `SMMU_STATUSR` (§6.3.13).
    #[doc(alias = "SMMU_STATUSR")]
    Statusr: u32 [32] {
        /// `DORMANT`.
        dormant: bool,
        reserved: u31,
    }
}

layout! {
    /// `SMMU_GBPA` (§6.3.14).
    #[doc(alias = "SMMU_GBPA")]
    Gbpa: u32 [32] {
        /// `MemAttr`.
        memattr: u4,
        /// `MTCFG`.
        mtcfg: bool,
        reserved: u3,
        /// `ALLOCCFG`.
        alloccfg: u4,
        /// `SHCFG`.
        shcfg: u2,
        reserved: u2,
        /// `PRIVCFG`.
        privcfg: u2,
        /// `INSTCFG`.
        instcfg: u2,
        /// `ABORT`.
        abort: bool,
        reserved: u10,
        /// `Update`.
        update: bool,
    }
}

layout! {
    /// `SMMU_IRQ_CTRL` and `SMMU_IRQ_CTRLACK` (§6.3.16, §6.3.17).
    #[doc(alias = "SMMU_IRQ_CTRL")]
    IrqCtrl: u32 [32] {
        /// `GERROR_IRQEN`.
        gerror_irqen: bool,
        /// `PRIQ_IRQEN`.
        priq_irqen: bool,
        /// `EVENTQ_IRQEN`.
        eventq_irqen: bool,
        reserved: u29,
    }
}

layout! {
    /// `SMMU_GERROR` and `SMMU_GERRORN` (§6.3.19, §6.3.20).
    #[doc(alias = "SMMU_GERROR")]
    Gerror: u32 [32] {
        /// `CMDQ_ERR`.
        cmdq_err: bool,
        reserved: u1,
        /// `EVENTQ_ABT_ERR`.
        eventq_abt_err: bool,
        /// `PRIQ_ABT_ERR`.
        priq_abt_err: bool,
        /// `MSI_CMDQ_ABT_ERR`.
        msi_cmdq_abt_err: bool,
        /// `MSI_EVENTQ_ABT_ERR`.
        msi_eventq_abt_err: bool,
        /// `MSI_PRIQ_ABT_ERR`.
        msi_priq_abt_err: bool,
        /// `MSI_GERROR_ABT_ERR`.
        msi_gerror_abt_err: bool,
        /// `SFM_ERR`.
        sfm_err: bool,
        /// `CMDQP_ERR`.
        cmdqp_err: bool,
        /// `DPT_ERR`.
        dpt_err: bool,
        reserved: u21,
    }
}

layout! {
    /// `SMMU_GERROR_IRQ_CFG0` and `SMMU_EVENTQ_IRQ_CFG0` (§6.3.21, §6.3.30).
    #[doc(alias = "SMMU_GERROR_IRQ_CFG0")]
    #[doc(alias = "SMMU_EVENTQ_IRQ_CFG0")]
    IrqCfg0: u64 [64] {
        reserved: u2,
        /// `ADDR`, bits 55:2.
        addr: u54,
        reserved: u8,
    }
}

layout! {
    /// `SMMU_GERROR_IRQ_CFG1` and `SMMU_EVENTQ_IRQ_CFG1` (§6.3.22, §6.3.31).
    #[doc(alias = "SMMU_GERROR_IRQ_CFG1")]
    #[doc(alias = "SMMU_EVENTQ_IRQ_CFG1")]
    IrqCfg1: u32 [32] {
        /// `DATA`.
        data: u32,
    }
}

layout! {
    /// `SMMU_GERROR_IRQ_CFG2` and `SMMU_EVENTQ_IRQ_CFG2` (§6.3.23, §6.3.32).
    #[doc(alias = "SMMU_GERROR_IRQ_CFG2")]
    #[doc(alias = "SMMU_EVENTQ_IRQ_CFG2")]
    IrqCfg2: u32 [32] {
        /// `MemAttr`.
        memattr: u4,
        /// `SH`.
        sh: u2,
        reserved: u26,
    }
}

layout! {
    /// `SMMU_STRTAB_BASE` (§6.3.24).
    #[doc(alias = "SMMU_STRTAB_BASE")]
    StrtabBase: u64 [64] {
        reserved: u6,
        /// `ADDR`, bits 55:6.
        addr: u50,
        reserved: u6,
        /// `RA`.
        ra: bool,
        reserved: u1,
    }
}

/// `STRTAB_BASE_CFG.FMT`.
#[bitsize(2)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBits)]
pub enum StrtabFormat {
    /// Two levels.
    TwoLevel = 0b01,
    /// Linear; other encodings are Reserved and behave as this.
    #[fallback]
    Linear = 0b00,
}

layout! {
    /// `SMMU_STRTAB_BASE_CFG` (§6.3.25).
    #[doc(alias = "SMMU_STRTAB_BASE_CFG")]
    StrtabBaseCfg: u32 [32] {
        /// `LOG2SIZE`.
        log2size: u6,
        /// `SPLIT`.
        split: u5,
        reserved: u5,
        /// `FMT`, under another name because `fmt` is the method of `Debug`.
        format: StrtabFormat,
        reserved: u14,
    }
}

layout! {
    /// `SMMU_CMDQ_BASE` and `SMMU_EVENTQ_BASE` (§6.3.26, §6.3.29).
    #[doc(alias = "SMMU_CMDQ_BASE")]
    #[doc(alias = "SMMU_EVENTQ_BASE")]
    QueueBase: u64 [64] {
        /// `LOG2SIZE`.
        log2size: u5,
        /// `ADDR`, bits 55:5.
        addr: u51,
        reserved: u6,
        /// `RA` of the Command queue, `WA` of the Event queue.
        hint: bool,
        reserved: u1,
    }
}

layout! {
    /// `SMMU_CMDQ_PROD` (§6.3.27).
    #[doc(alias = "SMMU_CMDQ_PROD")]
    CmdqProd: u32 [32] {
        /// `WR`.
        wr: u20,
        reserved: u12,
    }
}

layout! {
    /// `SMMU_CMDQ_CONS` (§6.3.28).
    #[doc(alias = "SMMU_CMDQ_CONS")]
    CmdqCons: u32 [32] {
        /// `RD`.
        rd: u20,
        reserved: u4,
        /// `ERR`.
        err: u7,
        reserved: u1,
    }
}

layout! {
    /// `SMMU_EVENTQ_PROD` and `SMMU_EVENTQ_CONS` (§6.3.95, §6.3.96).
    #[doc(alias = "SMMU_EVENTQ_PROD")]
    #[doc(alias = "SMMU_EVENTQ_CONS")]
    EventqIndex: u32 [32] {
        /// `WR` or `RD`.
        pointer: u20,
        reserved: u11,
        /// `OVFLG` or `OVACKFLG`.
        overflow: bool,
    }
}

impl QueueBase {
    /// `ADDR` as an address.
    #[inline]
    pub fn queue(self) -> u64 {
        u64::from(self.addr()) << 5
    }
}

impl StrtabBase {
    /// `ADDR` as an address.
    #[inline]
    pub fn table(self) -> u64 {
        u64::from(self.addr()) << 6
    }
}

impl IrqCfg0 {
    /// `ADDR` as an address.
    #[inline]
    pub fn target(self) -> u64 {
        u64::from(self.addr()) << 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idr0_and_idr1_field_positions_match_spec() {
        Idr0::check(&[
            ("s2p", 0, 0),
            ("s1p", 1, 1),
            ("ttf", 3, 2),
            ("cohacc", 4, 4),
            ("btm", 5, 5),
            ("httu", 7, 6),
            ("dormhint", 8, 8),
            ("hyp", 9, 9),
            ("ats", 10, 10),
            ("ns1ats", 11, 11),
            ("asid16", 12, 12),
            ("msi", 13, 13),
            ("sev", 14, 14),
            ("atos", 15, 15),
            ("pri", 16, 16),
            ("vmw", 17, 17),
            ("vmid16", 18, 18),
            ("cd2l", 19, 19),
            ("vatos", 20, 20),
            ("ttendian", 22, 21),
            ("atsrecerr", 23, 23),
            ("stall_model", 25, 24),
            ("term_model", 26, 26),
            ("st_level", 28, 27),
            ("rme_impl", 30, 30),
        ]);
        Idr1::check(&[
            ("sidsize", 5, 0),
            ("ssidsize", 10, 6),
            ("priqs", 15, 11),
            ("eventqs", 20, 16),
            ("cmdqs", 25, 21),
            ("attr_perms_ovr", 26, 26),
            ("attr_types_ovr", 27, 27),
            ("rel", 28, 28),
            ("queues_preset", 29, 29),
            ("tables_preset", 30, 30),
            ("ecmdq", 31, 31),
        ]);
    }

    #[test]
    fn idr3_and_idr5_field_positions_match_spec() {
        Idr3::check(&[
            ("had", 2, 2),
            ("pbha", 3, 3),
            ("xnx", 4, 4),
            ("pps", 5, 5),
            ("mpam", 7, 7),
            ("fwb", 8, 8),
            ("stt", 9, 9),
            ("ril", 10, 10),
            ("bbml", 12, 11),
            ("e0pd", 13, 13),
            ("ptwnnc", 14, 14),
            ("dpt", 15, 15),
            ("pasidtt", 16, 16),
            ("epan", 17, 17),
            ("s1pi", 18, 18),
            ("s2pi", 19, 19),
            ("s2po", 20, 20),
            ("the", 21, 21),
            ("mteperm", 22, 22),
            ("aie", 23, 23),
        ]);
        Idr5::check(&[
            ("oas", 2, 0),
            ("gran4k", 4, 4),
            ("gran16k", 5, 5),
            ("gran64k", 6, 6),
            ("ds", 7, 7),
            ("d128", 8, 8),
            ("vax", 11, 10),
            ("stall_max", 31, 16),
        ]);
    }

    #[test]
    fn control_register_field_positions_match_spec() {
        Cr0::check(&[
            ("smmuen", 0, 0),
            ("priqen", 1, 1),
            ("eventqen", 2, 2),
            ("cmdqen", 3, 3),
            ("atschk", 4, 4),
            ("vmw", 8, 6),
            ("dpt_walk_en", 10, 10),
        ]);
        Cr1::check(&[
            ("queue_ic", 1, 0),
            ("queue_oc", 3, 2),
            ("queue_sh", 5, 4),
            ("table_ic", 7, 6),
            ("table_oc", 9, 8),
            ("table_sh", 11, 10),
        ]);
        Cr2::check(&[
            ("e2h", 0, 0),
            ("recinvsid", 1, 1),
            ("ptm", 2, 2),
            ("rec_cfg_ats", 3, 3),
        ]);
        Statusr::check(&[("dormant", 0, 0)]);
        Gbpa::check(&[
            ("memattr", 3, 0),
            ("mtcfg", 4, 4),
            ("alloccfg", 11, 8),
            ("shcfg", 13, 12),
            ("privcfg", 17, 16),
            ("instcfg", 19, 18),
            ("abort", 20, 20),
            ("update", 31, 31),
        ]);
    }

    #[test]
    fn interrupt_and_error_positions_match_spec() {
        IrqCtrl::check(&[
            ("gerror_irqen", 0, 0),
            ("priq_irqen", 1, 1),
            ("eventq_irqen", 2, 2),
        ]);
        Gerror::check(&[
            ("cmdq_err", 0, 0),
            ("eventq_abt_err", 2, 2),
            ("priq_abt_err", 3, 3),
            ("msi_cmdq_abt_err", 4, 4),
            ("msi_eventq_abt_err", 5, 5),
            ("msi_priq_abt_err", 6, 6),
            ("msi_gerror_abt_err", 7, 7),
            ("sfm_err", 8, 8),
            ("cmdqp_err", 9, 9),
            ("dpt_err", 10, 10),
        ]);
        IrqCfg0::check(&[("addr", 55, 2)]);
        IrqCfg1::check(&[("data", 31, 0)]);
        IrqCfg2::check(&[("memattr", 3, 0), ("sh", 5, 4)]);
    }

    #[test]
    fn table_and_queue_field_positions_match_spec() {
        StrtabBase::check(&[("addr", 55, 6), ("ra", 62, 62)]);
        StrtabBaseCfg::check(&[("log2size", 5, 0), ("split", 10, 6), ("format", 17, 16)]);
        QueueBase::check(&[("log2size", 4, 0), ("addr", 55, 5), ("hint", 62, 62)]);
        CmdqProd::check(&[("wr", 19, 0)]);
        CmdqCons::check(&[("rd", 19, 0), ("err", 30, 24)]);
        EventqIndex::check(&[("pointer", 19, 0), ("overflow", 31, 31)]);
        assert_eq!(IrqCfg0::of(u64::MAX).target(), 0x00ff_ffff_ffff_fffc);
        assert_eq!(StrtabBase::of(u64::MAX).table(), 0x00ff_ffff_ffff_ffc0);
        assert_eq!(QueueBase::of(u64::MAX).queue(), 0x00ff_ffff_ffff_ffe0);
    }
}
