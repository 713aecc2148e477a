// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Device listeners: functions that are called for every device of the machine that comes or
//! goes.
//!
//! ```no_run
//! use std::pin::Pin;
//!
//! use hwcore::prelude::*;
//! use qemu_ext::device_listener::DeviceListener;
//!
//! struct Device {
//!     others: DeviceListener,
//! }
//!
//! impl Device {
//!     fn init(self: Pin<&mut Self>) {
//!         DeviceListener::init(self, &Self::has_come, &Self::is_going, |device| {
//!             &mut device.others
//!         });
//!     }
//!
//!     fn realize(&self) {
//!         self.others.register();
//!     }
//!
//!     fn has_come(&self, _other: &DeviceState) {}
//!
//!     fn is_going(&self, _other: &DeviceState) {}
//! }
//! ```

use std::{
    ffi::c_void,
    pin::Pin,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use common::{callbacks::FnCall, Opaque};
use hwcore::{bindings, prelude::*};

/// A listener that calls back into the value that it is a field of.
#[repr(C)]
#[derive(Debug)]
pub struct DeviceListener {
    listener: Opaque<bindings::DeviceListener>,
    owner: *const c_void,
    is_registered: AtomicBool,
}

// SAFETY: the BQL protects the links; the owner is Sync
unsafe impl Send for DeviceListener {}
// SAFETY: the BQL protects the links; the owner is Sync
unsafe impl Sync for DeviceListener {}

impl Default for DeviceListener {
    fn default() -> Self {
        Self::new()
    }
}

impl DeviceListener {
    /// Returns a listener without callbacks.
    pub const fn new() -> Self {
        Self {
            // SAFETY: all-zeroes is a listener that is in no list; it is only added to one
            // after `init`, which pins it
            listener: unsafe { Opaque::zeroed() },
            owner: ptr::null(),
            is_registered: AtomicBool::new(false),
        }
    }

    /// Makes `field` of `owner` a listener. `R` runs when a device is realized, before its bus
    /// plugs it in; `U` when one is unrealized. Either may run more than once for a device.
    pub fn init<T, R, U>(
        owner: Pin<&mut T>,
        _realized: &R,
        _unrealized: &U,
        field: impl FnOnce(&mut T) -> &mut Self,
    ) where
        T: Sync,
        R: for<'a> FnCall<(&'a T, &'a DeviceState)>,
        U: for<'a> FnCall<(&'a T, &'a DeviceState)>,
    {
        unsafe extern "C" fn call<T, F>(
            listener: *mut bindings::DeviceListener,
            device: *mut bindings::DeviceState,
        ) where
            F: for<'a> FnCall<(&'a T, &'a DeviceState)>,
        {
            // SAFETY: the listener is the first field of a `DeviceListener`, whose owner was
            // that of `init`; it unregisters the listener before it goes. The device stays for
            // the call.
            unsafe {
                let owner = (*listener.cast::<DeviceListener>()).owner;
                F::call((&*owner.cast::<T>(), DeviceState::from_raw(device)));
            }
        }
        const { assert!(R::IS_SOME && U::IS_SOME) };
        // SAFETY: the owner is not moved
        let owner = unsafe { Pin::into_inner_unchecked(owner) };
        let pointer: *const T = owner;
        let this = field(owner);
        this.owner = pointer.cast();
        // SAFETY: fields of a listener that is in no list
        unsafe {
            let listener = this.listener.as_mut_ptr();
            (*listener).realize = Some(call::<T, R>);
            (*listener).unrealize = Some(call::<T, U>);
        }
    }

    /// Registers the listener, unless it is registered. QEMU calls it, and other listeners
    /// again, for every device that is there already.
    pub fn register(&self) {
        assert!(bql::is_locked());
        if self.owner.is_null() || self.is_registered.swap(true, Ordering::Relaxed) {
            return;
        }
        // SAFETY: an initialized listener, which `drop` unregisters; the BQL is held
        unsafe { bindings::device_listener_register(self.listener.as_mut_ptr()) }
    }
}

impl Drop for DeviceListener {
    fn drop(&mut self) {
        if *self.is_registered.get_mut() {
            // SAFETY: a registered listener, whose owner goes under the BQL
            unsafe { bindings::device_listener_unregister(self.listener.as_mut_ptr()) }
        }
    }
}
