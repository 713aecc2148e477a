// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The device as C sees it: the QOM types that C owns, what the device's class takes
//! from its parent's, and what C code calls.
//!
//! All unsafe code of this crate is in files of this name, one beside each part that
//! needs C interfaces which QEMU's Rust crates do not offer; only QOM's declarations
//! of the device's own types stand with those. What these files export is safe to call
//! unless it says otherwise; every `unsafe` block says why.

use std::{
    ffi::{c_uint, CStr},
    ptr::addr_of_mut,
};

use common::Opaque;
use hwcore::prelude::*;
use qom::prelude::*;
use system::prelude::*;
use util::{Error, Result};

use crate::{bindings, device::Smmuv3};

/// The C base type `arm-smmu`: bus map and memory regions of `smmu-common.c`, whose
/// walker and caches are not used.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct SmmuState(Opaque<bindings::SMMUState>);

// SAFETY: the C struct is only touched under the BQL or through its own locking
unsafe impl Send for SmmuState {}
// SAFETY: as above
unsafe impl Sync for SmmuState {}

// SAFETY: SMMUState is the instance and SMMUBaseClass the class of "arm-smmu"
unsafe impl ObjectType for SmmuState {
    type Class = bindings::SMMUBaseClass;
    const TYPE_NAME: &'static CStr = c"arm-smmu";
}

qom_isa!(SmmuState: SysBusDevice, DeviceState, Object);

/// The abstract C type of memory regions that translate.
#[repr(transparent)]
#[derive(Debug, common::Wrapper)]
pub struct IommuMemoryRegion(Opaque<system::bindings::IOMMUMemoryRegion>);

// SAFETY: the region is only used through the memory core
unsafe impl Send for IommuMemoryRegion {}
// SAFETY: as above
unsafe impl Sync for IommuMemoryRegion {}

// SAFETY: instance and class struct of "iommu-memory-region"
unsafe impl ObjectType for IommuMemoryRegion {
    type Class = system::bindings::IOMMUMemoryRegionClass;
    const TYPE_NAME: &'static CStr = c"iommu-memory-region";
}

qom_isa!(IommuMemoryRegion: MemoryRegion, Object);

/// The virtual methods of the C base that the device overrides and must call.
#[repr(C)]
pub struct ParentMethods {
    realize: bindings::DeviceRealize,
    phases: bindings::ResettablePhases,
}

impl ParentMethods {
    /// Saves the methods of the parent class. To be called before the class's
    /// own methods are filled in, which overwrites them.
    pub fn save(&mut self, class: &mut bindings::SMMUBaseClass) {
        let device_class: *mut bindings::DeviceClass =
            addr_of_mut!(class.parent_class.parent_class);
        // SAFETY: `class` begins with a DeviceClass, which implements Resettable;
        // the cast therefore returns a pointer into memory as long-lived as the class
        unsafe {
            self.realize = (*device_class).realize;
            let resettable: *mut hwcore::bindings::ResettableClass =
                qom::bindings::object_class_dynamic_cast(
                    device_class.cast(),
                    hwcore::bindings::TYPE_RESETTABLE_INTERFACE.as_ptr().cast(),
                )
                .cast();
            self.phases = (*resettable).phases;
        }
    }

    /// Realizes the C base: installs the PCI bus's IOMMU operations.
    pub fn realize(&self, device: &Smmuv3) -> Result<()> {
        let Some(realize) = self.realize else {
            return Ok(());
        };
        // SAFETY: `device` is an instance of a subclass of the class that
        // `realize` was saved from; the callee leaves `errp` untouched or valid
        unsafe {
            Error::with_errp(|errp| realize(device.upcast::<DeviceState>().as_mut_ptr(), errp))
        }
    }

    /// Runs the exit phase of the C base's reset: drops its caches.
    pub fn reset_exit(&self, device: &Smmuv3, reset_type: ResetType) {
        if let Some(exit) = self.phases.exit {
            // SAFETY: as in `realize`
            unsafe { exit(device.upcast::<Object>().as_mut_ptr(), reset_type) }
        }
    }
}

/// Name of a device in its parent: the id that its user gave it, if any.
pub fn id_of(device: &Smmuv3) -> String {
    // SAFETY: a valid object; the name is NULL or NUL-terminated, and stays while the
    // object is where it is, which the BQL sees to
    unsafe {
        let name = qom::bindings::object_get_canonical_path_component(
            device.upcast::<Object>().as_mut_ptr(),
        );
        if name.is_null() {
            String::new()
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

/// Marks a device class as creatable by users, but not hot-pluggable.
pub fn set_user_creatable(class: &mut bindings::DeviceClass) {
    class.hotpluggable = false;
    class.user_creatable = true;
}

/// Sets the description of a property, as `-device TYPE,help` shows it.
pub fn describe_property(class: &mut bindings::DeviceClass, name: &CStr, text: &CStr) {
    let class: *mut bindings::DeviceClass = class;
    // SAFETY: a DeviceClass begins with an ObjectClass; the callee copies the text
    unsafe {
        qom::bindings::object_class_property_set_description(
            class.cast(),
            name.as_ptr(),
            text.as_ptr(),
        );
    }
}

/// Does this SMMU show ATS to the guest? Called when the IORT is built.
///
/// # Safety
///
/// `smmu` must point to an instance of `arm-smmuv3`.
#[no_mangle]
pub unsafe extern "C" fn smmuv3_ats_enabled(smmu: *mut Smmuv3) -> bool {
    // SAFETY: promised by the caller
    unsafe { &*smmu }.features().ats()
}

/// Which CMDQ virtualization the SMMU has: none (`SMMUV3_CMDQV_NONE`).
#[no_mangle]
pub extern "C" fn smmuv3_accel_cmdqv_type(_object: *mut qom::bindings::Object) -> c_uint {
    0
}

/// What the user calls a device: its ID, or else its path in the tree of objects.
pub fn name_of(device: &DeviceState) -> String {
    let state: *mut hwcore::bindings::DeviceState = device.as_mut_ptr();
    // SAFETY: a valid device; its ID is NULL or a string that stays as long as the
    // device; the path is allocated for the caller
    unsafe {
        let id = (*state).id;
        if !id.is_null() {
            return CStr::from_ptr(id).to_string_lossy().into_owned();
        }
        let path = qom::bindings::object_get_canonical_path(state.cast());
        if path.is_null() {
            return "arm-smmuv3".to_owned();
        }
        let name = CStr::from_ptr(path).to_string_lossy().into_owned();
        glib_sys::g_free(path.cast());
        name
    }
}

/// Is `device` being reset? It is told at the end of that.
pub fn is_in_reset(device: &DeviceState) -> bool {
    let state: *mut hwcore::bindings::DeviceState = device.as_mut_ptr();
    // SAFETY: a valid device, which can be reset
    unsafe { hwcore::bindings::resettable_is_in_reset(state.cast()) }
}
