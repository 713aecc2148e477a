// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Bottom halves, timers and handlers that call back into the device.

use std::{
    ffi::{c_int, c_void, CStr},
    ptr::addr_of_mut,
};

use crate::{bindings, device::Smmuv3, memory::zeroed_leaked};
use common::callbacks::FnCall;
use hwcore::prelude::*;
use qom::prelude::*;

/// A bottom half that calls back into the device that owns it.
#[derive(Debug)]
#[repr(transparent)]
pub struct BottomHalf(*mut util::bindings::QEMUBH);

// SAFETY: qemu_bh_schedule may be called from any thread
unsafe impl Send for BottomHalf {}
// SAFETY: as above
unsafe impl Sync for BottomHalf {}

impl BottomHalf {
    /// A bottom half in the main loop that runs `F` on `device`; `name` is for traces.
    ///
    /// It is guarded against re-entry like the device's MMIO: what it does to
    /// guest memory cannot come back as an access to the device's registers.
    pub fn new<F: for<'a> FnCall<(&'a Smmuv3,)>>(
        device: &Smmuv3,
        name: &'static CStr,
        _callback: &F,
    ) -> Self {
        unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(opaque: *mut c_void) {
            // SAFETY: the device that was passed to qemu_bh_new_full; it deletes
            // the bottom half before it goes
            F::call((unsafe { &*opaque.cast::<Smmuv3>() },))
        }
        const { assert!(F::IS_SOME) };
        let state: *mut hwcore::bindings::DeviceState = device.upcast::<DeviceState>().as_mut_ptr();
        // SAFETY: the arguments outlive the bottom half, see `drop`
        Self(unsafe {
            util::bindings::qemu_bh_new_full(
                Some(call::<F>),
                (device as *const Smmuv3).cast_mut().cast(),
                name.as_ptr(),
                addr_of_mut!((*state).mem_reentrancy_guard).cast(),
            )
        })
    }

    /// Runs the callback from the main loop, soon.
    pub fn schedule(&self) {
        // SAFETY: `self.0` is a valid bottom half
        unsafe { util::bindings::qemu_bh_schedule(self.0) }
    }
}

impl Drop for BottomHalf {
    fn drop(&mut self) {
        // SAFETY: `self.0` is a valid bottom half and is not used again
        unsafe { util::bindings::qemu_bh_delete(self.0) }
    }
}

/// The time that a timer goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The guest's: it stands still while the machine is stopped
    Virtual,
    /// The host's
    Realtime,
}

impl Clock {
    const fn kind(self) -> util::bindings::QEMUClockType {
        match self {
            Self::Virtual => util::bindings::QEMUClockType::QEMU_CLOCK_VIRTUAL,
            Self::Realtime => util::bindings::QEMUClockType::QEMU_CLOCK_REALTIME,
        }
    }
}

/// A timer that calls back into the device that owns it.
#[derive(Debug)]
pub struct Alarm {
    timer: *mut util::bindings::QEMUTimer,
    clock: Clock,
}

// SAFETY: only used under the BQL
unsafe impl Send for Alarm {}

impl Alarm {
    /// An alarm that runs `F` on `device`, from the main loop.
    pub fn new<F: for<'a> FnCall<(&'a Smmuv3,)>>(
        device: &Smmuv3,
        clock: Clock,
        _callback: &F,
    ) -> Self {
        unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(opaque: *mut c_void) {
            // SAFETY: the device that was passed to timer_init_full; it deletes
            // the timer before it goes
            F::call((unsafe { &*opaque.cast::<Smmuv3>() },));
        }
        const { assert!(F::IS_SOME) };
        // SAFETY: zeroed memory is what the callee initializes; it is freed in `drop`
        unsafe {
            let timer: *mut util::bindings::QEMUTimer = zeroed_leaked();
            util::bindings::timer_init_full(
                timer,
                std::ptr::null_mut(),
                clock.kind(),
                1,
                0,
                Some(call::<F>),
                (device as *const Smmuv3).cast_mut().cast(),
            );
            Self { timer, clock }
        }
    }

    /// Goes off in `delay` nanoseconds, or earlier if it was set already.
    pub fn set(&self, delay: u64) {
        let delay = i64::try_from(delay).unwrap_or(i64::MAX);
        // SAFETY: an initialized timer
        unsafe {
            let now = util::bindings::qemu_clock_get_ns(self.clock.kind());
            util::bindings::timer_mod_anticipate_ns(self.timer, now.saturating_add(delay));
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: an initialized timer, which is not used again
        unsafe {
            util::bindings::timer_del(self.timer);
            glib_sys::g_free(self.timer.cast());
        }
    }
}

