// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! What the PCI core and VFIO call, and what they are asked.

use std::{
    ffi::{c_int, c_void, CStr},
    ptr::{self, addr_of_mut, NonNull},
    sync::OnceLock,
};

use qom::prelude::*;
use util::{Error, Result};

use crate::{
    accel::ffi::HostDevice,
    bindings::{self, PCIIOMMUOps},
    device::Smmuv3,
    ffi::{id_of, SmmuState},
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

    /// The device that is plugged here.
    fn device(self) -> Option<PciDevice> {
        // SAFETY: as in `stream_id`; the result is NULL or a device that lives while
        // the BQL is held
        unsafe {
            let bus = self.bus.as_ptr();
            let device = bindings::pci_find_device(bus, bindings::pci_bus_num(bus), self.devfn);
            NonNull::new(device).map(PciDevice)
        }
    }

    /// An endpoint elsewhere whose transactions carry this function's requester ID,
    /// because it is behind a conventional bridge.
    ///
    /// The PCI core asks in the name of this function for such an endpoint, which is
    /// registered on its bus by then.
    fn masked_endpoint(self) -> Option<PciDevice> {
        struct Search {
            function: PciFunction,
            found: Option<PciDevice>,
        }
        unsafe extern "C" fn visit_device(
            _bus: *mut bindings::PCIBus,
            device: *mut bindings::PCIDevice,
            opaque: *mut c_void,
        ) {
            // SAFETY: the search below
            let search = unsafe { &mut *opaque.cast::<Search>() };
            let Some(device) = NonNull::new(device).map(PciDevice) else {
                return;
            };
            if !device.is_bridge() && device.masked_by() == Some(search.function) {
                search.found = Some(device);
            }
        }
        unsafe extern "C" fn visit_object(
            object: *mut qom::bindings::Object,
            opaque: *mut c_void,
        ) -> c_int {
            // SAFETY: a valid object, by contract of the caller; a PCI bus begins with
            // its object
            unsafe {
                let bus = qom::bindings::object_dynamic_cast(object, c"PCI".as_ptr());
                if !bus.is_null() {
                    bindings::pci_for_each_device_under_bus(bus.cast(), Some(visit_device), opaque);
                }
            }
            0
        }
        let mut search = Search {
            function: self,
            found: None,
        };
        for_each_object(visit_object, addr_of_mut!(search).cast());
        search.found
    }

    /// What is plugged here, as far as it makes a difference to an accelerated SMMU.
    fn classify(self) -> Endpoint {
        self.device().map_or(Endpoint::Empty, PciDevice::classify)
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

/// A device that is registered on a PCI bus.
///
/// Values are made while the BQL is held and do not outlive the call that made them, so
/// the device stays; its bus is not NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PciDevice(NonNull<bindings::PCIDevice>);

impl PciDevice {
    const fn object(self) -> *mut qom::bindings::Object {
        self.0.as_ptr().cast()
    }

    fn is_bridge(self) -> bool {
        // SAFETY: a valid object
        unsafe { is_bridge(self.object()) }
    }

    fn is_assigned(self) -> bool {
        // SAFETY: a valid object; the name is NUL-terminated
        unsafe {
            !qom::bindings::object_dynamic_cast(self.object(), c"vfio-pci".as_ptr()).is_null()
        }
    }

    fn classify(self) -> Endpoint {
        if self.is_bridge() {
            return Endpoint::Bridge;
        }
        if !self.is_assigned() {
            return Endpoint::Emulated;
        }
        // SAFETY: a valid object with this link; the name is NUL-terminated
        let iommufd = unsafe {
            qom::bindings::object_property_get_link(
                self.object(),
                c"iommufd".as_ptr(),
                ptr::null_mut(),
            )
        };
        if iommufd.is_null() {
            Endpoint::AssignedWithoutIommufd
        } else {
            Endpoint::Assigned
        }
    }

    /// The function whose requester ID this device's transactions carry, if it is another
    /// one: a conventional bridge puts in its own.
    fn masked_by(self) -> Option<PciFunction> {
        let (mut iommu_bus, mut bus) = (ptr::null_mut(), ptr::null_mut());
        let mut devfn = 0;
        // SAFETY: a registered device; the callee fills in what the pointers lead to
        let function = unsafe {
            bindings::pci_device_get_iommu_bus_devfn(
                self.0.as_ptr(),
                &mut iommu_bus,
                &mut bus,
                &mut devfn,
            );
            PciFunction::new(bus, devfn)
        };
        // the first function of a PCIe-to-PCI bridge's bus has the ID that masks the others
        function.filter(|function| function.device() != Some(self))
    }

    /// Is it on a conventional bus, whose bridge may put in another requester ID?
    fn is_conventional(self) -> bool {
        // SAFETY: a registered device has a bus, which is a PCI bus
        unsafe {
            let device: *const hwcore::bindings::DeviceState = self.0.as_ptr().cast();
            !bindings::pci_bus_is_express((*device).parent_bus.cast())
        }
    }

    /// Type and id, for the user.
    fn name(self) -> String {
        // SAFETY: a valid device
        unsafe { name_of(self.object()) }
    }

    /// Type and id of the bridge that the device is plugged into.
    fn bridge_name(self) -> String {
        // SAFETY: a registered device has a bus; a bus has the device that makes it as
        // its parent, which is valid for as long
        unsafe {
            let device: *const hwcore::bindings::DeviceState = self.0.as_ptr().cast();
            let bus = (*device).parent_bus;
            name_of((*bus).parent.cast())
        }
    }
}

/// Type and id of a device, for the user.
///
/// # Safety
///
/// `device` must be NULL or a valid device.
unsafe fn name_of(device: *mut qom::bindings::Object) -> String {
    if device.is_null() {
        return String::new();
    }
    // SAFETY: promised by the caller; a type's name is not NULL, and an id is NULL or
    // NUL-terminated
    unsafe {
        let kind = CStr::from_ptr(qom::bindings::object_get_typename(device)).to_string_lossy();
        let id = (*device.cast::<hwcore::bindings::DeviceState>()).id;
        if id.is_null() {
            kind.into_owned()
        } else {
            format!("{kind} '{}'", CStr::from_ptr(id).to_string_lossy())
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

/// Refuses what an accelerated SMMU cannot serve: a device for which the PCI core asks in
/// the name of `function`.
fn permit(smmu: &Smmuv3, function: PciFunction) -> Result<()> {
    let smmu = id_of(smmu);
    let masked = function.masked_endpoint();
    let Some(device) = masked.or_else(|| function.device()) else {
        return Ok(());
    };
    match device.classify() {
        Endpoint::Empty | Endpoint::Bridge => Ok(()),
        // Its transactions and those of its neighbours would have one StreamID, while the
        // host can be told of one device only by it.
        Endpoint::Assigned | Endpoint::AssignedWithoutIommufd
            if masked.is_some() || device.is_conventional() =>
        {
            Err(Error::msg(format!(
                "{} cannot be behind arm-smmuv3 '{smmu}' with accel=on through the conventional \
                 bridge {}, whose StreamID it would share: plug it into a PCI Express port",
                device.name(),
                device.bridge_name()
            )))
        }
        Endpoint::Assigned => Ok(()),
        Endpoint::Emulated if masked.is_some() => Err(Error::msg(format!(
            "emulated endpoint {} behind bridge {} cannot be behind arm-smmuv3 '{smmu}' with \
             accel=on, which serves vfio-pci devices only: plug it into another root complex",
            device.name(),
            device.bridge_name()
        ))),
        Endpoint::Emulated => Err(Error::msg(format!(
            "emulated endpoint {} cannot be behind arm-smmuv3 '{smmu}' with accel=on, which serves \
             vfio-pci devices only: plug it into another root complex",
            device.name()
        ))),
        Endpoint::AssignedWithoutIommufd => Err(Error::msg(format!(
            "{} behind arm-smmuv3 '{smmu}' with accel=on needs an iommufd backend: give it iommufd=ID",
            device.name()
        ))),
    }
}

unsafe extern "C" fn supports_address_space(
    bus: *mut bindings::PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
    errp: *mut *mut bindings::Error,
) -> bool {
    // SAFETY: the PCI core hands back the pointer that the base type registered
    let smmu = unsafe { smmu_of(opaque) };
    let result = function(bus, devfn).map_or(Ok(()), |function| permit(smmu, function));
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
    for_each_object(visit, addr_of_mut!(search).cast());
    search.found
}

/// Calls `visit` with every object of the machine, and `opaque`.
fn for_each_object(
    visit: unsafe extern "C" fn(*mut qom::bindings::Object, *mut c_void) -> c_int,
    opaque: *mut c_void,
) {
    // SAFETY: the callbacks above keep nothing; the BQL keeps the tree as it is
    unsafe {
        qom::bindings::object_child_foreach_recursive(
            qom::bindings::object_get_root(),
            Some(visit),
            opaque,
        );
    }
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
