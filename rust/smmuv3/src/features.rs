// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The identification registers (§6.3.1 to §6.3.8) as one guest sees them.

use crate::spec::{
    get, mask,
    register::{Idr0, Idr1, Idr3, Idr5},
    set,
};

/// `SMMU_IDR0` to `SMMU_IDR5`, `SMMU_IIDR` and `SMMU_AIDR`.
///
/// Everything else in this crate asks here what the virtual SMMU implements:
/// a command, a register field or a table entry of a feature that these
/// registers do not show is Reserved or ILLEGAL, as the specification says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `SMMU_IDR0` to `SMMU_IDR5`.
    pub idr: [u32; 6],
    /// `SMMU_IIDR`.
    pub iidr: u32,
    /// `SMMU_AIDR`: bits 3:0 are the minor version of `SMMUv3`.
    pub aidr: u32,
}

/// Bits of an address by the encoding that `IDR5.OAS` (§6.3.6) and `CD.IPS` (§5.4)
/// share. A Reserved encoding counts as the largest.
pub(crate) const fn address_bits(encoding: u8) -> u32 {
    match encoding {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        6 => 52,
        _ => 56,
    }
}

/// One-bit fields: getter, and setter by value.
macro_rules! flags {
    ($($(#[$doc:meta])* $get:ident $with:ident = idr[$n:literal] $layout:ident;)*) => {
        impl Features {
            $(
                $(#[$doc])*
                #[inline]
                pub const fn $get(&self) -> bool {
                    self.idr[$n] & mask!($layout: $get) != 0
                }

                #[doc = concat!("Returns the same with [`", stringify!($get), "`](Self::", stringify!($get), ") as given.")]
                #[must_use]
                pub const fn $with(mut self, value: bool) -> Self {
                    self.idr[$n] = set(self.idr[$n], mask!($layout: $get), value as u32);
                    self
                }
            )*
        }
    };
}

/// Wider fields: getter of the encoding, and setter by encoding.
macro_rules! fields {
    ($($(#[$doc:meta])* $get:ident $with:ident = idr[$n:literal] $layout:ident;)*) => {
        impl Features {
            $(
                $(#[$doc])*
                #[inline]
                pub const fn $get(&self) -> u8 {
                    get(self.idr[$n], mask!($layout: $get)) as u8
                }

                #[doc = concat!("Returns the same with [`", stringify!($get), "`](Self::", stringify!($get), ") as given; bits that the field lacks are dropped.")]
                #[must_use]
                pub const fn $with(mut self, value: u8) -> Self {
                    self.idr[$n] = set(self.idr[$n], mask!($layout: $get), value as u32);
                    self
                }
            )*
        }
    };
}

flags! {
    /// Stage 2 translation.
    s2p with_s2p = idr[0] Idr0;
    /// Stage 1 translation.
    s1p with_s1p = idr[0] Idr0;
    /// Broadcast TLB maintenance.
    btm with_btm = idr[0] Idr0;
    /// Dormant hint.
    dormhint with_dormhint = idr[0] Idr0;
    /// EL2 stage 1 contexts.
    hyp with_hyp = idr[0] Idr0;
    /// PCI Address Translation Services.
    ats with_ats = idr[0] Idr0;
    /// 16-bit ASIDs; else 8 bits.
    asid16 with_asid16 = idr[0] Idr0;
    /// Message Signalled Interrupts of the SMMU itself.
    msi with_msi = idr[0] Idr0;
    /// `WFE` wake-up events.
    sev with_sev = idr[0] Idr0;
    /// PCI Page Request Interface.
    pri with_pri = idr[0] Idr0;
    /// VMID wildcards.
    vmw with_vmw = idr[0] Idr0;
    /// 16-bit VMIDs; else 8 bits.
    vmid16 with_vmid16 = idr[0] Idr0;
    /// Two-level Context descriptor tables.
    cd2l with_cd2l = idr[0] Idr0;
    /// Recording of configuration errors of ATS Translation Requests.
    atsrecerr with_atsrecerr = idr[0] Idr0;
    /// Terminated transactions always abort: `CD.A == 0` is not available.
    term_model with_term_model = idr[0] Idr0;
    /// The queue base addresses are fixed.
    queues_preset with_queues_preset = idr[1] Idr1;
    /// The table base addresses are fixed.
    tables_preset with_tables_preset = idr[1] Idr1;
    /// Enhanced Command queues.
    ecmdq with_ecmdq = idr[1] Idr1;
    /// Hierarchical attribute disable: `CD.HAD0` and `CD.HAD1`.
    had with_had = idr[3] Idr3;
    /// Execute-never control of stage 2 by privilege.
    xnx with_xnx = idr[3] Idr3;
    /// Memory Partitioning and Monitoring.
    mpam with_mpam = idr[3] Idr3;
    /// Small translation tables.
    stt with_stt = idr[3] Idr3;
    /// Range-based invalidation and level hints (§4.4.1.1).
    ril with_ril = idr[3] Idr3;
    /// Device Permission Table.
    dpt with_dpt = idr[3] Idr3;
    /// 4KB translation granule.
    gran4k with_gran4k = idr[5] Idr5;
    /// 16KB translation granule.
    gran16k with_gran16k = idr[5] Idr5;
    /// 64KB translation granule.
    gran64k with_gran64k = idr[5] Idr5;
    /// 52-bit addresses with the 4KB and 16KB granules.
    ds with_ds = idr[5] Idr5;
}

fields! {
    /// Translation table formats: bit 1 is `AArch64`, bit 0 is `AArch32`.
    ttf with_ttf = idr[0] Idr0;
    /// Hardware update of Access flag and dirty state.
    httu with_httu = idr[0] Idr0;
    /// Endianness of translation table walks.
    ttendian with_ttendian = idr[0] Idr0;
    /// 0b00 stall and terminate, 0b01 terminate only, 0b10 stall only.
    stall_model with_stall_model = idr[0] Idr0;
    /// 0b01 if two-level Stream tables are supported.
    st_level with_st_level = idr[0] Idr0;
    /// Width of a `StreamID` in bits, as the register encodes it.
    sidsize with_sidsize = idr[1] Idr1;
    /// Width of a `SubstreamID` in bits; 0: no `SubstreamIDs`.
    ssidsize with_ssidsize = idr[1] Idr1;
    /// log2 of the largest Event queue, in entries.
    eventqs with_eventqs = idr[1] Idr1;
    /// log2 of the largest Command queue, in entries.
    cmdqs with_cmdqs = idr[1] Idr1;
    /// Break-before-make level.
    bbml with_bbml = idr[3] Idr3;
    /// Output address size as encoded; [`oas_bits`](Self::oas_bits) is the size.
    oas with_oas = idr[5] Idr5;
    /// Virtual address extension: 1 is 52 bits.
    vax with_vax = idr[5] Idr5;
}

impl Features {
    /// Returns the features of `arm-smmuv3` when no property says otherwise: a
    /// stage-1-only SMMUv3.1 that does not stall.
    pub const fn arm_smmuv3() -> Self {
        let none = Self {
            idr: [0; 6],
            iidr: 0,
            aidr: 1,
        };
        let mut base = none
            .with_had(true)
            .with_s1p(true)
            .with_ttf(0b10)
            .with_asid16(true)
            .with_vmid16(true)
            .with_ttendian(0b10)
            .with_stall_model(0b01)
            .with_term_model(true)
            .with_st_level(0b01)
            .with_sidsize(16)
            .with_cmdqs(19)
            .with_eventqs(19)
            .with_ril(true)
            .with_bbml(2)
            .with_oas(0b100)
            .with_gran4k(true)
            .with_gran16k(true)
            .with_gran64k(true);
        base.idr[0] |= mask!(Idr0: cohacc);
        base
    }

    /// Returns the same with another `SMMU_AIDR`.
    #[must_use]
    pub const fn with_aidr(mut self, aidr: u32) -> Self {
        self.aidr = aidr;
        self
    }

    /// Returns the output address size in bits, 32 to 56 (§6.3.6). A Reserved encoding
    /// counts as the largest.
    #[inline]
    pub const fn oas_bits(&self) -> u32 {
        address_bits(self.oas())
    }

    /// Returns the largest `StreamID` (§6.3.2). A Reserved `SIDSIZE` counts as 32 bits.
    #[inline]
    pub const fn max_sid(&self) -> u32 {
        let bits = self.sidsize() as u32;
        if bits >= 32 {
            u32::MAX
        } else {
            (1 << bits) - 1
        }
    }

    /// Returns whether `ssid` fits into `SSIDSIZE` bits.
    #[inline]
    pub const fn ssid_in_range(&self, ssid: u32) -> bool {
        // SSIDSIZE is five bits wide, so this shift is in range.
        ssid >> self.ssidsize() == 0
    }

    /// Returns log2 of the largest Command queue in entries: `CMDQS`, at most 19.
    #[inline]
    pub const fn max_cmdqs(&self) -> u32 {
        min(self.cmdqs() as u32, 19)
    }

    /// Returns log2 of the largest Event queue in entries: `EVENTQS`, at most 19.
    #[inline]
    pub const fn max_eventqs(&self) -> u32 {
        min(self.eventqs() as u32, 19)
    }
}

const fn min(a: u32, b: u32) -> u32 {
    if a < b {
        a
    } else {
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arm_smmuv3_features_match_id_registers() {
        let features = Features::arm_smmuv3();
        assert_eq!(features.idr[0], 0x0d44_101a);
        assert_eq!(features.idr[1], 0x0273_0010);
        assert_eq!(features.idr[2], 0);
        assert_eq!(features.idr[3], 0x0000_1404);
        assert_eq!(features.idr[4], 0);
        assert_eq!(features.idr[5], 0x0000_0074);
        assert_eq!((features.iidr, features.aidr), (0, 1));
    }

    #[test]
    fn feature_setter_changes_only_its_field() {
        let base = Features::arm_smmuv3();
        let changed = base.with_ssidsize(20);
        assert_eq!(changed.ssidsize(), 20);
        assert_eq!(changed.with_ssidsize(base.ssidsize()), base);
        assert!(base.with_ats(true).ats() && !base.ats());
    }

    #[test]
    fn reserved_size_encodings_saturate() {
        let base = Features::arm_smmuv3();
        assert_eq!(base.with_oas(7).oas_bits(), 56);
        assert_eq!(base.with_sidsize(63).max_sid(), u32::MAX);
        assert_eq!(base.with_cmdqs(31).max_cmdqs(), 19);
        assert!(base.with_ssidsize(31).ssid_in_range(0x7fff_ffff));
        assert!(base.ssid_in_range(0) && !base.ssid_in_range(1));
    }
}
