// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The properties of `-device arm-smmuv3`, and the ID registers that they result in.

use std::{ffi::CStr, ptr::addr_of};

use hwcore::{bindings::PropertyInfo, QDevProp};
use smmuv3::features::Features;
use util::{ensure, Error, Result};

use crate::bindings;

#[cfg(MESON)]
include!("descriptions.inc.rs");

#[cfg(not(MESON))]
include!(concat!(
    env!("MESON_BUILD_ROOT"),
    "/rust/hw/smmuv3-accel/descriptions.inc.rs"
));

/// Descriptions of the properties that the C device lacks.
pub const OWN_DESCRIPTIONS: [(&CStr, &CStr); 3] = [
    (
        c"msi",
        c"Enable/disable Message Signalled Interrupts of the SMMU itself. Valid values are on, off, and auto. \
          Defaults to auto, which means the value of accel.",
    ),
    (
        c"cd2l",
        c"Enable/disable two-level Context descriptor tables, which more than 1024 PASIDs of a Linux guest need \
          (for accel=on). Valid values are on, off, and auto. Defaults to off.",
    ),
    (
        c"vax",
        c"Enable/disable 52-bit virtual addresses with 64KB pages (for accel=on). Valid values are on, off, and \
          auto. Defaults to off.",
    ),
];

/// Largest IDR1.SSIDSIZE: `SubstreamIDs` have 20 bits at most (§6.3.2).
const MAX_SSIDSIZE: u8 = 20;

/// Largest IDR5.OAS of an `SMMUv3.1`: 52 bits (§6.3.6).
const MAX_OAS: u8 = 0b110;

/// QAPI's `OasMode`: `auto`, or a number of bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct OasMode(u32);

// SAFETY: the setter of the property writes an enumeration of C, which is a u32
unsafe impl QDevProp for OasMode {
    const BASE_INFO: *const PropertyInfo = addr_of!(hwcore::bindings::qdev_prop_oas_mode);
}

impl OasMode {
    /// Returns the number of output address bits asked for; `None` stands for a size that
    /// this device does not implement.
    const fn value(self) -> Option<Auto<u8>> {
        match self.0 {
            bindings::OAS_MODE_AUTO => Some(Auto::FromHost),
            bindings::OAS_MODE_44 => Some(Auto::Value(44)),
            bindings::OAS_MODE_48 => Some(Auto::Value(48)),
            _ => None,
        }
    }
}

/// QAPI's `SsidSizeMode`: `auto`, or a number of bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct SsidSizeMode(u32);

// SAFETY: the setter of the property writes an enumeration of C, which is a u32
unsafe impl QDevProp for SsidSizeMode {
    const BASE_INFO: *const PropertyInfo = addr_of!(hwcore::bindings::qdev_prop_ssidsize_mode);
}

impl SsidSizeMode {
    /// Returns the number of `SubstreamID` bits asked for, 0 to 20.
    const fn value(self) -> Auto<u8> {
        match self.0 {
            bindings::SSID_SIZE_MODE_AUTO => Auto::FromHost,
            #[allow(clippy::cast_possible_truncation)]
            value => Auto::Value((value - bindings::SSID_SIZE_MODE_0) as u8),
        }
    }
}

/// The value of a property that can be `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// `auto`: to be taken from the host
    FromHost,
    /// Given by the user
    Value(T),
}

impl<T> From<Option<T>> for Auto<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::FromHost, Self::Value)
    }
}

/// The stages that translate (`stage`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Stage 1
    One,
    /// Stage 2
    Two,
    /// Both, one behind the other
    Nested,
}

/// The properties that shape the ID registers, as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmmuProperties {
    /// IDR0.S1P and IDR0.S2P
    pub stage: Stage,
    /// IDR0.ATS
    pub ats: Auto<bool>,
    /// IDR0.MSI; `auto` is the value of `accel`
    pub msi: Auto<bool>,
    /// IDR3.RIL
    pub ril: Auto<bool>,
    /// IDR0.CD2L
    pub cd2l: Auto<bool>,
    /// IDR5.VAX
    pub vax: Auto<bool>,
    /// IDR5.OAS, in bits
    pub oas: Auto<u8>,
    /// IDR1.SSIDSIZE, in bits
    pub ssidsize: Auto<u8>,
    /// CMDQ virtualization; not in the ID registers
    pub cmdqv: Auto<bool>,
    /// Nested translation for assigned devices; not in the ID registers
    pub accel: bool,
}

