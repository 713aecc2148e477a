// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The state of the machine: whether it is complete, runs, or is replayed.
//!
//! ```no_run
//! use std::pin::Pin;
//!
//! use qemu_ext::runstate::VmStateHandler;
//!
//! struct Device {
//!     run_state: VmStateHandler,
//! }
//!
//! impl Device {
//!     fn init(self: Pin<&mut Self>) {
//!         VmStateHandler::init(self, &Self::run_state_changed, &(), |device| {
//!             &mut device.run_state
//!         });
//!     }
//!
//!     fn realize(&self) {
//!         self.run_state.register(0);
//!     }
//!
//!     fn run_state_changed(&self, running: bool) {
//!         println!("the machine {}", if running { "starts" } else { "has stopped" });
//!     }
//! }
//! ```

use std::{
    ffi::{c_int, c_void},
    pin::Pin,
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use common::callbacks::FnCall;

use crate::{
    bindings::{self, VMChangeStateEntry},
    notify::Notifier,
};

type Function = unsafe extern "C" fn(*mut c_void, bool, bindings::RunState);

#[derive(Clone, Copy, Debug)]
struct Callback {
    function: Function,
    prepare: Option<Function>,
    owner: *mut c_void,
}

/// A handler that calls back into the value that it is a field of, whenever the machine
/// starts or stops.
#[derive(Debug, Default)]
pub struct VmStateHandler {
    callback: Option<Callback>,
    entry: AtomicPtr<VMChangeStateEntry>,
}

// SAFETY: the BQL protects the list of handlers; the owner is Sync
unsafe impl Send for VmStateHandler {}
// SAFETY: the BQL protects the list of handlers; the owner is Sync
unsafe impl Sync for VmStateHandler {}

impl VmStateHandler {
    /// Returns a handler without a callback.
    pub const fn new() -> Self {
        Self {
            callback: None,
            entry: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Makes `field` of `owner` a handler that runs `F` on the owner, with whether the
    /// machine runs, and before that `P`, unless it is `()`.
    ///
    /// QEMU runs `P` of all handlers before the first `F`. When the machine starts, VFIO lets
    /// devices run in its `P`.
    pub fn init<T, F, P>(
        owner: Pin<&mut T>,
        _callback: &F,
        _prepare: &P,
        field: impl FnOnce(&mut T) -> &mut Self,
    ) where
        T: Sync,
        F: for<'a> FnCall<(&'a T, bool)>,
        P: for<'a> FnCall<(&'a T, bool)>,
    {
        unsafe extern "C" fn call<T, F: for<'a> FnCall<(&'a T, bool)>>(
            opaque: *mut c_void,
            running: bool,
            _state: bindings::RunState,
        ) {
            // SAFETY: `opaque` is the owner of `init`, whose field unregisters the handler
            // before the owner goes
            F::call((unsafe { &*opaque.cast::<T>() }, running));
        }
        const { assert!(F::IS_SOME) };
        // SAFETY: the owner is not moved
        let owner = unsafe { Pin::into_inner_unchecked(owner) };
        let pointer: *mut T = owner;
        let prepare: Option<Function> = if P::IS_SOME { Some(call::<T, P>) } else { None };
        *field(owner) = Self {
            callback: Some(Callback {
                function: call::<T, F>,
                prepare,
                owner: pointer.cast(),
            }),
            entry: AtomicPtr::new(ptr::null_mut()),
        };
    }

    /// Registers the handler. When the machine starts, handlers run in the order of
    /// their priorities, lowest first; when it has stopped, in the opposite order.
    pub fn register(&self, priority: c_int) {
        assert!(bql::is_locked());
        let Some(Callback {
            function,
            prepare,
            owner,
        }) = self.callback
        else {
            return;
        };
        if self.entry.load(Ordering::Relaxed).is_null() {
            // SAFETY: the owner outlives the handler, because `drop` unregisters it
            let entry = unsafe {
                bindings::qemu_add_vm_change_state_handler_prio_full(
                    Some(function),
                    prepare,
                    None,
                    owner,
                    priority,
                )
            };
            self.entry.store(entry, Ordering::Relaxed);
        }
    }
}

impl Drop for VmStateHandler {
    fn drop(&mut self) {
        let entry = *self.entry.get_mut();
        if !entry.is_null() {
            // SAFETY: a registered handler, which nothing uses after this
            unsafe { bindings::qemu_del_vm_change_state_handler(entry) }
        }
    }
}

/// Has `notifier` called when the machine is complete, before the guest runs.
pub fn add_machine_init_done_notifier(notifier: &Notifier) {
    // SAFETY: the function adds the notifier to a list that the BQL protects
    unsafe { notifier.add_to_list(bindings::qemu_add_machine_init_done_notifier) }
}

/// Returns whether the machine is complete, so that the guest may have seen its devices.
pub fn is_machine_ready() -> bool {
    // SAFETY: reads a variable of the main thread
    unsafe {
        hwcore::bindings::phase_check(hwcore::bindings::MachineInitPhase::PHASE_MACHINE_READY)
    }
}

/// Returns whether the machine waits for the state of another one, or loads it (`-incoming`).
pub fn is_incoming() -> bool {
    // SAFETY: reads a variable of the main thread
    unsafe { bindings::runstate_check(bindings::RUN_STATE_INMIGRATE) }
}

/// Returns whether execution is recorded or replayed. Nothing that the guest sees may
/// depend on the host's time then.
pub fn is_replay_enabled() -> bool {
    // SAFETY: QEMU sets the variable before it makes devices, and never again
    unsafe { bindings::replay_mode != 0 }
}
