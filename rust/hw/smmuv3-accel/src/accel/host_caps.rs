// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Checks the host SMMU's ID registers against what the guest is shown.
//!
//! Stage 1 of a nested translation is walked by the host's SMMU, and the
//! guest's invalidation commands run on it, so every feature that the guest
//! sees must be one that the host has.

use qemu_ext::iommufd::{ArmSmmuv3HwInfo, HostDevice};
use smmuv3::features::Features;
use util::{ensure, Result};

/// `IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI`: TLBI and CFGI commands
/// must be issued twice (erratum T264-SMMU-3). Newer than QEMU's copy of the uAPI.
const ERRATA_REPEAT_TLBI_CFGI: u32 = 1 << 0;

/// The host SMMU's ID registers and flags.
#[derive(Clone, Copy, Debug)]
pub struct HostInfo(ArmSmmuv3HwInfo);

impl HostInfo {
    /// Returns those of the SMMU that `device` is behind.
    pub fn of(device: &HostDevice) -> Result<Self> {
        device.hw_info().map(Self)
    }

    /// Returns the host's ID registers, to be read with the architecture's field names.
    pub const fn features(&self) -> Features {
        Features {
            idr: self.0.idr,
            iidr: 0,
            aidr: 0,
        }
    }

    /// Returns whether TLBI and CFGI commands must be issued twice.
    pub const fn repeats_invalidations(&self) -> bool {
        self.0.flags & ERRATA_REPEAT_TLBI_CFGI != 0
    }
}

/// Refuses a host whose SMMU lacks what `guest` shows.
///
/// The fields that are checked are those that `struct iommu_hw_info_arm_smmuv3`
/// lets a VMM read, two more that the properties `ats` and `oas` are defined by
/// (IDR0.ATS and IDR5.OAS), and IDR3.HAD, because an SMMU without it ignores
/// CD.HAD0 and CD.HAD1 (§5.4): a guest that sets them leaves bits for its own use
/// in its tables, which would then restrict its DMA. Fields that are not on the
/// kernel's list only take features away, so a kernel that clears them does no
/// harm.
pub fn check(guest: &Features, info: &HostInfo) -> Result<()> {
    let host = info.features();
    let both = |name: &str, host_value: u8, guest_value: u8| {
        format!("the host SMMU's {name} does not do for this guest (host {host_value}, guest {guest_value})")
    };
    // the guest shows one format only; the host must take exactly that
    ensure!(
        host.st_level() == guest.st_level(),
        both("IDR0.ST_LEVEL", host.st_level(), guest.st_level())
    );
    ensure!(
        host.ttendian() == guest.ttendian() || host.ttendian() == 0,
        both("IDR0.TTENDIAN", host.ttendian(), guest.ttendian())
    );
    ensure!(
        host.ttf() & guest.ttf() == guest.ttf(),
        both("IDR0.TTF", host.ttf(), guest.ttf())
    );
    // the guest never stalls a transaction; a host that always does wants CD.S set
    ensure!(
        host.stall_model() != 0b10,
        both("IDR0.STALL_MODEL", host.stall_model(), guest.stall_model())
    );
    for (name, host_has, guest_has) in [
        ("IDR0.ASID16", host.asid16(), guest.asid16()),
        ("IDR0.CD2L", host.cd2l(), guest.cd2l()),
        ("IDR0.ATS", host.ats(), guest.ats()),
        ("IDR3.HAD", host.had(), guest.had()),
        ("IDR3.RIL", host.ril(), guest.ril()),
        ("IDR5.GRAN4K", host.gran4k(), guest.gran4k()),
        ("IDR5.GRAN16K", host.gran16k(), guest.gran16k()),
        ("IDR5.GRAN64K", host.gran64k(), guest.gran64k()),
        ("IDR5.DS", host.ds(), guest.ds()),
    ] {
        ensure!(
            host_has || !guest_has,
            both(name, u8::from(host_has), u8::from(guest_has))
        );
    }
    for (name, host_value, guest_value) in [
        ("IDR1.SIDSIZE", host.sidsize(), guest.sidsize()),
        ("IDR1.SSIDSIZE", host.ssidsize(), guest.ssidsize()),
        ("IDR3.BBML", host.bbml(), guest.bbml()),
        ("IDR5.VAX", host.vax(), guest.vax()),
        ("IDR5.OAS", host.oas(), guest.oas()),
    ] {
        ensure!(
            host_value >= guest_value,
            both(name, host_value, guest_value)
        );
    }
    Ok(())
}
