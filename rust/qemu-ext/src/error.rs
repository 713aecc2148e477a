// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Errors, and warnings, that no caller is left to handle.
//!
//! ```no_run
//! qemu_ext::error::report(&util::Error::msg("my-device: the disk is full"));
//! ```

use foreign::prelude::*;
use util::Error;

/// Shows a warning on the monitor or on stderr.
pub fn warn(error: &Error) {
    // SAFETY: the callee frees the Error that it is given
    unsafe { util::bindings::warn_report_err(error.clone_to_foreign_ptr()) }
}

/// Shows an error on the monitor or on stderr.
pub fn report(error: &Error) {
    // SAFETY: the callee frees the Error that it is given
    unsafe { util::bindings::error_report_err(error.clone_to_foreign_ptr()) }
}
