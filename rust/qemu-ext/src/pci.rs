// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! PCI buses, the functions on them, and the devices that are plugged there.
//!
//! ```no_run
//! use qemu_ext::{pci::PciFunction, qdev::DeviceExt};
//!
//! fn describe(function: PciFunction<'_>) -> String {
//!     let name = function.device().map(|device| device.type_and_id());
//!     format!("{:#06x}: {name:?}", function.requester_id())
//! }
//! ```

use std::{
    ffi::{c_int, c_void, CStr},
    ptr::{self, addr_of_mut},
};

use common::Opaque;
use hwcore::prelude::*;
use qom::prelude::*;

use crate::{bindings, dma::AddressSpace, notify::Notifier};

/// A PCI bus.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct PciBus(Opaque<bindings::PCIBus>);

// SAFETY: the BQL protects it
unsafe impl Send for PciBus {}
// SAFETY: the BQL protects it
unsafe impl Sync for PciBus {}

// SAFETY: instance struct of "PCI"; nothing looks into the class
unsafe impl ObjectType for PciBus {
    type Class = qom::ObjectClass;
    const TYPE_NAME: &'static CStr = c"PCI";
}

qom_isa!(PciBus: Object);

impl PciBus {
    /// Returns the number that the guest has given the bus.
    #[inline]
    pub fn number(&self) -> u8 {
        // SAFETY: a valid bus. Its number is read from the registers of its bridge, which the
        // guest may be writing.
        let number = unsafe { bindings::pci_bus_num(self.as_mut_ptr()) };
        // a number of PCI has 8 bits
        number as u8
    }

    /// Returns whether the bus is one of PCI Express.
    pub fn is_express(&self) -> bool {
        // SAFETY: a valid bus, whose flags are set when it is made
        unsafe { bindings::pci_bus_is_express(self.as_mut_ptr()) }
    }

    /// Calls `function` with every device on the bus.
    pub fn for_each_device<F: FnMut(&PciDevice)>(&self, mut function: F) {
        unsafe extern "C" fn call<F: FnMut(&PciDevice)>(
            _bus: *mut bindings::PCIBus,
            device: *mut bindings::PCIDevice,
            opaque: *mut c_void,
        ) {
            // SAFETY: a device on the bus, and the function below
            unsafe { (*opaque.cast::<F>())(&*device.cast::<PciDevice>()) }
        }
        assert!(bql::is_locked());
        // SAFETY: the callee keeps nothing; the BQL keeps the devices where they are
        unsafe {
            bindings::pci_for_each_device_under_bus(
                self.as_mut_ptr(),
                Some(call::<F>),
                addr_of_mut!(function).cast(),
            );
        }
    }
}

/// A place for a device on a PCI bus.
#[derive(Clone, Copy, Debug)]
pub struct PciFunction<'a> {
    bus: &'a PciBus,
    devfn: u8,
}

impl PartialEq for PciFunction<'_> {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.bus, other.bus) && self.devfn == other.devfn
    }
}

impl Eq for PciFunction<'_> {}

impl<'a> PciFunction<'a> {
    /// Returns the function that C names.
    ///
    /// # Safety
    ///
    /// `bus` must be a bus that stays for `'a`; `devfn` must be 0 to 255.
    #[inline]
    pub(crate) unsafe fn from_raw(bus: *mut bindings::PCIBus, devfn: c_int) -> Self {
        Self {
            // SAFETY: promised by the caller
            bus: unsafe { &*bus.cast::<PciBus>() },
            devfn: devfn as u8,
        }
    }

