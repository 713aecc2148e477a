// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! State that is sent when a migration begins, before the guest's memory.
//!
//! The state of a device comes after the memory. What decides whether the destination can take the
//! guest at all is better known before: the guest still runs then, and nothing has been sent in vain.
//!
//! ```no_run
//! use migration::VMStateDescription;
//! use qemu_ext::early_state::EarlyState;
//! use qom::prelude::*;
//! use util::Result;
//!
//! /// Of a device `T` with a field for it, in its realize function.
//! fn realize<T: IsA<Object>>(
//!     device: &T,
//!     field: &EarlyState,
//!     description: &'static VMStateDescription<T>,
//! ) -> Result<()> {
//!     field.register(device, description)
//! }
//! ```

use std::{ffi::c_void, ptr, sync::OnceLock};

use migration::{bindings, VMStateDescription};
use qom::prelude::*;
use util::{ensure, Error, Result};

/// `VMSTATE_INSTANCE_ID_ANY`: QEMU numbers devices of one kind in the order of their registration.
const ANY_INSTANCE: u32 = u32::MAX;

/// State of a device that is sent early, as long as the value exists: a field of the device.
#[derive(Debug, Default)]
pub struct EarlyState(OnceLock<Registration>);

#[derive(Debug)]
struct Registration {
    device: *mut c_void,
    description: *const bindings::VMStateDescription,
}

// SAFETY: the pointers are compared with others, under the BQL, and nothing follows them
unsafe impl Send for Registration {}
// SAFETY: nothing changes them
unsafe impl Sync for Registration {}

impl EarlyState {
    /// Registers the state of `device` that `description` describes, which says `early_setup()`.
    /// `self` is a field of the device.
    ///
    /// # Errors
    ///
    /// It is registered already, or the device's path is too long.
    pub fn register<T: IsA<Object>>(
        &self,
        device: &T,
        description: &'static VMStateDescription<T>,
    ) -> Result<()> {
        assert!(bql::is_locked());
        let registration = Registration {
            device: ptr::from_ref(device).cast_mut().cast(),
            description: description.as_ref(),
        };
        let (opaque, raw) = (registration.device, registration.description);
        ensure!(
            self.0.set(registration).is_ok(),
            "the state is registered already"
        );
        // SAFETY: the device outlives the registration, which ends when its field is dropped; the
        // description is of this type, and static. Every device implements TYPE_VMSTATE_IF, whose
        // pointer is that of the object.
        unsafe {
            Error::with_errp(|errp| {
                bindings::vmstate_register_with_alias_id(
                    opaque.cast(),
                    ANY_INSTANCE,
                    raw,
                    opaque,
                    -1,
                    0,
                    errp,
                )
            })?;
        }
        Ok(())
    }
}

impl Drop for EarlyState {
    fn drop(&mut self) {
        if let Some(Registration {
            device,
            description,
        }) = self.0.get()
        {
            // SAFETY: QEMU looks for a registration with these pointers, and does not use them
            // otherwise; there is none if the registration has failed
            unsafe { bindings::vmstate_unregister(device.cast(), *description, *device) }
        }
    }
}
