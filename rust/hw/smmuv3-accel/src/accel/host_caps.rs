// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Checks the host SMMU's ID registers against what the guest is shown.
//!
//! Stage 1 of a nested translation is walked by the host's SMMU, and the
//! guest's invalidation commands run on it, so every feature that the guest
//! sees must be one that the host has.

use qemu_ext::iommufd::{ArmSmmuv3HwInfo, HostDevice};
use smmuv3::features::Features;
use util::{Error, Result};

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

/// When a host is checked: on that depends what a user can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// A device is plugged in, and its host must match what the SMMU shows
    Plug,
    /// The state of a guest is loaded that has read the ID registers on another host
    Load,
}

/// What a user can do about a field of the guest that a host does not match.
#[derive(Clone, Debug)]
enum Remedy {
    /// Set the property `name` to `set`, which shows the guest no more than the host has
    Property {
        name: &'static str,
        guest: String,
        host: String,
        set: String,
    },
    /// Plug the device in as the first of its SMMU, which shows the guest what that host has
    FirstDevice,
    /// None: every guest is shown the same
    OtherHost,
}

impl Remedy {
    fn on_off(name: &'static str, guest: bool, host: bool) -> Self {
        let value = |is_on: bool| if is_on { "on" } else { "off" }.to_owned();
        Self::Property {
            name,
            guest: value(guest),
            host: value(host),
            set: value(host),
        }
    }

    fn ssidsize(guest: u8, host: u8) -> Self {
        Self::Property {
            name: "ssidsize",
            guest: guest.to_string(),
            host: host.to_string(),
            set: host.to_string(),
        }
    }

    fn oas(guest: &Features, host: &Features) -> Self {
        let set = match host.oas_bits() {
            // the property has no size that is this small
            ..=43 => "auto",
            44..=47 => "44",
            _ => "48",
        };
        Self::Property {
            name: "oas",
            guest: guest.oas_bits().to_string(),
            host: host.oas_bits().to_string(),
            set: set.to_owned(),
        }
    }

    /// Returns the error for the user of the guest's SMMU `smmu`.
    fn error(self, when: When, smmu: &str, field: &str, guest: u8, host: u8) -> Error {
        Error::msg(match (when, self) {
            (
                When::Load,
                Self::Property {
                    name,
                    guest: seen,
                    host: has,
                    set,
                },
            ) => format!(
                "{smmu}: cannot load this state: the guest was started with {name}={seen}, but the SMMU of this host \
                 only has {name}={has} ({field}: host {host}, guest {guest}): use another host, or start the guest \
                 with {name}={set}"
            ),
            (When::Load, Self::FirstDevice | Self::OtherHost) => format!(
                "{smmu}: cannot load this state: the guest was started with {field} {guest}, but the SMMU of this \
                 host has {host}: use another host"
            ),
            (
                When::Plug,
                Self::Property {
                    name,
                    guest: shown,
                    host: has,
                    set,
                },
            ) => format!(
                "property '{name}' of arm-smmuv3 '{smmu}' is {shown}, but the host's SMMU only has {name}={has} \
                 ({field}: host {host}, guest {guest}): set {name}={set}, or put the device behind an \
                 arm-smmuv3 of its own"
            ),
            (When::Plug, Self::FirstDevice) => format!(
                "arm-smmuv3 '{smmu}' shows the guest {field} {guest}, but the host's SMMU has {host}, and no \
                 property changes that: put the device behind an arm-smmuv3 of its own, on the command line"
            ),
            (When::Plug, Self::OtherHost) => format!(
                "arm-smmuv3 shows every guest {field} {guest}, but the host's SMMU has {host}: \
                 devices of this host cannot be behind it"
            ),
        })
    }
}

