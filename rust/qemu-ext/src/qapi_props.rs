// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Device properties with types that QEMU's `hwcore` crate lacks.
//!
//! ```no_run
//! use qemu_ext::qapi_props::{OnOffAuto, StringProperty};
//!
//! /// Fields of a device with `#[derive(hwcore::Device)]`, as
//! /// `#[property(rename = "fast", default = 0)] fast: OnOffAuto`.
//! fn is_fast(fast: OnOffAuto, model: &StringProperty) -> bool {
//!     let is_new = model.get().is_some_and(|model| model == c"new");
//!     fast.value().unwrap_or(is_new)
//! }
//! ```

use std::{
    ffi::{c_char, CStr},
    ptr::addr_of,
};

use hwcore::{bindings::PropertyInfo, QDevProp};

/// QAPI's `OnOffAuto`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct OnOffAuto(u32);

// SAFETY: the setter of the property writes an enumeration of C, which is a u32
unsafe impl QDevProp for OnOffAuto {
    const BASE_INFO: *const PropertyInfo = addr_of!(hwcore::bindings::qdev_prop_on_off_auto);
}

impl OnOffAuto {
    /// Returns the user's choice, or `None` for `auto`.
    pub const fn value(self) -> Option<bool> {
        // auto = 0, on = 1, off = 2
        match self.0 {
            0 => None,
            value => Some(value == 1),
        }
    }
}

/// A string. The property code of qdev owns it.
#[repr(transparent)]
#[derive(Debug)]
pub struct StringProperty(*mut c_char);

// SAFETY: written only while properties are set, before any other thread reads it
unsafe impl Send for StringProperty {}
// SAFETY: written only while properties are set, before any other thread reads it
unsafe impl Sync for StringProperty {}

// SAFETY: the setter of the property writes a pointer
unsafe impl QDevProp for StringProperty {
    const BASE_INFO: *const PropertyInfo = addr_of!(hwcore::bindings::qdev_prop_string);
}

impl StringProperty {
    /// Returns the string, if the user has given one.
    pub fn get(&self) -> Option<&CStr> {
        // SAFETY: NULL, or a string that qdev frees together with the device that `self` is
        // a field of
        (!self.0.is_null()).then(|| unsafe { CStr::from_ptr(self.0) })
    }
}
