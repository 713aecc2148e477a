// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration blockers.
//!
//! ```no_run
//! use qemu_ext::blocker::{MigrationBlocker, Modes};
//! use util::{Error, Result};
//!
//! fn realize() -> Result<MigrationBlocker> {
//!     let reason = Error::msg("my-device has state that cannot be migrated");
//!     MigrationBlocker::new(&reason, Modes::ALL)
//! }
//! ```

use foreign::prelude::*;
use util::{Error, Result};

use crate::bindings;

/// A set of modes of migration (`MigMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes(u32);

impl Modes {
    /// Live update: a new QEMU takes over the files of the old one
    pub const LIVE_UPDATE: Self =
        Self((1 << bindings::MIG_MODE_CPR_TRANSFER) | (1 << bindings::MIG_MODE_CPR_EXEC));
    /// Live update, migration to another host, snapshots, and the update of the host's kernel
    /// (`cpr-reboot`)
    pub const ALL: Self = Self((1 << bindings::MIG_MODE__MAX) - 1);
}

/// Blocks migration for as long as the value exists.
#[derive(Debug)]
pub struct MigrationBlocker(Box<*mut bindings::Error>);

// SAFETY: the BQL protects the list of blockers; nothing else looks at the value
unsafe impl Send for MigrationBlocker {}

impl MigrationBlocker {
    /// Blocks `modes` of migration because of `reason`.
    ///
    /// # Errors
    ///
    /// Fails if QEMU must stay migratable (`-only-migratable`) or is migrating.
    pub fn new(reason: &Error, modes: Modes) -> Result<Self> {
        assert!(bql::is_locked());
        let mut slot = Box::new(reason.clone_to_foreign_ptr());
        // SAFETY: the slot holds a valid Error, which the callee owns from here on, also
        // if it fails: then it frees the Error and clears the slot. The box keeps the slot
        // in its place.
        unsafe {
            Error::with_errp(|errp| {
                bindings::migrate_add_blocker_modes(&mut *slot, modes.0, errp)
            })?;
        }
        Ok(Self(slot))
    }
}

impl Drop for MigrationBlocker {
    fn drop(&mut self) {
        // SAFETY: migrate_add_blocker_modes has registered the slot
        unsafe { bindings::migrate_del_blocker(&mut *self.0) }
    }
}
