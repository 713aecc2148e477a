// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The PCI side of an SMMU with assigned devices: which devices may be behind it, and the
//! address space of each.

use std::{
    ffi::CStr,
    sync::{
        atomic::{AtomicBool, Ordering},
        OnceLock,
    },
};

use bql::{BqlCell, BqlRefCell};
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

/// Supertype of all devices that VFIO serves.
const VFIO_DEVICE: &CStr = c"vfio-pci-device";

/// Returns whether a device takes its address space when it is realized, and keeps it: an SMMU
/// that comes later would never translate its accesses. All others take it when the machine is
/// complete.
fn keeps_address_space(device: &PciDevice) -> bool {
    [VFIO_DEVICE, c"iommu-testdev"]
        .into_iter()
        .any(|name| device.is_a(name))
}

/// The kinds of devices on a bus behind an SMMU with assigned devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Bridge,
    Assigned,
    AssignedWithoutIommufd,
    /// A device of another process, which maps memory by MAP notifiers
    OtherProcess,
    Emulated,
}

impl Endpoint {
    fn of(device: &PciDevice) -> Self {
        if is_bridge(device) {
            Self::Bridge
        } else if !device.is_a(VFIO_DEVICE) {
            Self::Emulated
        } else if !device.is_a(c"vfio-pci") {
            Self::OtherProcess
        } else if device.has_link(c"iommufd") {
            Self::Assigned
        } else {
            Self::AssignedWithoutIommufd
        }
    }
}

/// Returns the refusal of an emulated endpoint behind an SMMU whose commands do not all come to
/// QEMU.
pub fn refuse_emulated(smmu: &str, endpoint: &str) -> Error {
    Error::msg(format!(
        "emulated endpoint {endpoint} cannot be behind arm-smmuv3 '{smmu}' with cmdqv=on, because QEMU does not \
         see all commands of the guest: plug it into another root complex, or set cmdqv=auto"
    ))
}

/// Refuses a device that an SMMU with assigned devices cannot serve. The PCI core asks
/// for it in the name of `function`. `requires_cmdqv` is whether the guest's queues must be
/// executed by the host.
pub fn permit(smmu: &DeviceState, function: PciFunction<'_>, requires_cmdqv: bool) -> Result<()> {
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
        Endpoint::Emulated if requires_cmdqv => Err(refuse_emulated(&smmu, &name)),
        Endpoint::Emulated => Ok(()),
        Endpoint::OtherProcess => Err(Error::msg(format!(
            "{name} cannot be behind arm-smmuv3 '{smmu}', because it needs MAP notifiers: plug it into another \
             root complex"
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

/// Returns whether a device is behind the SMMU of `requests`.
///
/// The device asks for its address space once more, the way the PCI core has it ask: behind a
/// conventional bridge in another one's name.
fn is_behind(requests: &AddressSpaceRequests, device: &PciDevice) -> bool {
    requests.0.set(false);
    device.iommu_address_space();
    requests.0.get()
}

/// Calls `function` with each endpoint in the machine that is behind the SMMU of `requests`.
fn for_each_endpoint(requests: &AddressSpaceRequests, mut function: impl FnMut(&PciDevice)) {
    for_each_object(|object| {
        if let Some(device) = object.dynamic_cast::<PciDevice>() {
            if device.is_realized() && !is_bridge(device) && is_behind(requests, device) {
                function(device);
            }
        }
    });
}

/// Returns the name of a device that is behind the SMMU of `requests` already, and that the
/// SMMU would never translate.
pub fn first_untranslated(requests: &AddressSpaceRequests) -> Option<String> {
    let mut found = None;
    for_each_endpoint(requests, |device| {
        if found.is_none() && keeps_address_space(device) {
            found = Some(device.type_and_id());
        }
    });
    found
}

/// The emulated endpoints behind an SMMU with assigned devices.
#[derive(Default)]
pub struct EmulatedEndpoints {
    devices: BqlRefCell<Vec<Owned<PciDevice>>>,
    /// Atomic, because translation reads it without the BQL, and because that costs a doorbell
    /// less than a check that the BQL is held
    is_any: AtomicBool,
}

impl EmulatedEndpoints {
    /// Returns whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.is_any.load(Ordering::Relaxed)
    }

    /// Returns the name of one.
    pub fn first(&self) -> Option<String> {
        let devices = self.devices.borrow();
        devices.first().map(DeviceExt::type_and_id)
    }

    /// Adds those that are behind the SMMU of `requests` already.
    pub fn find(&self, requests: &AddressSpaceRequests) {
        for_each_endpoint(requests, |device| {
            self.add(requests, device);
        });
    }

    /// Adds `device`, if it is an emulated endpoint behind the SMMU of `requests`. Returns
    /// whether it is the first one.
    pub fn add(&self, requests: &AddressSpaceRequests, device: &PciDevice) -> bool {
        if Endpoint::of(device) != Endpoint::Emulated || !is_behind(requests, device) {
            return false;
        }
        self.change(|devices| {
            let is_first = devices.is_empty();
            if !devices.iter().any(|other| is_same(other, device)) {
                devices.push(device.to_owned());
            }
            is_first
        })
    }

    /// Removes `device`, which is gone. Returns whether it was the last one.
    pub fn remove(&self, device: &PciDevice) -> bool {
        let count = self.devices.borrow().len();
        self.change(|devices| {
            devices.retain(|other| !is_same(other, device));
            devices.is_empty() && count != 0
        })
    }

    /// Calls `function` with the endpoints, without those that are gone: QEMU calls no listener
    /// for a device that fails to be realized after all.
    fn change<R>(&self, function: impl FnOnce(&mut Vec<Owned<PciDevice>>) -> R) -> R {
        let mut devices = self.devices.borrow_mut();
        devices.retain(DeviceExt::is_realized);
        let result = function(&mut devices);
        self.is_any.store(!devices.is_empty(), Ordering::Relaxed);
        result
    }
}

fn is_same(a: &PciDevice, b: &PciDevice) -> bool {
    std::ptr::eq(a, b)
}