/// Calls back into the device that owns it whenever the machine starts or stops.
#[derive(Debug)]
pub struct RunStateHandler(*mut bindings::VMChangeStateEntry);

// SAFETY: only used under the BQL
unsafe impl Send for RunStateHandler {}

impl RunStateHandler {
    /// Runs `F` on `device`, with whether the machine runs: before every other device's
    /// handler when it starts, and after them, before its state is saved, when it has
    /// stopped.
    pub fn new<F: for<'a> FnCall<(&'a Smmuv3, bool)>>(device: &Smmuv3, _callback: &F) -> Self {
        unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3, bool)>>(
            opaque: *mut c_void,
            running: bool,
            _state: bindings::RunState,
        ) {
            // SAFETY: the device that was passed on registration; it takes the handler
            // off before it goes
            F::call((unsafe { &*opaque.cast::<Smmuv3>() }, running));
        }
        const { assert!(F::IS_SOME) };
        // SAFETY: the arguments outlive the handler, see `drop`
        Self(unsafe {
            bindings::qemu_add_vm_change_state_handler_prio(
                Some(call::<F>),
                (device as *const Smmuv3).cast_mut().cast(),
                c_int::MIN,
            )
        })
    }
}

impl Drop for RunStateHandler {
    fn drop(&mut self) {
        // SAFETY: a registered handler, which is not used again
        unsafe { bindings::qemu_del_vm_change_state_handler(self.0) }
    }
}

/// A notifier that calls `F` on `device`, which must be one that stays: a realized
/// SMMU, which cannot be unplugged. It stays as well.
fn notifier<F: for<'a> FnCall<(&'a Smmuv3,)>>(
    device: &Smmuv3,
    _callback: &F,
) -> *mut util::bindings::Notifier {
    #[repr(C)]
    struct Record {
        notifier: util::bindings::Notifier,
        device: *const Smmuv3,
    }
    unsafe extern "C" fn call<F: for<'a> FnCall<(&'a Smmuv3,)>>(
        notifier: *mut util::bindings::Notifier,
        _data: *mut c_void,
    ) {
        // SAFETY: the notifier is the first field of a leaked Record, whose device
        // stays
        F::call((unsafe { &*(*notifier.cast::<Record>()).device },))
    }
    // SAFETY: all-zeroes is an unlinked notifier; the memory is leaked because
    // the list of notifiers keeps it
    unsafe {
        let record: *mut Record = zeroed_leaked();
        (*record).notifier.notify = Some(call::<F>);
        (*record).device = device;
        addr_of_mut!((*record).notifier)
    }
}

/// Calls `F` on `device` when the machine is complete.
pub fn on_machine_done<F: for<'a> FnCall<(&'a Smmuv3,)>>(device: &Smmuv3, callback: &F) {
    // SAFETY: a notifier that is in no list and stays
    unsafe { bindings::qemu_add_machine_init_done_notifier(notifier(device, callback)) }
}

extern "C" {
    /// Added to QEMU's `pci_bridge.c` by the overlay. Its header brings types with it that
    /// are bound elsewhere.
    fn pci_bridge_add_bus_number_notifier(notifier: *mut util::bindings::Notifier);
}

/// Calls `F` on `device` whenever the number of a PCI bus may have changed: the guest
/// has written it, or a bridge was reset.
pub fn on_bus_number_change<F: for<'a> FnCall<(&'a Smmuv3,)>>(device: &Smmuv3, callback: &F) {
    // SAFETY: a notifier that is in no list and stays
    unsafe { pci_bridge_add_bus_number_notifier(notifier(device, callback)) }
}
