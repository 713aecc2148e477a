// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Notifiers: functions in a list that a subsystem calls when something happens.
//!
//! ```no_run
//! use std::pin::Pin;
//!
//! use qemu_ext::{notify::Notifier, runstate::add_machine_init_done_notifier};
//!
//! struct Device {
//!     machine_done: Notifier,
//! }
//!
//! impl Device {
//!     fn init(self: Pin<&mut Self>) {
//!         Notifier::init(self, &Self::machine_done, |device| &mut device.machine_done);
//!     }
//!
//!     fn machine_done(&self) {}
//!
//!     fn realize(&self) {
//!         add_machine_init_done_notifier(&self.machine_done);
//!     }
//! }
//! ```

use std::{
    ffi::c_void,
    pin::Pin,
    ptr::{self, addr_of},
};

use common::{callbacks::FnCall, Opaque};

use crate::bindings;

/// A notifier that calls back into the value that it is a field of.
#[repr(C)]
#[derive(Debug)]
pub struct Notifier {
    notifier: Opaque<bindings::Notifier>,
    owner: *const c_void,
}

// SAFETY: the BQL protects the links; the owner is Sync
unsafe impl Send for Notifier {}
// SAFETY: the BQL protects the links; the owner is Sync
unsafe impl Sync for Notifier {}

impl Default for Notifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Notifier {
    /// Returns a notifier without a callback.
    pub const fn new() -> Self {
        Self {
            // SAFETY: all-zeroes is a notifier that is in no list; it is only added to
            // one after `init`, which pins it
            notifier: unsafe { Opaque::zeroed() },
            owner: ptr::null(),
        }
    }

    /// Makes `field` of `owner` a notifier that runs `F` on the owner.
    pub fn init<T, F>(owner: Pin<&mut T>, _callback: &F, field: impl FnOnce(&mut T) -> &mut Self)
    where
        T: Sync,
        F: for<'a> FnCall<(&'a T,)>,
    {
        unsafe extern "C" fn call<T, F: for<'a> FnCall<(&'a T,)>>(
            notifier: *mut bindings::Notifier,
            _data: *mut c_void,
        ) {
            // SAFETY: the notifier is the first field of a `Notifier`, whose owner was
            // that of `init`; it takes the notifier off its list before it goes
            F::call((unsafe { &*(*notifier.cast::<Notifier>()).owner.cast::<T>() },));
        }
        const { assert!(F::IS_SOME) };
        // SAFETY: the owner is not moved
        let owner = unsafe { Pin::into_inner_unchecked(owner) };
        let pointer: *const T = owner;
        let this = field(owner);
        this.owner = pointer.cast();
        // SAFETY: a field of a notifier that is in no list
        unsafe { (*this.notifier.as_mut_ptr()).notify = Some(call::<T, F>) }
    }

    /// Adds the notifier to a list by means of `add`, unless it is in one.
    ///
    /// # Safety
    ///
    /// `add` must add its argument to a list of notifiers, which the BQL protects.
    pub(crate) unsafe fn add_to_list(&self, add: unsafe extern "C" fn(*mut bindings::Notifier)) {
        assert!(bql::is_locked());
        let notifier = self.notifier.as_mut_ptr();
        // SAFETY: initialized or all-zeroes; the BQL is held
        let can_be_added =
            unsafe { (*notifier).notify.is_some() && (*notifier).node.le_prev.is_null() };
        if can_be_added {
            // SAFETY: promised by the caller; `drop` takes the notifier off the list
            unsafe { add(notifier) }
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        let notifier = self.notifier.as_mut_ptr();
        // SAFETY: initialized or all-zeroes. If it is in a list, its owner goes under the
        // BQL. The callee unlinks a notifier of any list.
        unsafe {
            if !addr_of!((*notifier).node.le_prev).read().is_null() {
                bindings::qemu_remove_machine_init_done_notifier(notifier);
            }
        }
    }
}
