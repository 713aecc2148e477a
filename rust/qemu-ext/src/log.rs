// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Lines of QEMU's log that are whole.
//!
//! ```no_run
//! let offset = 4;
//! qemu_ext::log::guest_error(format_args!("my-device: no register at {offset:#x}"));
//! ```

use std::{ffi::c_uint, fmt};

use util::log::{Log, LogGuard};

/// Returns whether the user wants the guest's errors logged (`-d guest_errors`).
pub fn is_enabled() -> bool {
    // SAFETY: reads an integer that a monitor command changes as a whole
    let level = unsafe { util::bindings::qemu_loglevel };
    level & (Log::GuestError as c_uint) != 0
}

/// Logs an error of the guest, if the user has enabled that.
///
/// Writes the line at once, with its end. [`log_mask_ln`](util::log_mask_ln) writes a line
/// with arguments in pieces, and stops after the first of them, because to `LogGuard`
/// every write appears to have written nothing.
pub fn guest_error(message: fmt::Arguments<'_>) {
    if is_enabled() {
        let line = format!("{message}\n");
        // a device works without its log
        let _ = LogGuard::log_fmt(format_args!("{line}"));
    }
}
