// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The C base class of Arm's SMMUs (`hw/arm/smmu-common.c`): the record of each PCI function
//! behind one, with its memory region and its address space.
//!
//! A device that is a subclass names the type of the memory regions before it realizes the
//! base:
//!
//! ```no_run
//! use qemu_ext::arm_smmu::{ArmSmmuMethods, SmmuRegion};
//!
//! fn realize<R: SmmuRegion>(smmu: &R::Smmu) {
//!     smmu.set_region_type::<R>();
//! }
//! ```

use std::{
    ffi::{c_int, CStr},
    mem::offset_of,
    ptr::{self, addr_of},
};

use common::Opaque;
use hwcore::prelude::*;
use qom::prelude::*;
use system::prelude::*;

pub use crate::bindings::SMMUBaseClass as ArmSmmuClass;
use crate::{
    bindings,
    dma::{zeroed_leaked, AddressSpace},
    iommu::IommuMemoryRegion,
    pci::{OwnedPciFunction, PciFunction},
    pci_iommu::{Ops, PciIommuImpl},
    qdev::DeviceExt,
};

/// The abstract base type `arm-smmu`.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct ArmSmmu(Opaque<bindings::SMMUState>);

// SAFETY: the C struct is only touched under the BQL or through its own locking
unsafe impl Send for ArmSmmu {}
// SAFETY: the C struct is only touched under the BQL or through its own locking
unsafe impl Sync for ArmSmmu {}

// SAFETY: instance and class struct of "arm-smmu"
unsafe impl ObjectType for ArmSmmu {
    type Class = ArmSmmuClass;
    const TYPE_NAME: &'static CStr = c"arm-smmu";
}

qom_isa!(ArmSmmu: SysBusDevice, DeviceState, Object);

impl ArmSmmu {
    /// Returns the record of a function, and makes it if there is none yet.
    pub fn function(&self, function: PciFunction<'_>) -> &SmmuFunction {
        assert!(bql::is_locked());
        let state: *mut bindings::SMMUState = self.as_mut_ptr();
        let (bus, devfn) = (function.bus().as_mut_ptr(), function.devfn());
        // SAFETY: smmu_get_sbus returns a record with 256 slots, which lives as long as the
        // SMMU; smmu_init_sdev wants zeroed memory that stays
        unsafe {
            let sbus = bindings::smmu_get_sbus(state, bus);
            let slot = (*sbus).pbdev.as_mut_ptr().add(usize::from(devfn));
            if (*slot).is_null() {
                *slot = zeroed_leaked();
                bindings::smmu_init_sdev(state, *slot, bus, c_int::from(devfn));
            }
            &*(*slot).cast::<SmmuFunction>()
        }
    }
}

/// A type of memory regions that an SMMU's functions see memory through.
///
/// # Safety
///
/// Nothing may make an instance but the base type, which does so for an SMMU of the type `Smmu`
/// that has set the type of its regions by [`ArmSmmuMethods::set_region_type`]. Such an instance
/// is part of the record of a function, and that names the SMMU.
pub unsafe trait SmmuRegion: ObjectImpl + IsA<IommuMemoryRegion> {
    /// The type of the SMMU.
    type Smmu: IsA<ArmSmmu> + IsA<DeviceState> + IsA<Object>;

    /// Returns the function that the region belongs to.
    #[inline]
    fn function(&self) -> &SmmuFunction {
        let region: *const Self = self;
        // SAFETY: the region is the field `iommu` of the record
        unsafe {
            &*region
                .byte_sub(offset_of!(bindings::SMMUDevice, iommu))
                .cast()
        }
    }

    /// Returns the SMMU that the function is behind.
    #[inline]
    fn smmu(&self) -> &Self::Smmu {
        // SAFETY: the record's SMMU is of this type. It owns the region, so that it stays as
        // long as the region is used.
        unsafe { &*(*self.function().as_ptr()).smmu.cast::<Self::Smmu>() }
    }
}

