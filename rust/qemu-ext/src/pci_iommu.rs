// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The operations by which the PCI core and VFIO use an IOMMU (`PCIIOMMUOps`).
//!
//! ```no_run
//! use qemu_ext::{
//!     dma::AddressSpace,
//!     pci::PciFunction,
//!     pci_iommu::{PciIommuOps, PciIommuOpsBuilder},
//! };
//!
//! struct Iommu;
//!
//! impl Iommu {
//!     fn address_space(&self, _function: PciFunction<'_>) -> &AddressSpace {
//!         AddressSpace::memory()
//!     }
//! }
//!
//! static OPS: PciIommuOps<Iommu> = PciIommuOpsBuilder::<Iommu>::new()
//!     .get_address_space(&Iommu::address_space)
//!     .build();
//! ```

use std::{
    ffi::{c_int, c_void},
    marker::PhantomData,
};

use bits::bits;
use common::{callbacks::FnCall, Zeroable};
use util::{Error, Result};

use crate::{
    bindings::{self, PCIBus, PCIIOMMUOps},
    dma::AddressSpace,
    iommufd::HostIommuDevice,
    pci::PciFunction,
};

bits! {
    /// What an IOMMU wants of VFIO (`enum viommu_flags`).
    #[derive(Default)]
    pub struct ViommuFlags(u64) {
        /// A nesting parent, so that page tables can be nested in it
        WANT_NESTING_PARENT = 1 << 0,
        /// The PASID capability for the device
        PASID_SUPPORTED = 1 << 1,
    }
}

/// The operations of an IOMMU of type `T`.
pub struct PciIommuOps<T>(PCIIOMMUOps, PhantomData<fn(&T)>);

// SAFETY: function pointers that nothing writes. C calls them with a `T` under the BQL, from
// whatever thread.
unsafe impl<T: Sync> Sync for PciIommuOps<T> {}

impl<T> PciIommuOps<T> {
    /// Returns the table in C. Its functions must be called with a pointer to a `T`.
    pub(crate) const fn as_ptr(&'static self) -> *const PCIIOMMUOps {
        &self.0
    }
}

/// Makes [`PciIommuOps`]. An operation that is not given is one that the IOMMU lacks.
pub struct PciIommuOpsBuilder<T>(PCIIOMMUOps, PhantomData<fn(&T)>);

impl<T> Default for PciIommuOpsBuilder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> PciIommuOpsBuilder<T> {
    /// Returns a builder without any operation.
    #[must_use]
    pub const fn new() -> Self {
        Self(PCIIOMMUOps::ZERO, PhantomData)
    }

    /// Sets what decides whether a device may be at a function.
    #[must_use]
    pub const fn supports_address_space<F>(mut self, _function: &F) -> Self
    where
        F: for<'a> FnCall<(&'a T, PciFunction<'a>), Result<()>>,
    {
        self.0.supports_address_space = Some(supports_address_space::<T, F>);
        self
    }

    /// Sets what returns the address space of a function. It must stay as long as the IOMMU.
    #[must_use]
    pub const fn get_address_space<F>(mut self, _function: &F) -> Self
    where
        F: for<'a> FnCall<(&'a T, PciFunction<'a>), &'a AddressSpace>,
    {
        self.0.get_address_space = Some(get_address_space::<T, F>);
        self
    }