/// Refuses a host whose SMMU lacks what `guest` shows. `smmu` is the name of the guest's SMMU.
///
/// The fields that are checked are those that `struct iommu_hw_info_arm_smmuv3`
/// lets a VMM read, two more that the properties `ats` and `oas` are defined by
/// (IDR0.ATS and IDR5.OAS), and IDR3.HAD, because an SMMU without it ignores
/// CD.HAD0 and CD.HAD1 (§5.4): a guest that sets them leaves bits for its own use
/// in its tables, which would then restrict its DMA. Fields that are not on the
/// kernel's list only take features away, so a kernel that clears them does no
/// harm.
pub fn check(smmu: &str, guest: &Features, info: &HostInfo, when: When) -> Result<()> {
    let host = info.features();
    let refuse = |is_met: bool, field: &str, shown: u8, has: u8, remedy: Remedy| {
        if is_met {
            Ok(())
        } else {
            Err(remedy.error(when, smmu, field, shown, has))
        }
    };
    for (field, is_met, shown, has) in [
        // the guest shows one format only; the host must take exactly that
        (
            "IDR0.ST_LEVEL",
            host.st_level() == guest.st_level(),
            guest.st_level(),
            host.st_level(),
        ),
        (
            "IDR0.TTENDIAN",
            host.ttendian() == guest.ttendian() || host.ttendian() == 0,
            guest.ttendian(),
            host.ttendian(),
        ),
        (
            "IDR0.TTF",
            host.ttf() & guest.ttf() == guest.ttf(),
            guest.ttf(),
            host.ttf(),
        ),
        // the guest never stalls a transaction; a host that always does wants CD.S set
        (
            "IDR0.STALL_MODEL",
            host.stall_model() != 0b10,
            guest.stall_model(),
            host.stall_model(),
        ),
    ] {
        refuse(is_met, field, shown, has, Remedy::OtherHost)?;
    }
    for (field, shown, has, remedy) in [
        (
            "IDR0.ASID16",
            guest.asid16(),
            host.asid16(),
            Remedy::FirstDevice,
        ),
        (
            "IDR0.CD2L",
            guest.cd2l(),
            host.cd2l(),
            Remedy::on_off("cd2l", guest.cd2l(), host.cd2l()),
        ),
        (
            "IDR0.ATS",
            guest.ats(),
            host.ats(),
            Remedy::on_off("ats", guest.ats(), host.ats()),
        ),
        ("IDR3.HAD", guest.had(), host.had(), Remedy::FirstDevice),
        (
            "IDR3.RIL",
            guest.ril(),
            host.ril(),
            Remedy::on_off("ril", guest.ril(), host.ril()),
        ),
        (
            "IDR5.GRAN4K",
            guest.gran4k(),
            host.gran4k(),
            Remedy::OtherHost,
        ),
        (
            "IDR5.GRAN16K",
            guest.gran16k(),
            host.gran16k(),
            Remedy::OtherHost,
        ),
        (
            "IDR5.GRAN64K",
            guest.gran64k(),
            host.gran64k(),
            Remedy::OtherHost,
        ),
        ("IDR5.DS", guest.ds(), host.ds(), Remedy::OtherHost),
    ] {
        refuse(has || !shown, field, shown.into(), has.into(), remedy)?;
    }
    for (field, shown, has, remedy) in [
        (
            "IDR1.SIDSIZE",
            guest.sidsize(),
            host.sidsize(),
            Remedy::OtherHost,
        ),
        (
            "IDR1.SSIDSIZE",
            guest.ssidsize(),
            host.ssidsize(),
            Remedy::ssidsize(guest.ssidsize(), host.ssidsize()),
        ),
        ("IDR3.BBML", guest.bbml(), host.bbml(), Remedy::FirstDevice),
        (
            "IDR5.VAX",
            guest.vax(),
            host.vax(),
            Remedy::on_off("vax", guest.vax() > 0, host.vax() > 0),
        ),
        (
            "IDR5.OAS",
            guest.oas(),
            host.oas(),
            Remedy::oas(guest, &host),
        ),
    ] {
        refuse(has >= shown, field, shown, has, remedy)?;
    }
    Ok(())
}
