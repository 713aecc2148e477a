// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The host's SMMUs as a VMM sees them.

use crate::{
    cmdqv::Cmdqv,
    errno::{Errno, Result},
    stored::stored_enum,
    uapi,
};

/// One `SMMUv3` of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smmu {
    /// Its name in the script
    pub name: String,
    /// IDR0 to IDR5
    pub idr: [u32; 6],
    /// The IOMMU type that iommufd reports
    pub kind: u32,
    /// `iommu_hw_info_arm_smmuv3.flags`
    pub flags: u32,
    /// IIDR
    pub iidr: u32,
    /// AIDR
    pub aidr: u32,
    /// Whether its driver supports vIOMMUs
    pub nesting: bool,
    /// Whether the system supports ATS
    pub ats: bool,
    /// An opcode that its driver refuses
    pub refuses: Option<u32>,
    /// Its CMDQ virtualization
    pub cmdqv: Option<Cmdqv>,
}

impl Smmu {
    /// Returns an SMMU with all features that QEMU's `arm-smmuv3` can expose:
    /// two stages, ATS, 16-bit ASIDs, two-level tables, range invalidation, all
    /// granules, 20 bits of `SubstreamID`, 48 bits of address.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            // S2P S1P TTF=AArch64 COHACC BTM ATS ASID16 VMID16 CD2L TTENDIAN=little
            // STALL_MODEL=no-stall TERM_MODEL ST_LEVEL=two-level
            idr: [
                0x0d4c_143b,
                // SIDSIZE=32 SSIDSIZE=20 EVENTQS=19 CMDQS=19
                (19 << 21) | (19 << 16) | (20 << 6) | 32,
                0,
                // HAD RIL BBML=2
                (1 << 2) | (1 << 10) | (2 << 11),
                0,
                // OAS=48 4K 16K 64K
                0b101 | (0b111 << 4),
            ],
            kind: uapi::HW_INFO_ARM_SMMUV3,
            flags: 0,
            iidr: 0x43b,
            aidr: 2,
            nesting: true,
            ats: true,
            refuses: None,
            cmdqv: None,
        }
    }

    /// Returns `iommu_hw_info_arm_smmuv3`.
    pub fn hw_info(&self) -> Vec<u8> {
        let mut words = vec![self.flags, 0];
        words.extend(self.idr);
        words.extend([self.iidr, self.aidr]);
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// Returns the number of ASID bits.
    pub const fn asid_bits(&self) -> u32 {
        if self.idr[0] & (1 << 12) != 0 {
            16
        } else {
            8
        }
    }

    /// Returns the largest number of bytes of a Command queue, by IDR1.CMDQS.
    pub const fn command_queue_bytes(&self) -> u64 {
        16 << ((self.idr[1] >> 21) & 0x1f)
    }

    /// Returns IDR1.SSIDSIZE.
    pub const fn ssid_bits(&self) -> u32 {
        (self.idr[1] >> 6) & 0x1f
    }

    /// Returns IDR3.RIL.
    pub const fn has_ranges(&self) -> bool {
        self.idr[3] & (1 << 10) != 0
    }

    /// Returns IDR5.DS.
    pub const fn has_ds(&self) -> bool {
        self.idr[5] & (1 << 7) != 0
    }

    /// Returns IDR0.ATS, if the system supports ATS.
    pub const fn has_ats(&self) -> bool {
        self.ats && self.idr[0] & (1 << 10) != 0
    }
}

/// The translation that an STE selects for a nested HWPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Nested {
    /// Aborts all transactions, like an STE that is not valid.
    Abort,
    /// Stage 2 alone.
    Bypass,
    /// Stage 1 in stage 2.
    Translate,
}

stored_enum!(Nested { 0 = Abort, 1 = Bypass, 2 = Translate });

/// `V`, `Config`, `S1Fmt`, `S1ContextPtr`, `S1CDMax`
const STE0_ALLOWED: u64 = 1 | (0b111 << 1) | (0b11 << 4) | (((1 << 46) - 1) << 6) | (0x1f << 59);
/// `S1DSS`, `S1CIR`, `S1COR`, `S1CSH`, `S1STALLD`, `EATS`
const STE1_ALLOWED: u64 = 0xff | (1 << 27) | (0b11 << 28);

/// Returns the translation that words 0 and 1 of a guest's STE select.
///
/// # Errors
///
/// `EIO`: a field that the guest may not set, another stage, or another ATS
/// mode.
pub fn nested(ste: [u64; 2]) -> Result<Nested> {
    if ste[0] & 1 == 0 {
        return Ok(Nested::Abort);
    }
    if ste[0] & !STE0_ALLOWED != 0 || ste[1] & !STE1_ALLOWED != 0 {
        return Err(Errno::EIO);
    }
    let kind = match (ste[0] >> 1) & 0b111 {
        0b000 => Nested::Abort,
        0b100 => Nested::Bypass,
        0b101 => Nested::Translate,
        _ => return Err(Errno::EIO),
    };
    match (ste[1] >> 28) & 0b11 {
        0b00 | 0b01 => Ok(kind),
        _ => Err(Errno::EIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_ste_accepts_guest_fields() {
        assert_eq!(nested([0, u64::MAX]), Ok(Nested::Abort));
        assert_eq!(nested([1, 0]), Ok(Nested::Abort));
        assert_eq!(nested([0b1001, 0]), Ok(Nested::Bypass));
        assert_eq!(nested([0b1011, 0]), Ok(Nested::Translate));
        let everything = STE0_ALLOWED & !0b1111 | 0b1011;
        assert_eq!(
            nested([everything, STE1_ALLOWED & !(0b10 << 28)]),
            Ok(Nested::Translate)
        );
    }

    #[test]
    fn nested_ste_with_other_fields_is_eio() {
        for config in [0b001, 0b010, 0b011, 0b110, 0b111] {
            assert_eq!(nested([1 | (config << 1), 0]), Err(Errno::EIO));
        }
        for bit in [52, 55, 56, 58] {
            assert_eq!(nested([0b1011 | (1 << bit), 0]), Err(Errno::EIO), "{bit}");
        }
        for bit in (8..27).chain(29..64) {
            assert_eq!(nested([0b1011, 1 << bit]), Err(Errno::EIO), "{bit}");
        }
    }
}