/// The values of the properties, as the user has set them.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Stages of translation
    pub stage: Option<&'a CStr>,
    /// Nested translation for assigned devices
    pub accel: bool,
    /// Range invalidation
    pub ril: Option<bool>,
    /// Address Translation Services
    pub ats: Option<bool>,
    /// Message Signalled Interrupts of the SMMU itself
    pub msi: Option<bool>,
    /// Two-level Context descriptor tables
    pub cd2l: Option<bool>,
    /// 52-bit virtual addresses
    pub vax: Option<bool>,
    /// Output address size
    pub oas: OasMode,
    /// Number of `SubstreamID` bits
    pub ssidsize: SsidSizeMode,
    /// CMDQ virtualization
    pub cmdqv: Option<bool>,
}

impl SmmuProperties {
    /// Checks the values of the properties.
    pub fn new(values: &Values<'_>) -> Result<Self> {
        let Some(oas) = values.oas.value() else {
            return Err(Error::msg(
                "property 'oas' of arm-smmuv3 can be auto, 44 or 48: other sizes are not implemented",
            ));
        };
        let stage = values
            .stage
            .map_or("1".into(), |stage| stage.to_string_lossy());
        let properties = Self {
            // Compatibility: like the C device, any other string selects stage 1
            stage: match &*stage {
                "2" => Stage::Two,
                "nested" => Stage::Nested,
                _ => Stage::One,
            },
            ats: values.ats.into(),
            // Without accel the ID registers are not in the migration stream: a guest that has seen
            // IDR0.MSI would wait for MSIs in vain at a destination without. So the default is on
            // only where they are.
            msi: values.msi.into(),
            ril: values.ril.into(),
            cd2l: values.cd2l.into(),
            vax: values.vax.into(),
            oas,
            ssidsize: values.ssidsize.value(),
            cmdqv: values.cmdqv.into(),
            accel: values.accel,
        };
        if values.accel {
            ensure!(
                stage == "1",
                "arm-smmuv3 with accel=on has stage 1 only: the host's SMMU adds stage 2 (stage='{}')",
                stage
            );
        } else {
            properties.check_software(values)?;
        }
        Ok(properties)
    }

    /// Refuses values that only make sense with assigned devices: most properties describe
    /// their host.
    fn check_software(&self, values: &Values<'_>) -> Result<()> {
        ensure!(
            self.ril != Auto::Value(false),
            "property 'ril' of arm-smmuv3 can only be off with accel=on"
        );
        ensure!(
            self.ats != Auto::Value(true),
            "property 'ats' of arm-smmuv3 can only be on with accel=on"
        );
        ensure!(
            self.cd2l != Auto::Value(true),
            "property 'cd2l' of arm-smmuv3 can only be on with accel=on"
        );
        ensure!(
            self.vax != Auto::Value(true),
            "property 'vax' of arm-smmuv3 can only be on with accel=on"
        );
        ensure!(
            matches!(self.oas, Auto::FromHost | Auto::Value(44)),
            "property 'oas' of arm-smmuv3 must be 44 (or auto) with accel=off"
        );
        ensure!(
            matches!(self.ssidsize, Auto::FromHost | Auto::Value(0)),
            "property 'ssidsize' of arm-smmuv3 can only be greater than 0 with accel=on"
        );
        ensure!(
            values.cmdqv != Some(true),
            "property 'cmdqv' of arm-smmuv3 can only be on with accel=on"
        );
        Ok(())
    }

    /// Returns whether a property is `auto`, so that the host decides.
    pub fn wants_host(&self) -> bool {
        [self.ats, self.ril, self.cd2l, self.vax].contains(&Auto::FromHost)
            || self.oas == Auto::FromHost
            || self.ssidsize == Auto::FromHost
    }

