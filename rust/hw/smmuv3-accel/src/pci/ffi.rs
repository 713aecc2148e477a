// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What the PCI core and VFIO call, and what they are asked.

use std::{
    ffi::{c_int, c_void},
    ptr::{self, addr_of_mut, NonNull},
    sync::OnceLock,
};

use qom::prelude::*;
use util::Error;

use crate::{
    accel::ffi::HostDevice,
    bindings::{self, PCIIOMMUOps},
    device::Smmuv3,
    ffi::SmmuState,
    memory::zeroed_leaked,
};

/// A function on a PCI bus, as the PCI core names it to an IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciFunction {
    bus: NonNull<bindings::PCIBus>,
    devfn: u8,
}

impl PciFunction {
    /// The function `devfn` (0 to 255) on `bus`.
    ///
    /// # Safety
    ///
    /// `bus` must be NULL or a bus that outlives the value, as the PCI core's do:
    /// a device is taken off its SMMU before its bus goes.
    pub unsafe fn new(bus: *mut bindings::PCIBus, devfn: c_int) -> Option<Self> {
        Some(Self {
            bus: NonNull::new(bus)?,
            devfn: u8::try_from(devfn).ok()?,
        })
    }

    /// Device and function number.
    pub const fn devfn(self) -> u8 {
        self.devfn
    }

    /// The `StreamID`: bus, device and function number as the guest has
    /// programmed them by now.
    pub fn stream_id(self) -> u32 {
        // SAFETY: the PCI core's bus outlives the devices on it, and the device
        // is taken off its SMMU before it goes
        let bus = unsafe { bindings::pci_bus_num(self.bus.as_ptr()) };
        ((bus as u32 & 0xff) << 8) | u32::from(self.devfn)
    }

    /// What is plugged here: only what an accelerated SMMU can serve.
    fn classify(self) -> Endpoint {
        // SAFETY: as in `stream_id`; the result is NULL or an object that lives
        // while the BQL is held; the type names are NUL-terminated
        unsafe {
            let bus = self.bus.as_ptr();
            let device = bindings::pci_find_device(bus, bindings::pci_bus_num(bus), self.devfn);
            if device.is_null() {
                return Endpoint::Empty;
            }
            let object: *mut qom::bindings::Object = device.cast();
            if is_bridge(object) {
                return Endpoint::Bridge;
            }
            if qom::bindings::object_dynamic_cast(object, c"vfio-pci".as_ptr()).is_null() {
                return Endpoint::Emulated;
            }
            let iommufd = qom::bindings::object_property_get_link(
                object,
                c"iommufd".as_ptr(),
                ptr::null_mut(),
            );
            if iommufd.is_null() {
                Endpoint::AssignedWithoutIommufd
            } else {
                Endpoint::Assigned
            }
        }
    }

    /// The base type's record of this function, made if it is not there yet.
    fn smmu_device(self, smmu: &Smmuv3) -> *mut bindings::SMMUDevice {
        let state: *mut bindings::SMMUState = smmu.upcast::<SmmuState>().as_mut_ptr();
        // SAFETY: smmu_get_sbus returns a record with 256 slots, which lives as
        // long as the SMMU; `devfn` is at most 255. smmu_init_sdev wants zeroed
        // memory that stays.
        unsafe {
            let sbus = bindings::smmu_get_sbus(state, self.bus.as_ptr());
            let slot = (*sbus).pbdev.as_mut_ptr().add(usize::from(self.devfn));
            if (*slot).is_null() {
                *slot = zeroed_leaked();
                bindings::smmu_init_sdev(state, *slot, self.bus.as_ptr(), c_int::from(self.devfn));
            }
            *slot
        }
    }
}

/// What can be plugged into a bus behind an accelerated SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Empty,
    Bridge,
    Assigned,
    AssignedWithoutIommufd,
    Emulated,
}

/// The function that the PCI core names in one of the calls below.
fn function(bus: *mut bindings::PCIBus, devfn: c_int) -> Option<PciFunction> {
    // SAFETY: only called with what the PCI core passes: its buses outlive what
    // is plugged into them
    unsafe { PciFunction::new(bus, devfn) }
}

