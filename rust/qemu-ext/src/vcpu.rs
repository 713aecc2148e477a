// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Threads of vCPUs.
//!
//! A stop or a reset of the machine first pauses all vCPUs (`pause_all_vcpus()`), for which it gives
//! the Big QEMU Lock (BQL) away. So a function that runs in such a thread, in an access to
//! a device or as its work, has ended when the machine has stopped. This is true of no other thread.
//!
//! ```no_run
//! use std::pin::Pin;
//!
//! use qemu_ext::vcpu::VcpuWork;
//! use qom::prelude::*;
//!
//! /// Of a device `T`, at the end of its `INSTANCE_INIT`.
//! fn init<T: IsA<Object> + Sync>(
//!     device: Pin<&mut T>,
//!     field: impl FnOnce(&mut T) -> &mut VcpuWork,
//! ) {
//!     VcpuWork::init(device, &|_: &T, is_paused: bool| println!("paused: {is_paused}"), field);
//! }
//! ```

use std::{
    cell::Cell,
    ffi::{c_int, c_void},
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
};

use common::callbacks::FnCall;
use qom::prelude::*;

use crate::bindings::{self, RunOnCpuData};

thread_local! {
    static IS_VCPU: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Returns whether this is the thread of a vCPU. To be called in an RCU read-side critical section,
/// as every access to a device is one, or with the BQL.
#[inline]
pub fn is_vcpu_thread() -> bool {
    IS_VCPU.get().unwrap_or_else(|| {
        let found = find_vcpu();
        IS_VCPU.set(Some(found));
        found
    })
}

#[cold]
fn find_vcpu() -> bool {
    current_index().is_some()
}

/// Returns the index of the vCPU of this thread, if it is a vCPU's. For callers see
/// [`is_vcpu_thread`].
pub fn current_index() -> Option<c_int> {
    (0..c_int::MAX)
        .map(|index| {
            // SAFETY: the list of vCPUs is protected by RCU
            unsafe { bindings::qemu_get_cpu(index) }
        })
        .take_while(|cpu| !cpu.is_null())
        // SAFETY: a vCPU of the list
        .position(|cpu| unsafe { bindings::qemu_cpu_is_self(cpu) })
        .and_then(|index| c_int::try_from(index).ok())
}

/// Returns whether vCPUs are executed by KVM, so that they access devices without the BQL.
pub fn is_kvm_enabled() -> bool {
    // SAFETY: QEMU sets the variable before it makes devices, and never again
    unsafe { bindings::kvm_allowed }
}

/// A function of a device that runs in a vCPU's thread, between two instructions of the guest.
#[derive(Debug, Default)]
pub struct VcpuWork {
    callback: Option<Callback>,
    /// It will run
    is_scheduled: AtomicBool,
}

#[derive(Debug)]
struct Callback {
    function: unsafe extern "C" fn(*mut bindings::CPUState, RunOnCpuData),
    device: *mut c_void,
}

// SAFETY: the pointer leads to a device that is Sync
unsafe impl Send for Callback {}
// SAFETY: the pointer leads to a device that is Sync, and nothing changes the fields
unsafe impl Sync for Callback {}

/// The device of a [`VcpuWork`], and where in it that is.
struct Argument<T> {
    device: *const T,
    field: usize,
}

impl VcpuWork {
    /// Makes `field` of `device` work that runs `F` on the device: without the BQL and with false,
    /// or with the BQL and with true if the vCPU is paused, because the machine stops or is reset.
    pub fn init<T, F>(device: Pin<&mut T>, _callback: &F, field: impl FnOnce(&mut T) -> &mut Self)
    where
        T: IsA<Object> + Sync,
        F: for<'a> FnCall<(&'a T, bool)>,
    {
        unsafe extern "C" fn call<T, F>(cpu: *mut bindings::CPUState, data: RunOnCpuData)
        where
            T: IsA<Object> + Sync,
            F: for<'a> FnCall<(&'a T, bool)>,
        {
            // SAFETY: `schedule` has made this of a `Box`, and the device is referenced there
            let (device, is_scheduled) = unsafe {
                let argument = Box::from_raw(data.host_ptr.cast::<Argument<()>>());
                let device = argument.device.cast::<T>();
                let field = argument.device.byte_add(argument.field).cast::<VcpuWork>();
                (&*device, &(*field).is_scheduled)
            };
            // before the function, which may find that there is more to do
            is_scheduled.store(false, Ordering::SeqCst);
            // SAFETY: a vCPU, which executes this with the BQL
            if unsafe { bindings::cpu_is_stopped(cpu) } {
                F::call((device, true));
            } else {
                // SAFETY: a vCPU's thread has the BQL for its work, and holds nothing under it:
                // QEMU itself gives it away for exclusive work
                unsafe { bindings::bql_unlock() }
                F::call((device, false));
                // SAFETY: it is not held
                unsafe {
                    bindings::bql_lock_impl(c"rust/qemu-ext/src/vcpu.rs".as_ptr(), line!() as c_int)
                }
            }
            // SAFETY: the reference of `schedule`, under the BQL
            unsafe { qom::bindings::object_unref(std::ptr::from_ref(device).cast_mut().cast()) }
        }
        const { assert!(F::IS_SOME) };
        // SAFETY: the device is not moved
        let device = unsafe { Pin::into_inner_unchecked(device) };
        let pointer: *mut T = device;
        *field(device) = Self {
            callback: Some(Callback {
                function: call::<T, F>,
                device: pointer.cast(),
            }),
            is_scheduled: AtomicBool::new(false),
        };
    }

    /// Schedules one run of the function by the machine's first vCPU. Returns false if it has none.
    pub fn schedule(&self) -> bool {
        self.schedule_on(0)
    }

    /// Schedules one run of the function by the vCPU `index`. Returns false if there is none.
    pub fn schedule_on(&self, index: c_int) -> bool {
        assert!(bql::is_locked());
        let Some(callback) = &self.callback else {
            return false;
        };
        // SAFETY: the list of vCPUs, under the BQL
        let cpu = unsafe { bindings::qemu_get_cpu(index) };
        if cpu.is_null() {
            return false;
        }
        if self.is_scheduled.swap(true, Ordering::SeqCst) {
            return true;
        }
        let device = callback.device.cast_const();
        let field = std::ptr::from_ref(self) as usize - device as usize;
        let argument = Box::new(Argument {
            device: device.cast::<()>(),
            field,
        });
        // SAFETY: a valid object, by `init`, which is kept until the function has run; a valid vCPU
        unsafe {
            qom::bindings::object_ref(callback.device.cast());
            bindings::async_run_on_cpu(
                cpu,
                callback.function,
                RunOnCpuData {
                    host_ptr: Box::into_raw(argument).cast(),
                },
            );
        }
        true
    }
}