    /// Returns the ID registers before a host is known: `auto` is what a guest without
    /// assigned devices would see.
    pub fn features(&self) -> Features {
        let stage2 = self.stage != Stage::One;
        let mut features = Features::arm_smmuv3()
            .with_s1p(self.stage != Stage::Two)
            .with_s2p(stage2)
            .with_xnx(stage2)
            .with_msi(self.msi == Auto::Value(true) || (self.msi == Auto::FromHost && self.accel));
        if let Auto::Value(ats) = self.ats {
            features = features.with_ats(ats);
        }
        if let Auto::Value(ril) = self.ril {
            features = features.with_ril(ril);
        }
        if let Auto::Value(cd2l) = self.cd2l {
            features = features.with_cd2l(cd2l);
        }
        if let Auto::Value(vax) = self.vax {
            features = features.with_vax(vax.into());
        }
        if let Auto::Value(bits) = self.oas {
            features = features.with_oas(oas_encoding(bits));
        }
        if let Auto::Value(bits) = self.ssidsize {
            features = features.with_ssidsize(bits);
        }
        features
    }

    /// Returns the ID registers of the same SMMU with accel=off, where ATS, RIL, CD2L, VAX, OAS and
    /// SSIDSIZE have one value each.
    ///
    /// They are what a guest has seen whose migration stream has no ID registers: that of the C
    /// device, or with accel=off.
    pub fn features_without_accel(&self) -> Features {
        Self {
            ats: Auto::FromHost,
            ril: Auto::FromHost,
            cd2l: Auto::FromHost,
            vax: Auto::FromHost,
            oas: Auto::FromHost,
            ssidsize: Auto::FromHost,
            accel: false,
            ..*self
        }
        .features()
    }

    /// Returns whether an SMMU with accel=on can show these ID registers, with some properties and
    /// some host.
    pub fn can_show(features: &Features) -> bool {
        let base = Features::arm_smmuv3();
        let like_base = features
            .with_ats(base.ats())
            .with_msi(base.msi())
            .with_ril(base.ril())
            .with_cd2l(base.cd2l())
            .with_vax(base.vax())
            .with_oas(base.oas())
            .with_ssidsize(base.ssidsize())
            .with_asid16(base.asid16())
            .with_had(base.had())
            .with_bbml(base.bbml());
        like_base == base
            && features.oas() <= MAX_OAS
            && features.vax() <= 1
            && features.ssidsize() <= MAX_SSIDSIZE
            && features.bbml() <= base.bbml()
    }

    /// Returns the ID registers once the host of the first device is known.
    ///
    /// `auto` becomes what the host has. ASID16, HAD and BBML have no property: a
    /// guest is shown no more of them than the host can do, or its ASIDs above
    /// 255 and its live changes of block sizes would be undone by the host, and its
    /// CD.HAD0 and CD.HAD1 ignored.
    /// Not for a guest that runs already: the ID registers that it has read stay.
    pub fn resolve(&self, mut features: Features, host: &Features) -> Features {
        if self.ats == Auto::FromHost {
            features = features.with_ats(host.ats());
        }
        if self.ril == Auto::FromHost {
            features = features.with_ril(host.ril());
        }
        if self.cd2l == Auto::FromHost {
            features = features.with_cd2l(host.cd2l());
        }
        if self.vax == Auto::FromHost {
            // 56 bits take 128-bit descriptors, which the guest is not shown
            features = features.with_vax(host.vax().min(1));
        }
        if self.oas == Auto::FromHost {
            features = features.with_oas(host.oas());
        }
        if self.ssidsize == Auto::FromHost {
            features = features.with_ssidsize(host.ssidsize());
        }
        features
            .with_asid16(features.asid16() && host.asid16())
            .with_had(features.had() && host.had())
            .with_bbml(features.bbml().min(host.bbml()))
    }
}

/// Returns IDR5.OAS for a size that [`SmmuProperties::new`] lets through (§6.3.6).
const fn oas_encoding(bits: u8) -> u8 {
    if bits == 48 {
        0b101
    } else {
        0b100
    }
}
