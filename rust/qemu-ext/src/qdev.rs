// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Methods of its parent class that a device overrides, and the device's name.
//!
//! The class of a device that calls the methods of its parent class keeps them:
//!
//! ```no_run
//! use hwcore::prelude::*;
//! use qemu_ext::qdev::{DeviceExt, ParentMethods};
//! use qom::prelude::*;
//! use util::Result;
//!
//! /// Before the device's own methods are filled in.
//! fn class_init<T: DeviceImpl>(class: &mut T::Class) -> ParentMethods<T> {
//!     ParentMethods::of(class)
//! }
//!
//! fn realize<T: DeviceImpl + IsA<Object>>(device: &T, parent: &ParentMethods<T>) -> Result<()> {
//!     println!("{} is being realized", device.name());
//!     parent.realize(device)
//! }
//! ```

use std::{ffi::CStr, marker::PhantomData};

use hwcore::{bindings::ResettablePhases, prelude::*};
use qom::prelude::*;
use util::{Error, Result};

use crate::{
    bindings::{self, DeviceClass},
    object::{copy, ObjectExt},
};

/// The methods of a parent class in C that the class of `T` overrides.
#[repr(C)]
#[derive(Debug)]
pub struct ParentMethods<T> {
    realize: bindings::DeviceRealize,
    phases: ResettablePhases,
    _device: PhantomData<fn(&T)>,
}

/// The class of the interface that devices implement for their reset.
#[repr(transparent)]
struct ResettableClass(hwcore::bindings::ResettableClass);

// SAFETY: the class of the interface of this name
unsafe impl InterfaceType for ResettableClass {
    const TYPE_NAME: &'static CStr = c"resettable";
}

impl<T: DeviceImpl> ParentMethods<T> {
    /// Returns the methods that are in `class`: its parent's, until the methods of `T` are
    /// filled in.
    pub fn of(class: &mut T::Class) -> Self {
        let phases = ResettableClass::cast::<T>(class).0.phases;
        let device_class: *const T::Class = class;
        // SAFETY: by IsA, the class of `T` begins with a DeviceClass
        let realize = unsafe { (*device_class.cast::<DeviceClass>()).realize };
        Self {
            realize,
            phases,
            _device: PhantomData,
        }
    }

    /// Realizes the parent.
    pub fn realize(&self, device: &T) -> Result<()> {
        let Some(realize) = self.realize else {
            return Ok(());
        };
        // SAFETY: `device` is an instance of the class that `realize` was in; the callee
        // leaves errp untouched or valid
        unsafe {
            Error::with_errp(|errp| realize(device.upcast::<DeviceState>().as_mut_ptr(), errp))
        }
    }

    /// Runs the exit phase of the parent's reset.
    pub fn reset_exit(&self, device: &T, reset_type: ResetType) {
        if let Some(exit) = self.phases.exit {
            // SAFETY: `device` is an instance of the class that `exit` was in
            unsafe { exit(device.as_object().as_mut_ptr(), reset_type) }
        }
    }
}

/// Sets the description of a property, which `-device TYPE,help` shows.
pub fn describe_property(class: &mut DeviceClass, name: &CStr, description: &CStr) {
    let class: *mut DeviceClass = class;
    // SAFETY: a DeviceClass begins with an ObjectClass; the callee copies the description
    unsafe {
        qom::bindings::object_class_property_set_description(
            class.cast(),
            name.as_ptr(),
            description.as_ptr(),
        );
    }
}

/// Methods of all devices.
pub trait DeviceExt: ObjectDeref
where
    Self::Target: IsA<DeviceState> + IsA<Object>,
{
    /// Returns the ID that the user has given the device.
    fn id(&self) -> Option<String> {
        assert!(bql::is_locked());
        // SAFETY: a valid device, whose ID is NULL or a string
        unsafe { copy((*self.as_ptr::<DeviceState>().cast::<bindings::DeviceState>()).id) }
    }

    /// Returns the device's name for users: its ID, or else its path.
    fn name(&self) -> String {
        let device: &Self::Target = self;
        self.id()
            .or_else(|| device.canonical_path())
            .unwrap_or_else(|| device.typename().into_owned())
    }

    /// Returns the type of the device and its ID.
    fn type_and_id(&self) -> String {
        let device: &Self::Target = self;
        let typename = device.typename();
        match self.id() {
            Some(id) => format!("{typename} '{id}'"),
            None => typename.into_owned(),
        }
    }

    /// Returns whether the device is realized.
    fn is_realized(&self) -> bool {
        assert!(bql::is_locked());
        // SAFETY: a valid device
        unsafe { (*self.as_ptr::<DeviceState>().cast::<bindings::DeviceState>()).realized }
    }

    /// Returns whether the device is being reset.
    fn is_in_reset(&self) -> bool {
        assert!(bql::is_locked());
        // SAFETY: a valid device, and all devices can be reset
        unsafe { hwcore::bindings::resettable_is_in_reset(self.as_mut_ptr::<DeviceState>().cast()) }
    }

    /// Returns the device that makes the bus that this device is on.
    fn parent_device(&self) -> Option<Owned<DeviceState>> {
        assert!(bql::is_locked());
        // SAFETY: a valid device. Its bus and the bus's device, if there are any, are valid
        // while the BQL is held; a reference keeps the latter so.
        unsafe {
            let bus = (*self.as_ptr::<DeviceState>().cast::<bindings::DeviceState>()).parent_bus;
            let parent = bus.as_ref()?.parent;
            (!parent.is_null()).then(|| Owned::from(DeviceState::from_raw(parent)))
        }
    }
}

impl<R: ObjectDeref> DeviceExt for R where R::Target: IsA<DeviceState> + IsA<Object> {}
