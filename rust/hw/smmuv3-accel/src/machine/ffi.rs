// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration blockers, error reports, and the state of the machine.

use std::ffi::c_uint;

use foreign::prelude::*;
use util::{
    log::{Log, LogGuard},
    Error, Result,
};

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

/// Logs a line about what the guest has done wrong, if that is wanted (`-d guest_errors`).
///
/// It is written in one piece, with its end: to QEMU's `LogGuard` every write looks as
/// if it had written nothing, so that it stops after the first, and
/// [`log_mask_ln`](util::log_mask_ln) needs several for a line with arguments.
pub fn log_guest_error(message: std::fmt::Arguments<'_>) {
    // SAFETY: reads an integer that a monitor command may change under the BQL
    let wanted = unsafe { util::bindings::qemu_loglevel } & (Log::GuestError as c_uint);
    if wanted != 0 {
        let line = format!("{message}\n");
        // a line that is lost is no reason to fail
        let _ = LogGuard::log_fmt(format_args!("{line}"));
    }
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