unsafe extern "C" fn supports_address_space(
    bus: *mut bindings::PCIBus,
    _opaque: *mut c_void,
    devfn: c_int,
    errp: *mut *mut bindings::Error,
) -> bool {
    let result = match function(bus, devfn).map(PciFunction::classify) {
        Some(Endpoint::Emulated) => Err(Error::msg(
            "arm-smmuv3 with accel=on serves vfio-pci devices only: an emulated endpoint cannot \
             be behind it",
        )),
        Some(Endpoint::AssignedWithoutIommufd) => Err(Error::msg(
            "arm-smmuv3 with accel=on needs vfio-pci devices with an iommufd backend (iommufd=ID)",
        )),
        _ => Ok(()),
    };
    // SAFETY: errp comes from the C caller
    unsafe { Error::bool_or_propagate(result, errp) }
}

unsafe extern "C" fn get_address_space(
    bus: *mut bindings::PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
) -> *mut bindings::AddressSpace {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    let smmu = unsafe { smmu_of(opaque) };
    let Some(function) = function(bus, devfn) else {
        return shared_system_address_space();
    };
    let record = function.smmu_device(smmu);
    smmu.note_asked();
    if function.classify() == Endpoint::Assigned {
        // the host's SMMU translates; stage 2 there covers all guest memory
        shared_system_address_space()
    } else {
        // SAFETY: smmu_device returns a valid record
        unsafe { addr_of_mut!((*record).as_) }
    }
}

/// `VIOMMU_FLAG_*` of QEMU's hw/core/iommu.h, which QEMU's bindings lack.
const VIOMMU_FLAG_WANT_NESTING_PARENT: u64 = 1 << 0;
const VIOMMU_FLAG_PASID_SUPPORTED: u64 = 1 << 1;

unsafe extern "C" fn get_viommu_flags(opaque: *mut c_void) -> u64 {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    let smmu = unsafe { smmu_of(opaque) };
    let mut flags = VIOMMU_FLAG_WANT_NESTING_PARENT;
    if smmu.wants_pasid() {
        flags |= VIOMMU_FLAG_PASID_SUPPORTED;
    }
    flags
}

unsafe extern "C" fn set_iommu_device(
    bus: *mut bindings::PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
    host_device: *mut bindings::HostIOMMUDevice,
    errp: *mut *mut bindings::Error,
) -> bool {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    let smmu = unsafe { smmu_of(opaque) };
    let result = match (
        function(bus, devfn),
        // SAFETY: NULL or a valid object, by contract of the PCI core
        unsafe { HostDevice::of(host_device.cast()) },
    ) {
        (Some(function), Some(device)) => smmu.plug(function, device),
        // not backed by iommufd: supports_address_space has refused the others
        _ => Ok(()),
    };
    // SAFETY: errp comes from the C caller
    unsafe { Error::bool_or_propagate(result, errp) }
}

unsafe extern "C" fn unset_iommu_device(
    bus: *mut bindings::PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
) {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    let smmu = unsafe { smmu_of(opaque) };
    if let Some(function) = function(bus, devfn) {
        smmu.unplug(function);
    }
}

unsafe extern "C" fn get_msi_direct_gpa(
    _bus: *mut bindings::PCIBus,
    opaque: *mut c_void,
    _devfn: c_int,
) -> u64 {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    unsafe { smmu_of(opaque) }.msi_gpa()
}

/// # Safety
///
/// `opaque` must be what the C base registered with the PCI core: its own
/// instance, which is a [`Smmuv3`] if it uses [`ACCEL_OPS`].
unsafe fn smmu_of<'a>(opaque: *mut c_void) -> &'a Smmuv3 {
    // SAFETY: promised by the caller
    unsafe { &*opaque.cast::<Smmuv3>() }
}

/// The operations through which the PCI core and VFIO reach an accelerated SMMU.
static ACCEL_OPS: OpsTable = OpsTable(PCIIOMMUOps {
    supports_address_space: Some(supports_address_space),
    get_address_space: Some(get_address_space),
    get_viommu_flags: Some(get_viommu_flags),
    set_iommu_device: Some(set_iommu_device),
    unset_iommu_device: Some(unset_iommu_device),
    get_msi_direct_gpa: Some(get_msi_direct_gpa),
    // SAFETY: a struct of nullable function pointers
    ..unsafe { std::mem::MaybeUninit::zeroed().assume_init() }
});