    /// Returns the bus.
    pub const fn bus(self) -> &'a PciBus {
        self.bus
    }

    /// Returns device and function number in one byte.
    pub const fn devfn(self) -> u8 {
        self.devfn
    }

    /// Returns the requester ID by the guest's present bus numbers: bus, device and function
    /// number.
    #[inline]
    pub fn requester_id(self) -> u16 {
        u16::from_be_bytes([self.bus.number(), self.devfn])
    }

    /// Returns device and function number, as the property `addr` has them.
    pub fn slot_and_function(self) -> String {
        format!("{:x}.{:x}", self.devfn >> 3, self.devfn & 7)
    }

    /// Returns the device that is plugged here.
    pub fn device(self) -> Option<Owned<PciDevice>> {
        assert!(bql::is_locked());
        let bus = self.bus.as_mut_ptr();
        // SAFETY: a valid bus; a device that is there stays while the BQL is held, and a
        // reference keeps it longer
        unsafe {
            let device = bindings::pci_find_device(bus, bindings::pci_bus_num(bus), self.devfn);
            (!device.is_null()).then(|| Owned::from(PciDevice::from_raw(device)))
        }
    }

    /// Returns the same function with a reference to its bus, to be kept.
    pub fn to_owned(self) -> OwnedPciFunction {
        OwnedPciFunction {
            // SAFETY: a bus that is valid now; a reference keeps it so
            bus: unsafe { Owned::from(self.bus) },
            devfn: self.devfn,
        }
    }
}

/// A place for a device on a PCI bus, which the value keeps.
#[derive(Clone, Debug)]
pub struct OwnedPciFunction {
    bus: Owned<PciBus>,
    devfn: u8,
}

impl OwnedPciFunction {
    /// Returns the same function without a reference of its own.
    pub fn borrow(&self) -> PciFunction<'_> {
        PciFunction {
            bus: &self.bus,
            devfn: self.devfn,
        }
    }
}

/// A PCI device.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct PciDevice(Opaque<bindings::PCIDevice>);

// SAFETY: the BQL protects it
unsafe impl Send for PciDevice {}
// SAFETY: the BQL protects it
unsafe impl Sync for PciDevice {}

// SAFETY: instance struct of "pci-device"; of its class only what a DeviceClass has is used
unsafe impl ObjectType for PciDevice {
    type Class = bindings::DeviceClass;
    const TYPE_NAME: &'static CStr = c"pci-device";
}

qom_isa!(PciDevice: DeviceState, Object);

impl PciDevice {
    /// Returns a reference that keeps the device.
    pub fn to_owned(&self) -> Owned<Self> {
        // SAFETY: a valid object
        unsafe { Owned::from(self) }
    }

    /// Returns the bus that the device is plugged into, if it is.
    pub fn bus(&self) -> Option<&PciBus> {
        assert!(bql::is_locked());
        // SAFETY: a valid device; its bus is a PCI bus that outlives the devices on it
        unsafe {
            let bus = (*self.as_ptr()).qdev.parent_bus;
            bus.cast::<PciBus>().as_ref()
        }
    }

    /// Returns the function whose requester ID the device's transactions carry. Behind a
    /// conventional bridge, that is another one than the device's.
    pub fn requester(&self) -> Option<PciFunction<'_>> {
        self.bus()?;
        let (mut iommu_bus, mut bus, mut devfn) = (ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: a device on a bus; the callee sets what the pointers lead to, to a bus above
        // the device, which outlives it
        unsafe {
            bindings::pci_device_get_iommu_bus_devfn(
                self.as_mut_ptr(),
                &mut iommu_bus,
                &mut bus,
                &mut devfn,
            );
            (!bus.is_null()).then(|| PciFunction::from_raw(bus, devfn))
        }
    }

    /// Returns the address space that the device's DMA goes to, as its IOMMU has it. A
    /// device has none before it has its place on a bus.
    pub fn iommu_address_space(&self) -> Option<&AddressSpace> {
        // SAFETY: a valid device; the property `addr` is -1 until the device has a place
        let devfn = unsafe { (*self.as_ptr()).devfn };
        if self.bus().is_none() || devfn < 0 {
            return None;
        }
        // SAFETY: a device with a place may ask at any time; the address space stays as long as
        // the device
        unsafe { Some(&*bindings::pci_device_iommu_address_space(self.as_mut_ptr()).cast()) }
    }
}

/// Has `notifier` called whenever the number of a PCI bus may have changed: the guest has
/// written it, or a bridge was reset.
pub fn add_bus_number_notifier(notifier: &Notifier) {
    // SAFETY: the function adds the notifier to a list that the BQL protects
    unsafe { notifier.add_to_list(bindings::pci_bridge_add_bus_number_notifier) }
}