    /// Sets what returns the IOMMU's wishes.
    #[must_use]
    pub const fn get_viommu_flags<F>(mut self, _function: &F) -> Self
    where
        F: for<'a> FnCall<(&'a T,), ViommuFlags>,
    {
        self.0.get_viommu_flags = Some(get_viommu_flags::<T, F>);
        self
    }

    /// Sets what puts a device of the host behind the IOMMU.
    #[must_use]
    pub const fn set_iommu_device<F>(mut self, _function: &F) -> Self
    where
        F: for<'a> FnCall<(&'a T, PciFunction<'a>, &'a HostIommuDevice), Result<()>>,
    {
        self.0.set_iommu_device = Some(set_iommu_device::<T, F>);
        self
    }

    /// Sets what takes a device of the host away from the IOMMU.
    #[must_use]
    pub const fn unset_iommu_device<F>(mut self, _function: &F) -> Self
    where
        F: for<'a> FnCall<(&'a T, PciFunction<'a>)>,
    {
        self.0.unset_iommu_device = Some(unset_iommu_device::<T, F>);
        self
    }

    /// Sets what returns the guest physical address that MSIs go to.
    #[must_use]
    pub const fn get_msi_direct_gpa<F>(mut self, _function: &F) -> Self
    where
        F: for<'a> FnCall<(&'a T, PciFunction<'a>), u64>,
    {
        self.0.get_msi_direct_gpa = Some(get_msi_direct_gpa::<T, F>);
        self
    }

    /// Returns the operations.
    #[must_use]
    pub const fn build(self) -> PciIommuOps<T> {
        PciIommuOps(self.0, PhantomData)
    }
}

// In the functions below:
//
// * `opaque` is what the table was registered with, which [`PciIommuOps::as_ptr`] says to be
//   a `T`. The PCI core does not call an IOMMU that is gone.
// * `bus` is a bus that stays for the call, and `devfn` is 0 to 255.

unsafe extern "C" fn supports_address_space<T, F>(
    bus: *mut PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
    errp: *mut *mut bindings::Error,
) -> bool
where
    F: for<'a> FnCall<(&'a T, PciFunction<'a>), Result<()>>,
{
    // SAFETY: see above; errp comes from the C caller
    unsafe {
        let result = F::call((&*opaque.cast::<T>(), PciFunction::from_raw(bus, devfn)));
        Error::bool_or_propagate(result, errp)
    }
}

unsafe extern "C" fn get_address_space<T, F>(
    bus: *mut PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
) -> *mut bindings::AddressSpace
where
    F: for<'a> FnCall<(&'a T, PciFunction<'a>), &'a AddressSpace>,
{
    // SAFETY: see above
    unsafe { F::call((&*opaque.cast::<T>(), PciFunction::from_raw(bus, devfn))) }.as_mut_ptr()
}

unsafe extern "C" fn get_viommu_flags<T, F>(opaque: *mut c_void) -> u64
where
    F: for<'a> FnCall<(&'a T,), ViommuFlags>,
{
    // SAFETY: see above
    unsafe { F::call((&*opaque.cast::<T>(),)) }.into()
}

unsafe extern "C" fn set_iommu_device<T, F>(
    bus: *mut PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
    device: *mut bindings::HostIOMMUDevice,
    errp: *mut *mut bindings::Error,
) -> bool
where
    F: for<'a> FnCall<(&'a T, PciFunction<'a>, &'a HostIommuDevice), Result<()>>,
{
    // SAFETY: see above; `device` is valid for the call, and errp comes from the C caller
    unsafe {
        let result = F::call((
            &*opaque.cast::<T>(),
            PciFunction::from_raw(bus, devfn),
            &*device.cast::<HostIommuDevice>(),
        ));
        Error::bool_or_propagate(result, errp)
    }
}

unsafe extern "C" fn unset_iommu_device<T, F>(bus: *mut PCIBus, opaque: *mut c_void, devfn: c_int)
where
    F: for<'a> FnCall<(&'a T, PciFunction<'a>)>,
{
    // SAFETY: see above
    unsafe { F::call((&*opaque.cast::<T>(), PciFunction::from_raw(bus, devfn))) }
}

unsafe extern "C" fn get_msi_direct_gpa<T, F>(
    bus: *mut PCIBus,
    opaque: *mut c_void,
    devfn: c_int,
) -> u64
where
    F: for<'a> FnCall<(&'a T, PciFunction<'a>), u64>,
{
    // SAFETY: see above
    unsafe { F::call((&*opaque.cast::<T>(), PciFunction::from_raw(bus, devfn))) }
}
