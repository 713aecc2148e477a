// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration blockers.
//!
//! ```no_run
//! use qemu_ext::blocker::MigrationBlocker;
//! use util::{Error, Result};
//!
//! fn realize() -> Result<MigrationBlocker> {
//!     MigrationBlocker::new(&Error::msg("my-device has state that cannot be migrated"))
//! }
//! ```

use foreign::prelude::*;
use util::{Error, Result};

use crate::bindings;

/// Blocks migration for as long as the value exists.
#[derive(Debug)]
pub struct MigrationBlocker(Box<*mut bindings::Error>);

// SAFETY: the BQL protects the list of blockers; nothing else looks at the value
unsafe impl Send for MigrationBlocker {}

impl MigrationBlocker {
    /// Blocks migration because of `reason`.
    ///
    /// # Errors
    ///
    /// Fails if QEMU must stay migratable (`-only-migratable`) or is migrating.
    pub fn new(reason: &Error) -> Result<Self> {
        assert!(bql::is_locked());
        let mut slot = Box::new(reason.clone_to_foreign_ptr());
        // SAFETY: the slot holds a valid Error, which the callee owns from here on, also
        // if it fails: then it frees the Error and clears the slot. The box keeps the slot
        // in its place.
        unsafe {
            Error::with_errp(|errp| bindings::migrate_add_blocker(&mut *slot, errp))?;
        }
        Ok(Self(slot))
    }
}

impl Drop for MigrationBlocker {
    fn drop(&mut self) {
        // SAFETY: migrate_add_blocker has registered the slot
        unsafe { bindings::migrate_del_blocker(&mut *self.0) }
    }
}
