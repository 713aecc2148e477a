// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The Big QEMU Lock (BQL), for code that may or may not have it.
//!
//! ```no_run
//! use qemu_ext::lock::BigLock;
//!
//! /// Called by a vCPU with or without the BQL.
//! fn raise_interrupt(pulse: impl FnOnce()) {
//!     let _lock = BigLock::acquire();
//!     pulse();
//! }
//! ```

use std::{ffi::c_int, marker::PhantomData};

use crate::bindings;

/// Holds the BQL, as long as the value exists.
///
/// It cannot leave its thread, and is dropped before its caller returns, so locks and unlocks
/// are nested as C expects.
#[derive(Debug)]
pub struct BigLock {
    is_acquired: bool,
    _not_send: PhantomData<*const ()>,
}

impl BigLock {
    /// Waits for the BQL, unless this thread has it.
    ///
    /// The caller holds no other lock that a thread with the BQL waits for; otherwise the two
    /// would wait for each other.
    #[inline]
    pub fn acquire() -> Self {
        let is_acquired = !bql::is_locked();
        if is_acquired {
            // SAFETY: this thread does not have the lock; the name is a constant
            unsafe {
                bindings::bql_lock_impl(c"rust/qemu-ext/src/lock.rs".as_ptr(), line!() as c_int)
            }
        }
        Self {
            is_acquired,
            _not_send: PhantomData,
        }
    }
}

impl Drop for BigLock {
    #[inline]
    fn drop(&mut self) {
        if self.is_acquired {
            // SAFETY: this thread has had the lock since `acquire`
            unsafe { bindings::bql_unlock() }
        }
    }
}
