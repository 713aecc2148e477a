// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Property types that QEMU's Rust crates lack: the C enumerations and strings
//! behind them.

use std::{
    ffi::{c_char, CStr},
    ptr::addr_of,
};

use crate::bindings;

// Properties

macro_rules! property_type {
    ($(#[$doc:meta])* $name:ident($inner:ty) = $info:ident) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name($inner);

        // SAFETY: the property's setter writes exactly a value of the inner type
        unsafe impl hwcore::QDevProp for $name {
            const BASE_INFO: *const hwcore::bindings::PropertyInfo =
                addr_of!(hwcore::bindings::$info);
        }
    };
}

property_type! {
    /// QAPI `OnOffAuto`.
    OnOffAuto(u32) = qdev_prop_on_off_auto
}
property_type! {
    /// QAPI `OasMode`: `auto`, or a number of bits.
    OasMode(u32) = qdev_prop_oas_mode
}
property_type! {
    /// QAPI `SsidSizeMode`: `auto`, or a number of bits.
    SsidSizeMode(u32) = qdev_prop_ssidsize_mode
}
property_type! {
    /// A string; NULL if not set. Owned by the property code of qdev.
    StringProperty(*mut c_char) = qdev_prop_string
}

// SAFETY: written only while properties are set, before any other thread reads it
unsafe impl Send for StringProperty {}
// SAFETY: as above
unsafe impl Sync for StringProperty {}

/// What a property with the values on, off and auto asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<T> {
    /// To be taken from the host
    Auto,
    /// Given by the user
    Given(T),
}

impl OnOffAuto {
    /// The QAPI enumeration has auto = 0, on = 1, off = 2.
    pub const fn choice(self) -> Choice<bool> {
        match self.0 {
            0 => Choice::Auto,
            value => Choice::Given(value == 1),
        }
    }
}

impl OasMode {
    /// Number of output address bits asked for; `None` stands for a size that
    /// this device does not implement.
    pub const fn choice(self) -> Option<Choice<u8>> {
        match self.0 {
            bindings::OAS_MODE_AUTO => Some(Choice::Auto),
            bindings::OAS_MODE_44 => Some(Choice::Given(44)),
            bindings::OAS_MODE_48 => Some(Choice::Given(48)),
            _ => None,
        }
    }
}

impl SsidSizeMode {
    /// Number of `SubstreamID` bits asked for, 0 to 20.
    pub const fn choice(self) -> Choice<u8> {
        match self.0 {
            bindings::SSID_SIZE_MODE_AUTO => Choice::Auto,
            #[allow(clippy::cast_possible_truncation)]
            value => Choice::Given((value - bindings::SSID_SIZE_MODE_0) as u8),
        }
    }
}

impl StringProperty {
    /// The string, if one was given.
    pub fn get(&self) -> Option<&CStr> {
        // SAFETY: NULL or a NUL-terminated string that qdev frees together with
        // the object that contains `self`
        (!self.0.is_null()).then(|| unsafe { CStr::from_ptr(self.0) })
    }
}
