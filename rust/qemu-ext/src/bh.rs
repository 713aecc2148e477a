// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Bottom halves: functions that the main loop runs in its next iteration.
//!
//! ```no_run
//! use std::pin::Pin;
//!
//! use hwcore::prelude::*;
//! use qemu_ext::bh::BottomHalf;
//! use qom::prelude::*;
//!
//! /// Of a device `T`, at the end of its `INSTANCE_INIT`.
//! fn init<T: IsA<DeviceState> + Sync>(
//!     device: Pin<&mut T>,
//!     field: impl FnOnce(&mut T) -> &mut BottomHalf,
//! ) {
//!     BottomHalf::init(device, c"my-device", &|_: &T| println!("in the main loop"), field);
//! }
//!
//! /// When there is something to do, in any thread.
//! fn later(bottom_half: &BottomHalf) {
//!     bottom_half.schedule();
//! }
//! ```

use std::{
    ffi::{c_void, CStr},
    pin::Pin,
    ptr::addr_of_mut,
    sync::OnceLock,
};

use common::callbacks::FnCall;
use hwcore::prelude::*;
use qom::prelude::*;

use crate::bindings::{self, MemReentrancyGuard, QEMUBH};

/// A bottom half of the main loop that calls back into the device that it is a field of.
#[derive(Debug, Default)]
pub struct BottomHalf {
    callback: Option<Callback>,
    handle: OnceLock<Handle>,
}

/// Arguments of `qemu_bh_new_full`.
#[derive(Debug)]
struct Callback {
    function: unsafe extern "C" fn(*mut c_void),
    device: *mut c_void,
    name: &'static CStr,
    guard: *mut MemReentrancyGuard,
}

// SAFETY: the pointers lead to a device that is Sync
unsafe impl Send for Callback {}
// SAFETY: the pointers lead to a device that is Sync, and nothing changes the fields
unsafe impl Sync for Callback {}

impl BottomHalf {
    /// Returns a bottom half without a callback.
    pub const fn new() -> Self {
        Self {
            callback: None,
            handle: OnceLock::new(),
        }
    }

    /// Makes `field` of `device` a bottom half that runs `F` on the device.
    ///
    /// QEMU's guard against re-entrant I/O covers the function like an access to the
    /// device's registers: while it runs, no DMA that it causes can reach them.
    ///
    /// May be called before there is a main loop, as in the `INSTANCE_INIT` of a device
    /// whose properties a user lists. `name` is shown in traces.
    pub fn init<T, F>(
        device: Pin<&mut T>,
        name: &'static CStr,
        _callback: &F,
        field: impl FnOnce(&mut T) -> &mut Self,
    ) where
        T: IsA<DeviceState> + Sync,
        F: for<'a> FnCall<(&'a T,)>,
    {
        unsafe extern "C" fn call<T, F: for<'a> FnCall<(&'a T,)>>(opaque: *mut c_void) {
            // SAFETY: `opaque` is the device of `init`, whose field deletes the bottom
            // half before the device goes
            F::call((unsafe { &*opaque.cast::<T>() },));
        }
        const { assert!(F::IS_SOME) };
        // SAFETY: the device is not moved
        let device = unsafe { Pin::into_inner_unchecked(device) };
        let pointer: *mut T = device;
        // SAFETY: by IsA, a `T` begins with a DeviceState
        let guard = unsafe {
            addr_of_mut!((*pointer.cast::<bindings::DeviceState>()).mem_reentrancy_guard)
        };
        *field(device) = Self {
            callback: Some(Callback {
                function: call::<T, F>,
                device: pointer.cast(),
                name,
                guard: guard.cast(),
            }),
            handle: OnceLock::new(),
        };
    }

    /// Schedules one run of the function in the main loop. Needs no lock.
    #[inline]
    pub fn schedule(&self) {
        let Some(callback) = &self.callback else {
            return;
        };
        let handle = self.handle.get_or_init(|| Handle::new(callback));
        // SAFETY: a bottom half that lives as long as `handle`; any thread may schedule it
        unsafe { util::bindings::qemu_bh_schedule(handle.0) }
    }
}

/// An allocated bottom half.
#[derive(Debug)]
struct Handle(*mut QEMUBH);

// SAFETY: any thread may schedule and delete a bottom half
unsafe impl Send for Handle {}
// SAFETY: any thread may schedule and delete a bottom half
unsafe impl Sync for Handle {}

impl Handle {
    #[cold]
    fn new(callback: &Callback) -> Self {
        // SAFETY: the arguments outlive the bottom half, because `drop` deletes it
        Self(unsafe {
            util::bindings::qemu_bh_new_full(
                Some(callback.function),
                callback.device,
                callback.name.as_ptr(),
                callback.guard,
            )
        })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: a bottom half that nothing uses after this. The last reference to a
        // device goes under the BQL, under which the main loop runs bottom halves, so it
        // does not run now.
        unsafe { util::bindings::qemu_bh_delete(self.0) }
    }
}
