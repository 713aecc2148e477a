// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The PCI side of an SMMU with assigned devices: which devices may be behind it, and the
//! address space of each.

use std::sync::OnceLock;

use bql::BqlCell;
use hwcore::prelude::*;
use qemu_ext::{
    arm_smmu::ArmSmmu,
    dma::AddressSpace,
    object::{for_each_object, ObjectExt},
    pci::{PciBus, PciDevice, PciFunction},
    pci_iommu::ViommuFlags,
    qdev::DeviceExt,
};
use qom::prelude::*;
use util::{Error, Result};

/// Whether the PCI core has asked an SMMU for the address space of a function.
#[derive(Debug, Default)]
pub struct AddressSpaceRequests(BqlCell<bool>);

/// Returns the device for which the PCI core asks in the name of `function` although it is
/// elsewhere: an endpoint behind a conventional bridge, which puts its own requester ID into
/// the transactions.
///
/// Such an endpoint is registered on its bus before the PCI core asks.
fn masked_endpoint(function: PciFunction<'_>) -> Option<Owned<PciDevice>> {
    let mut found = None;
    for_each_object(|object| {
        let Some(bus) = object.dynamic_cast::<PciBus>() else {
            return;
        };
        bus.for_each_device(|device| {
            if !is_bridge(device) && masked_by(device) == Some(function) {
                found = Some(device.to_owned());
            }
        });
    });
    found
}

/// Returns the function whose requester ID a device's transactions carry, if it is another
/// one than the device's.
fn masked_by(device: &PciDevice) -> Option<PciFunction<'_>> {
    device.requester().filter(|function| {
        // the first function of a PCIe-to-PCI bridge's bus has the ID that masks the others
        let there = function.device();
        !there.is_some_and(|there| std::ptr::eq::<PciDevice>(&*there, device))
    })
}

/// Returns whether a device may be behind an SMMU with assigned devices although QEMU
/// emulates it.
fn is_bridge(device: &PciDevice) -> bool {
    [c"base-pci-bridge", c"pxb-pcie", c"gpex-root"]
        .into_iter()
        .any(|name| device.is_a(name))
}

/// The kinds of devices on a bus behind an SMMU with assigned devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Bridge,
    Assigned,
    AssignedWithoutIommufd,
    Emulated,
}

impl Endpoint {
    fn of(device: &PciDevice) -> Self {
        if is_bridge(device) {
            Self::Bridge
        } else if !device.is_a(c"vfio-pci") {
            Self::Emulated
        } else if device.has_link(c"iommufd") {
            Self::Assigned
        } else {
            Self::AssignedWithoutIommufd
        }
    }
}

/// Refuses a device that an SMMU with assigned devices cannot serve. The PCI core asks
/// for it in the name of `function`.
pub fn permit(smmu: &DeviceState, function: PciFunction<'_>) -> Result<()> {
    let smmu = smmu.path_component().unwrap_or_default();
    let masked = masked_endpoint(function);
    let is_masked = masked.is_some();
    let Some(device) = masked.or_else(|| function.device()) else {
        return Ok(());
    };
    // a conventional bus, whose bridge may put in another requester ID
    let is_conventional = device.bus().is_some_and(|bus| !bus.is_express());
    let name = device.type_and_id();
    let bridge = || {
        let bridge = device.parent_device();
        bridge.map_or_else(String::new, |bridge| bridge.type_and_id())
    };
    match Endpoint::of(&device) {
        Endpoint::Bridge => Ok(()),
        // Its transactions and those of its neighbours would have one StreamID, while the
        // host binds one device only to each StreamID.
        Endpoint::Assigned | Endpoint::AssignedWithoutIommufd if is_masked || is_conventional => {
            Err(Error::msg(format!(
                "{name} cannot be behind arm-smmuv3 '{smmu}' with accel=on through the conventional \
                 bridge {}, whose StreamID it would share: plug it into a PCI Express port",
                bridge()
            )))
        }
        Endpoint::Assigned => Ok(()),
        Endpoint::Emulated if is_masked => Err(Error::msg(format!(
            "emulated endpoint {name} behind bridge {} cannot be behind arm-smmuv3 '{smmu}' with \
             accel=on, which serves vfio-pci devices only: plug it into another root complex",
            bridge()
        ))),
        Endpoint::Emulated => Err(Error::msg(format!(
            "emulated endpoint {name} cannot be behind arm-smmuv3 '{smmu}' with accel=on, which serves \
             vfio-pci devices only: plug it into another root complex"
        ))),
        Endpoint::AssignedWithoutIommufd => Err(Error::msg(format!(
            "{name} behind arm-smmuv3 '{smmu}' with accel=on needs an iommufd backend: give it iommufd=ID"
        ))),
    }
}

/// Returns the address space of a function behind `smmu`.
pub fn address_space<'a>(
    smmu: &'a ArmSmmu,
    requests: &AddressSpaceRequests,
    function: PciFunction<'a>,
) -> &'a AddressSpace {
    let record = smmu.function(function);
    requests.0.set(true);
    let is_assigned = function
        .device()
        .is_some_and(|device| Endpoint::of(&device) == Endpoint::Assigned);
    if is_assigned {
        // the host's SMMU translates; stage 2 there covers all guest memory
        untranslated()
    } else {
        record.address_space()
    }
}

/// Returns the address space of assigned devices. Those behind every SMMU share it, so that
/// they can share one stage 2 in the VFIO core.
fn untranslated() -> &'static AddressSpace {
    static SHARED: OnceLock<&AddressSpace> = OnceLock::new();

    SHARED.get_or_init(|| {
        AddressSpace::alias_of_memory(c"smmuv3-accel-as-sysmem", c"smmuv3-accel-sysmem")
    })
}

/// Returns the SMMU's requirements on VFIO. `has_pasid` is whether the guest is shown PASIDs.
pub fn viommu_flags(has_pasid: bool) -> ViommuFlags {
    if has_pasid {
        ViommuFlags::WANT_NESTING_PARENT | ViommuFlags::PASID_SUPPORTED
    } else {
        ViommuFlags::WANT_NESTING_PARENT
    }
}

/// Returns the name of an endpoint that is behind the SMMU of `requests` already.
///
/// Every endpoint in the machine asks for its address space once more, the way the PCI core
/// has it ask: behind a conventional bridge in another one's name.
pub fn first_endpoint(requests: &AddressSpaceRequests) -> Option<String> {
    let mut found = None;
    for_each_object(|object| {
        let Some(device) = object.dynamic_cast::<PciDevice>() else {
            return;
        };
        if found.is_none() && !is_bridge(device) {
            requests.0.set(false);
            device.iommu_address_space();
            if requests.0.get() {
                found = Some(device.type_and_id());
            }
        }
    });
    found
}