struct OpsTable(PCIIOMMUOps);

// SAFETY: function pointers, never written
unsafe impl Sync for OpsTable {}

/// Makes the C base register the accelerated mode's operations when it is realized.
pub fn use_accel_ops(smmu: &Smmuv3) {
    let state: *mut bindings::SMMUState = smmu.upcast::<SmmuState>().as_mut_ptr();
    // SAFETY: not yet realized: nobody else uses the field
    unsafe { (*state).iommu_ops = &ACCEL_OPS.0 }
}

/// Is there an endpoint behind `smmu` already?
///
/// Every endpoint in the machine asks for its address space once more, the way
/// the PCI core has it ask: behind a conventional bridge under another name.
pub fn has_endpoint(smmu: &Smmuv3) -> bool {
    struct Search<'a> {
        smmu: &'a Smmuv3,
        found: bool,
    }
    unsafe extern "C" fn visit(object: *mut qom::bindings::Object, opaque: *mut c_void) -> c_int {
        // SAFETY: a valid object and the search below, by contract of the caller;
        // a realized PCI device may ask for its address space at any time
        unsafe {
            let search = &mut *opaque.cast::<Search>();
            let device: *mut bindings::PCIDevice =
                qom::bindings::object_dynamic_cast(object, c"pci-device".as_ptr()).cast();
            if !device.is_null()
                && (*object.cast::<hwcore::bindings::DeviceState>()).realized
                && !is_bridge(object)
            {
                search.smmu.take_asked();
                bindings::pci_device_iommu_address_space(device);
                search.found |= search.smmu.take_asked();
            }
        }
        0
    }
    let mut search = Search { smmu, found: false };
    // SAFETY: the callback keeps nothing; the BQL keeps the tree as it is
    unsafe {
        qom::bindings::object_child_foreach_recursive(
            qom::bindings::object_get_root(),
            Some(visit),
            addr_of_mut!(search).cast(),
        );
    }
    search.found
}

/// May `object`, a PCI device, be behind an accelerated SMMU although QEMU
/// emulates it?
///
/// # Safety
///
/// `object` must be a valid object.
unsafe fn is_bridge(object: *mut qom::bindings::Object) -> bool {
    [c"base-pci-bridge", c"pxb-pcie", c"gpex-root"]
        .into_iter()
        // SAFETY: promised by the caller; the names are NUL-terminated
        .any(|name| unsafe { !qom::bindings::object_dynamic_cast(object, name.as_ptr()).is_null() })
}

/// The address space of assigned devices: an alias of the guest's memory. The
/// devices behind every accelerated SMMU share it, so that they can share one
/// stage 2 in the VFIO core.
fn shared_system_address_space() -> *mut bindings::AddressSpace {
    static SHARED: OnceLock<usize> = OnceLock::new();

    let address = *SHARED.get_or_init(|| {
        // SAFETY: the three objects are leaked, hence as long-lived as the
        // memory core may want; all-zeroes is what C initializes them from.
        // The caller holds the BQL (the PCI core asks for address spaces).
        unsafe {
            let root: *mut bindings::MemoryRegion = zeroed_leaked();
            let alias: *mut bindings::MemoryRegion = zeroed_leaked();
            let space: *mut bindings::AddressSpace = zeroed_leaked();
            let system = system::bindings::get_system_memory();
            system::bindings::memory_region_init(root, ptr::null_mut(), c"root".as_ptr(), u64::MAX);
            system::bindings::memory_region_init_alias(
                alias,
                ptr::null_mut(),
                c"smmuv3-accel-sysmem".as_ptr(),
                system,
                0,
                system::bindings::memory_region_size(system),
            );
            system::bindings::memory_region_add_subregion(root, 0, alias);
            system::bindings::address_space_init(space, root, c"smmuv3-accel-as-sysmem".as_ptr());
            space as usize
        }
    });
    address as *mut bindings::AddressSpace
}
