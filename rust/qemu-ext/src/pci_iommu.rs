// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The operations by which the PCI core and VFIO use an IOMMU (`PCIIOMMUOps`).
//!
//! ```no_run
//! use qemu_ext::{dma::AddressSpace, pci::PciFunction, pci_iommu::PciIommuImpl};
//!
//! struct Iommu;
//!
//! impl PciIommuImpl for Iommu {
//!     fn address_space<'a>(&'a self, _function: PciFunction<'a>) -> &'a AddressSpace {
//!         AddressSpace::memory()
//!     }
//! }
//! ```

use std::ffi::{c_int, c_void};

use bits::bits;
use common::Zeroable;
use util::{Error, Result};

use crate::{
    bindings::{self, PCIBus, PCIIOMMUOps},
    dma::AddressSpace,
    iommufd::HostIommuDevice,
    pci::PciFunction,
};

bits! {
    /// Requirements of an IOMMU on VFIO (`enum viommu_flags`).
    #[derive(Default)]
    pub struct ViommuFlags(u64) {
        /// A nesting parent, so that page tables can be nested in it
        WANT_NESTING_PARENT = 1 << 0,
        /// The PASID capability for the device
        PASID_SUPPORTED = 1 << 1,
    }
}

/// Puts a device of the host behind an IOMMU of type `T`.
pub type SetIommuDevice<T> = fn(&T, PciFunction<'_>, &HostIommuDevice) -> Result<()>;

/// The operations of an IOMMU. One that is `None` is one that the IOMMU lacks.
pub trait PciIommuImpl: Sized + Sync + 'static {
    /// Decides whether a device may be at a function.
    const SUPPORTS_ADDRESS_SPACE: Option<fn(&Self, PciFunction<'_>) -> Result<()>> = None;
    /// Returns the IOMMU's wishes.
    const VIOMMU_FLAGS: Option<fn(&Self) -> ViommuFlags> = None;
    /// Puts a device of the host behind the IOMMU.
    const SET_IOMMU_DEVICE: Option<SetIommuDevice<Self>> = None;
    /// Takes a device of the host away from the IOMMU.
    const UNSET_IOMMU_DEVICE: Option<fn(&Self, PciFunction<'_>)> = None;
    /// Returns the guest physical address that MSIs go to.
    const MSI_DIRECT_GPA: Option<fn(&Self, PciFunction<'_>) -> u64> = None;

    /// Returns the address space of a function. It must stay as long as the IOMMU.
    fn address_space<'a>(&'a self, function: PciFunction<'a>) -> &'a AddressSpace;
}

/// The operations in C, for an IOMMU of type `T`. They must be registered with a `T`.
pub(crate) struct Ops<T>(T);

impl<T: PciIommuImpl> Ops<T> {
    pub(crate) const TABLE: &'static PCIIOMMUOps = &PCIIOMMUOps {
        supports_address_space: match T::SUPPORTS_ADDRESS_SPACE {
            None => None,
            Some(_) => Some(supports_address_space::<T>),
        },
        get_address_space: Some(get_address_space::<T>),
        get_viommu_flags: match T::VIOMMU_FLAGS {
            None => None,
            Some(_) => Some(get_viommu_flags::<T>),
        },
        set_iommu_device: match T::SET_IOMMU_DEVICE {
            None => None,
            Some(_) => Some(set_iommu_device::<T>),
        },
        unset_iommu_device: match T::UNSET_IOMMU_DEVICE {
            None => None,
            Some(_) => Some(unset_iommu_device::<T>),
        },
        get_msi_direct_gpa: match T::MSI_DIRECT_GPA {
            None => None,
            Some(_) => Some(get_msi_direct_gpa::<T>),
        },
        ..Zeroable::ZERO
    };
}

// In each function below, `opaque` is the `T` with which the table was registered: the PCI core
// does not call an IOMMU that is gone. `bus` stays for the call, and `devfn` is 0 to 255. A
// function is only in the table if the IOMMU has its operation.

unsafe extern "C" fn supports_address_space<T: PciIommuImpl>(
    bus: *mut PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
    errp: *mut *mut bindings::Error,
) -> bool {
    let supports = T::SUPPORTS_ADDRESS_SPACE.unwrap();
    // SAFETY: `opaque` is the `T` of the table, the function is valid, errp comes from C
    unsafe {
        let result = supports(&*opaque.cast::<T>(), PciFunction::from_raw(bus, devfn));
        Error::bool_or_propagate(result, errp)
    }
}

unsafe extern "C" fn get_address_space<T: PciIommuImpl>(
    bus: *mut PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
) -> *mut bindings::AddressSpace {
    // SAFETY: `opaque` is the `T` of the table, the function is valid
    let (iommu, function) = unsafe { (&*opaque.cast::<T>(), PciFunction::from_raw(bus, devfn)) };
    iommu.address_space(function).as_mut_ptr()
}

unsafe extern "C" fn get_viommu_flags<T: PciIommuImpl>(opaque: *mut c_void) -> u64 {
    // SAFETY: `opaque` is the `T` of the table
    T::VIOMMU_FLAGS.unwrap()(unsafe { &*opaque.cast::<T>() }).into()
}

unsafe extern "C" fn set_iommu_device<T: PciIommuImpl>(
    bus: *mut PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
    device: *mut bindings::HostIOMMUDevice,
    errp: *mut *mut bindings::Error,
) -> bool {
    let set = T::SET_IOMMU_DEVICE.unwrap();
    // SAFETY: `opaque` is the `T` of the table, the function is valid, as is `device` for the
    // length of the call, and errp comes from C
    unsafe {
        let function = PciFunction::from_raw(bus, devfn);
        let result = set(
            &*opaque.cast::<T>(),
            function,
            &*device.cast::<HostIommuDevice>(),
        );
        Error::bool_or_propagate(result, errp)
    }
}

unsafe extern "C" fn unset_iommu_device<T: PciIommuImpl>(
    bus: *mut PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
) {
    // SAFETY: `opaque` is the `T` of the table, the function is valid
    let (iommu, function) = unsafe { (&*opaque.cast::<T>(), PciFunction::from_raw(bus, devfn)) };
    T::UNSET_IOMMU_DEVICE.unwrap()(iommu, function);
}

unsafe extern "C" fn get_msi_direct_gpa<T: PciIommuImpl>(
    bus: *mut PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
) -> u64 {
    // SAFETY: `opaque` is the `T` of the table, the function is valid
    let (iommu, function) = unsafe { (&*opaque.cast::<T>(), PciFunction::from_raw(bus, devfn)) };
    T::MSI_DIRECT_GPA.unwrap()(iommu, function)
}