/// Methods of SMMUs.
pub trait ArmSmmuMethods: ObjectDeref
where
    Self::Target: IsA<ArmSmmu> + IsA<DeviceState> + IsA<Object>,
{
    /// Sets the type of the memory regions of functions, before the base is realized.
    fn set_region_type<R: SmmuRegion<Smmu = Self::Target>>(&self) {
        let smmu: &Self::Target = self;
        assert!(!smmu.is_realized());
        let state: *mut bindings::SMMUState = self.as_mut_ptr::<ArmSmmu>().cast();
        // SAFETY: a valid SMMU; nothing else uses the field before it is realized
        unsafe { (*state).mrtypename = R::TYPE_NAME.as_ptr() }
    }

    /// Has the base register the operations of [`PciIommuImpl`] with the PCI core instead of its
    /// own, when it is realized.
    fn use_pci_iommu_impl(&self)
    where
        Self::Target: PciIommuImpl,
    {
        let smmu: &Self::Target = self;
        assert!(!smmu.is_realized());
        let state: *mut bindings::SMMUState = self.as_mut_ptr::<ArmSmmu>().cast();
        // SAFETY: a valid SMMU; nothing else uses the field before it is realized. The base
        // registers the operations together with itself, a `Self::Target`.
        unsafe { (*state).iommu_ops = Ops::<Self::Target>::TABLE }
    }
}

impl<R: ObjectDeref> ArmSmmuMethods for R where
    R::Target: IsA<ArmSmmu> + IsA<DeviceState> + IsA<Object>
{
}

/// The record of a PCI function behind an SMMU.
///
/// The base makes a record when a device asks for its address space, and never frees it. A
/// reference is only handed out in a call on behalf of a device that is plugged at the
/// function. It cannot be kept longer than that call: see [`Self::to_owned`].
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct SmmuFunction(Opaque<bindings::SMMUDevice>);

// SAFETY: the record does not change once it is made, but for what the memory core synchronizes
unsafe impl Send for SmmuFunction {}
// SAFETY: the record does not change once it is made, but for what the memory core synchronizes
unsafe impl Sync for SmmuFunction {}

impl SmmuFunction {
    /// Returns the function.
    #[inline]
    pub fn pci(&self) -> PciFunction<'_> {
        let record = self.as_ptr();
        // SAFETY: the bus of the device that is plugged here outlives the call
        unsafe { PciFunction::from_raw((*record).bus, (*record).devfn) }
    }

    /// Returns the memory region that the function's accesses go through.
    #[inline]
    pub fn region(&self) -> &IommuMemoryRegion {
        // SAFETY: a field of the record that is valid as long as the record
        unsafe { &*addr_of!((*self.as_ptr()).iommu).cast() }
    }

    /// Returns the address space with that region.
    pub fn address_space(&self) -> &AddressSpace {
        // SAFETY: a field of the record that is valid as long as the record
        unsafe { &*addr_of!((*self.as_ptr()).as_).cast() }
    }

    /// Returns the same record with a reference to its bus, to be kept.
    pub fn to_owned(&self) -> OwnedSmmuFunction {
        OwnedSmmuFunction {
            // SAFETY: records are never freed
            record: unsafe { &*ptr::from_ref(self) },
            function: self.pci().to_owned(),
        }
    }
}

/// The record of a PCI function behind an SMMU, whose bus the value keeps.
#[derive(Clone, Debug)]
pub struct OwnedSmmuFunction {
    record: &'static SmmuFunction,
    function: OwnedPciFunction,
}

impl PartialEq for OwnedSmmuFunction {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.record, other.record)
    }
}

impl Eq for OwnedSmmuFunction {}

impl OwnedSmmuFunction {
    /// Returns whether this is the record `function`.
    pub fn is(&self, function: &SmmuFunction) -> bool {
        ptr::eq(self.record, function)
    }

    /// Returns the function.
    pub fn pci(&self) -> PciFunction<'_> {
        self.function.borrow()
    }

    /// Returns the memory region that the function's accesses go through.
    pub fn region(&self) -> &IommuMemoryRegion {
        self.record.region()
    }
}
