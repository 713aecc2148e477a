// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration blockers, error reports, and the state of the machine.

use std::ffi::c_uint;

use foreign::prelude::*;
use util::{Error, Result};

use crate::bindings;

/// Forbids migration for as long as the value exists.
#[derive(Debug)]
pub struct MigrationBlocker(Box<*mut bindings::Error>);

// SAFETY: only used under the BQL
unsafe impl Send for MigrationBlocker {}

impl MigrationBlocker {
    /// Forbids migration because of `reason`; fails if QEMU must stay
    /// migratable (`-only-migratable`) or is migrating.
    pub fn new(reason: &Error) -> Result<Self> {
        let mut slot = Box::new(reason.clone_to_foreign_ptr());
        // SAFETY: the slot holds a valid Error, which the callee owns from here
        // (it clears the slot if it fails); the box keeps the slot in place
        unsafe {
            Error::with_errp(|errp| bindings::migrate_add_blocker(&mut *slot, errp))?;
        }
        Ok(Self(slot))
    }
}

impl Drop for MigrationBlocker {
    fn drop(&mut self) {
        // SAFETY: the slot was registered by migrate_add_blocker
        unsafe { bindings::migrate_del_blocker(&mut *self.0) }
    }
}

/// Is the machine complete, so that the guest may have looked at its devices?
pub fn machine_is_ready() -> bool {
    // SAFETY: reads a variable of the main thread
    unsafe {
        hwcore::bindings::phase_check(hwcore::bindings::MachineInitPhase::PHASE_MACHINE_READY)
    }
}

/// Reports an error on the monitor or stderr.
pub fn report(error: &Error) {
    // SAFETY: the callee frees the Error that it is given
    unsafe { util::bindings::error_report_err(error.clone_to_foreign_ptr()) }
}

/// Reports an error and ends QEMU, as a failed start does.
pub fn exit_with(error: &Error) -> ! {
    report(error);
    std::process::exit(1)
}

extern "C" {
    /// `ReplayMode` of qapi/replay.json: 0 is none. Declared in a header whose types
    /// are kept out of the bindings.
    static replay_mode: c_uint;
}

/// Is execution recorded or replayed? What the guest sees must not depend on the
/// host's time then.
pub fn is_deterministic() -> bool {
    // SAFETY: a variable that is set before devices are made, and never again
    unsafe { replay_mode != 0 }
}
